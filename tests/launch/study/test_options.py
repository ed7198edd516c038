"""Options that studies leave beside their runs, and that a root from elsewhere may bring."""

import pytest

from hydra_plugins.atomsweep.sweep_files import _check_options


@pytest.mark.parametrize(
    "text",
    [
        "# @package _global_\nhydra: {callbacks: {x: {_target_: os.system}}}\n",
        "# @package hydra.callbacks\nx: {_target_: os.system}\n",
        "# @package _global_\ndefaults:\n- override hydra/launcher: theirs\n",
        "# @package _global_\ndefaults:\n- {override /hydra/sweeper: theirs}\n",
        "# @package _global_\nhydra.run.dir: /tmp\n",
        # what other readers of YAML refuse and Hydra's does not
        "# @package _global_\n%YAML 1.3\n---\nhydra: {run: {dir: /tmp}}\n",
        "# @package _global_\nhydra: {run: {dir: /tmp}}\nnote: 2026-13-45\n",
        "# @package _global_\nhydra: {run: {dir: /tmp}}\n"
        f"note: {{a: &a [{', '.join('1' * 400)}], b: [{', '.join(['*a'] * 400)}]}}\n",
    ],
)
def test_an_option_that_sets_something_of_hydra_is_refused(tmp_path, text):
    (tmp_path / "x_best.yaml").write_text(text)
    with pytest.raises(SystemExit, match="must set nothing of Hydra's"):
        _check_options(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "# @package _global_\n# Best of hydrates/hydra\ndata: {path: hydra/hydrates.extxyz}\n",
        "# @package _global_\ndefaults:\n- {override /data: hydrates}\n- _self_\n",
        "damaged: [",
    ],
)
def test_words_that_only_sound_alike_are_let_be(tmp_path, text):
    (tmp_path / "x_best.yaml").write_text(text)
    _check_options(tmp_path)
