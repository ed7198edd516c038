"""A store with every fault: each is named in the report's own section, and --strict sees it."""

import json
import shutil

import pytest

from atomsweep.cli.report import main
from atomsweep.tracking import schema


def change(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.usefixtures("undrawn")
def test_every_fault_is_on_the_page_and_the_rest_is_reported(table5, tmp_path, capsys):
    paths = {i: next(table5.path.glob(f"*-00000000000{i}")) for i in range(4)}
    change(paths[0] / schema.RUN, schema_version=99)  # of an unknown version
    (table5.path / "half-000000000009").mkdir()  # half-written
    (table5.path / "half-000000000009" / schema.STATUS).write_text("{}")
    (paths[1] / schema.CHECKPOINTS / "best.pt").unlink()  # deleted artifacts
    (paths[1] / schema.JOURNAL).unlink()
    change(paths[1] / schema.RESULT, predictions=["val_id", "val_ood_ads"])
    (paths[1] / schema.PREDICTIONS).mkdir(exist_ok=True)
    (paths[1] / schema.PREDICTIONS / "val_id.npz").write_bytes(b"PK\x03\x04 and no more")
    with (paths[2] / schema.JOURNAL).open("a") as journal:
        journal.write('{"step": 3, "val_id\n')  # a damaged line
    twin = table5.path / "twin-000000000002"  # two results of one identity
    shutil.copytree(paths[2], twin)
    result = json.loads((twin / schema.RESULT).read_text())
    result["metrics"]["val_id/forces_mae"] = 0.0777
    (twin / schema.RESULT).write_text(json.dumps(result))
    result = json.loads((paths[3] / schema.RESULT).read_text())
    del result["metrics"]["val_ood_cat/forces_mae"]  # a metric missing for a split
    (paths[3] / schema.RESULT).write_text(json.dumps(result))
    (table5.path / schema.PLANS / "bad.json").write_text("{")

    words = ["report", "basis_act-1a2b3c", "--root", str(table5.path), "--out", str(tmp_path)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    section = page[page.index('id="problems"') :]
    for told in (
        "has schema version 99, known is 1",
        "half-000000000009 is half-written",
        "has lost its checkpoint: checkpoints/best.pt is gone",
        "has lost its journal: metrics.jsonl is gone, so it has no curve",
        "has lost predictions: predictions/val_ood_ads.npz is gone",
        "predictions/val_id.npz cannot be read",
        "1 damaged line of its metrics.jsonl is left out",
        "twin-000000000002 (0.0777)",
        "(0.0504)",
        "are one run (000000000002) with different results, such as val_id/forces_mae",
        "is finished without a number for val_ood_cat/forces_mae",
        "the plan of sweep bad cannot be read",
    ):
        assert told in section, told
        assert told in printed, told
    assert str(table5.path) not in section[: section.index("</section>")]  # runs by their names
    assert "missing, its run directory cannot be read, see the problems" in printed
    assert main([*words, "--strict"]) == 1


@pytest.mark.usefixtures("undrawn")
def test_many_lost_checkpoints_are_told_once(table5, tmp_path, capsys):
    for path in table5.path.glob(f"*/{schema.CHECKPOINTS}"):
        shutil.rmtree(path)
    main(["report", "latest", "--root", str(table5.path), "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert printed.count("has lost its checkpoint") == 3
    assert "2 more finished runs have lost their checkpoint" in printed
