"""A store with every fault: each is named in the report's own section, and --strict sees it."""

import json
import shutil

from analysis.__main__ import main
from atomsweep.tracking import schema


def change(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_every_fault_is_on_the_page_and_the_rest_is_reported(table5, tmp_path, capsys):
    paths = {i: next(table5.path.glob(f"*-00000000000{i}")) for i in range(4)}
    change(paths[0] / schema.RUN, schema_version=99)  # of an unknown version
    (table5.path / "half-000000000009").mkdir()  # half-written
    (table5.path / "half-000000000009" / schema.STATUS).write_text("{}")
    (paths[1] / schema.CHECKPOINTS / "best.pt").unlink()  # a deleted artifact
    twin = table5.path / "twin-000000000002"  # two results of one identity
    shutil.copytree(paths[2], twin)
    result = json.loads((twin / schema.RESULT).read_text())
    result["metrics"]["val_id/forces_mae"] = 0.0777
    (twin / schema.RESULT).write_text(json.dumps(result))
    result = json.loads((paths[3] / schema.RESULT).read_text())
    del result["metrics"]["val_ood_cat/forces_mae"]  # a metric missing for a split
    (paths[3] / schema.RESULT).write_text(json.dumps(result))
    (table5.path / schema.SWEEPS / "bad.json").write_text("{")

    words = ["report", "basis_act-1a2b3c", "--root", str(table5.path), "--out", str(tmp_path)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    section = page[page.index('id="problems"') :]
    for told in (
        "has schema version 99, known is 1",
        "half-000000000009 is half-written",
        "has lost its checkpoint: checkpoints/best.pt is gone",
        "twin-000000000002 (0.0777)",
        "(0.0504)",
        "are one run (000000000002) with different results, such as val_id/forces_mae",
        "is finished without a number for val_ood_cat/forces_mae",
        "the plan of sweep bad cannot be read",
    ):
        assert told in section, told
        assert told in printed, told
    assert main([*words, "--strict"]) == 1


def test_many_lost_checkpoints_are_told_once(table5, tmp_path, capsys):
    for path in table5.path.glob(f"*/{schema.CHECKPOINTS}"):
        shutil.rmtree(path)
    main(["report", "latest", "--root", str(table5.path), "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert printed.count("has lost its checkpoint") == 3
    assert "2 more finished runs have lost their checkpoint" in printed
