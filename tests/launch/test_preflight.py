"""What cells have in common is built once before training, and what differs is checked."""

from collections import Counter

import pytest

from atomsweep.build import UserError
from atomsweep.launch import preflight as module
from atomsweep.launch.compose import composed_cells
from atomsweep.launch.preflight import check_all

SMALL = ["data=mini_oc_tiny", "model.hidden_channels=8", "model.num_layers=1"]


@pytest.fixture(scope="module")
def cell():
    return composed_cells()


@pytest.fixture
def built(monkeypatch):
    """What is built, counted; calls are made in this process."""
    counts: Counter[str] = Counter()
    build, build_learner = module.build, module.build_learner

    def part(config, name):
        counts[name] += 1
        return build(config, name)

    def learner(config):
        counts["learner"] += 1
        return build_learner(config)

    def here(context, function, arguments):
        counts["calls"] += len(arguments)
        return (function(*each) for each in arguments)

    monkeypatch.setattr(module, "build", part)
    monkeypatch.setattr(module, "build_learner", learner)
    monkeypatch.setattr(module, "_elsewhere", here)
    module._kept_part.cache_clear()
    module._kept_learner.cache_clear()
    yield counts
    module._kept_part.cache_clear()
    module._kept_learner.cache_clear()


def test_a_model_is_built_once_for_all_rates_and_seeds(cell, built):
    cells = [
        cell([*SMALL, f"seed={seed}", f"optim.optimizer.lr={rate}"])
        for rate in (1e-3, 2e-3, 3e-3)
        for seed in range(5)
    ]
    sizes = check_all(cells, None, here=False)
    assert built == {
        "calls": 3,
        "learner": 1,
        "optim": 3,
        "engine": 1,
        "data": 1,
        "augmentation": 1,
    }
    assert len(sizes) == 15
    assert len(set(sizes.values())) == 1


def test_models_that_differ_are_built_each_and_counted_each(cell, built):
    cells = [
        cell([*SMALL, f"model.decoder_channels={width}", f"engine.steps={steps}"])
        for width in (8, 16)
        for steps in (10, 20)
    ]
    sizes = check_all(cells, None, here=False)
    assert (built["learner"], built["engine"]) == (2, 2)
    one, two, three, four = (sizes[each.identity] for each in cells)
    assert one == two < three == four


def test_a_cell_that_cannot_be_built_is_named_though_others_share_its_model(cell, built):
    words = [*SMALL, "seed=1", "optim.batch_size=nothing"]
    with pytest.raises(
        UserError, match=r"seed=1 optim\.batch_size=nothing: optim\.batch_size must"
    ):
        check_all([cell([*SMALL, "seed=0"]), cell(words)], None, here=False)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["engine.batch_edges=900", "optim.accumulate=2"], "both cut a step into micro-batches"),
        (["engine.compile=max"], "engine.compile=max records CUDA graphs"),
    ],
)
def test_a_step_that_cannot_be_packed_or_compiled_is_refused(cell, built, words, why):
    with pytest.raises(UserError, match=why):
        check_all([cell([*SMALL, "optim.batch_size=8", *words])], None, here=False)
