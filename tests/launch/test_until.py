"""`until=decided` on a toy: which seeds are given, when it ends, how it goes on after a kill."""

import random
import shutil
from dataclasses import replace

import pytest

from atomsweep.build import UserError
from atomsweep.launch.further import Further
from atomsweep.launch.outcome import Outcome
from atomsweep.launch.plan import Cell, Plan, plan_path
from atomsweep.launch.until import Until
from atomsweep.report.pages import report
from atomsweep.report.read.directories import read_directories
from atomsweep.sweep.file import SweepFile
from atomsweep.sweep.grid import grid
from atomsweep.sweep.looks import Look, Looks, Question, told
from atomsweep.tracking import schema
from atomsweep.tracking.files import read_json

MEANS = {"a": 0.10, "b": 0.12, "c": 0.1201, "d": 0.5}
SECONDS = {"a": 10.0, "b": 10.0, "c": 100.0, "d": 10.0}


def statement(**changes):
    content = {
        "title": "A toy",
        "rows": {"kind": ["a", "b", "c", "d"]},
        "seeds": {"first": 3, "most": 12},
        "metrics": ["val_id/forces_mae"],
        "claims": ["kind=a < kind=d", "kind=a < kind=b", "kind=b < kind=c"],
    }
    return SweepFile.model_validate(content | changes)


def cell(overrides):
    typed = dict(o.split("=") for o in overrides)
    config = {"kind": typed["kind"], "seed": int(typed["seed"])}
    return Cell(config, {"kind": typed["kind"]}, overrides, {"name": "toy", "fingerprint": "f0"})


def another(base, seed):
    return cell([f"seed={seed}" if o.startswith("seed=") else o for o in base.overrides])


def look(root, sweep):
    return report.look(read_directories(root), sweep)


def error(config, spread=0.008):
    dice = random.Random(f"{config['kind']} {config['seed']}")
    return MEANS[config["kind"]] + dice.gauss(0, spread)


def finish(run, error=error):
    config = run.config()
    run.start_segment(device="cpu")
    metrics = {"val_id/forces_mae": error(config)}
    seconds = SECONDS[config["kind"]]
    run.finish({"metrics": metrics, "device_seconds": seconds, "eval_seconds": 0.0})


class Toy:
    """A launch in this process: an executor that ends one run after another."""

    def __init__(self, root, wanted=None, room=2, hours=None, rerun="failed", words=(), typed=None):
        self.root, self.wanted = root, wanted or statement()
        asked = grid(typed or {}, self.wanted, "toy")
        until = Until.of(asked, hours, another, look)
        cells = [cell([*o, *words]) for o, _ in asked.cells]
        plan = Plan.of(cells, asked, ["run.py"], root)
        self.further = Further(until, plan, root, {}, {}, rerun)
        self.further.room = room
        self.runs = [one.create(root, "toy", "run.py") for one in plan.cells]
        self.order = []

    def drive(self, after=None, fails=()):
        """Until nothing is left; `after` so many further seeds the process is gone."""
        waiting = [run for run in self.runs if run.result is None]
        self.further._busy = {run.path for run in waiting}
        ended = {}
        while True:
            waiting += self.further(ended)
            if not waiting:
                break
            run = waiting.pop(0)
            name = (run.config()["kind"], run.config()["seed"])
            if name[1] in self.further.until.later:
                self.order.append(name)
                if after is not None and len(self.order) > after:
                    return self
            if name in fails:
                run.fail("broken")
                ended = {run.path: Outcome(schema.FAILED, "broken")}
                continue
            finish(run)
            ended = {run.path: Outcome(schema.FINISHED)}
        self.further.look()
        return self

    @property
    def claims(self):
        return read_json(plan_path(self.root, self.further.plan.sweep))[schema.CLAIMS]

    @property
    def given(self):
        return {kind: sorted(s for k, s in self.order if k == kind) for kind in MEANS}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A launch that nothing disturbed. Shared: leave it as it is."""
    return Toy(tmp_path_factory.mktemp("whole")).drive()


def test_only_cells_of_undecided_claims_get_seeds_both_sides_paired(whole):
    toy = whole
    verdicts = {one["claim"]: one["verdict"] for one in toy.claims["settled"]}
    assert verdicts == {"kind=a < kind=d": "holds", "kind=a < kind=b": "holds"}
    assert toy.given["d"] == []  # three seeds decide that, and nothing else asks for it
    assert toy.given["b"] == toy.given["c"] == [3, 4, 5]  # hopeless, as six seeds tell
    assert toy.given["a"] == [3]  # decided then
    (open_,) = toy.claims["open"]
    assert (open_["claim"], open_["comparison"]) == ("kind=b < kind=c", "b and c")
    assert (open_["why"], open_["waits"]) == ("unlikely to be decided by 12 seeds", "")


def test_what_is_within_reach_gets_every_seed_that_there_may_be(tmp_path):
    near = statement(claims=["kind=a < kind=b"], seeds={"first": 3, "most": 6})
    toy = Toy(tmp_path, near)
    toy.further.until = replace(toy.further.until, look=within_reach)
    toy.drive()
    assert toy.given["a"] == toy.given["b"] == [3, 4, 5]
    assert toy.claims["open"][0]["why"] == "all 6 seeds are trained"


def within_reach(root, sweep):
    """Whatever the runs say, ten seeds more would decide."""
    found = look(root, sweep)
    asked = read_directories(root).sweep(sweep)
    sides = [frozenset(asked[asked["config.kind"] == kind]["identity"]) for kind in "ab"]
    seeds = int((asked["state"] == schema.FINISHED).sum()) // 4
    return replace(
        found, settled=[], open=[Question("kind=a < kind=b", "a and b", *sides, seeds, 10, 6)]
    )


@pytest.mark.parametrize(("fails_alone", "given"), [(False, []), (True, [*range(3, 12)])])
def test_a_claim_that_cannot_hold_any_more_gets_seeds_where_it_may_fail(
    fails_alone, given, tmp_path
):
    """Of `b < every other`, c is too near to b ever to be told apart."""

    def stuck(root, sweep):
        asked = read_directories(root).sweep(sweep)
        a, b, c = (
            frozenset(asked[asked["config.kind"] == kind]["identity"]) for kind in ("a", "b", "c")
        )
        hopeless = Question("kind=b < every other", "b and c", b, c, 3, 900, 900)
        near = Question("kind=b < every other", "b and a", b, a, 3, 1, 4, fails_alone=fails_alone)
        return Look((), [hopeless, near])

    toy = Toy(tmp_path)
    toy.further.until = replace(toy.further.until, look=stuck)
    toy.drive()
    assert toy.given["b"] == toy.given["a"] == given
    whys = {one["comparison"]: one["why"] for one in toy.claims["open"]}
    assert whys["b and c"] == "unlikely to be decided by 12 seeds"
    assert fails_alone or whys["b and a"] == "another comparison of its claim stays open"


def test_a_row_stays_whole_while_a_further_seed_is_on_its_way(tmp_path):
    """One that was stopped or waits takes nothing away from what the others say."""
    Toy(tmp_path).drive(after=2)
    runs = read_directories(tmp_path)
    df = runs.sweep("toy")
    assert df[df["state"] != schema.FINISHED]["seed"].min() >= 3
    (table,) = report.build(runs, df).tables
    assert table.cells["mean"].notna().all()
    assert (table.cells["n"] == table.cells["planned"]).all()
    assert len(table.members()) == len(MEANS)
    failed = tmp_path / "failed"
    Toy(failed).drive(fails=[("c", 4)])
    runs = read_directories(failed)
    (table,) = report.build(runs, runs.sweep("toy")).tables
    assert table.cells.set_index(table.rows[0])["mean"].isna().to_dict() == {
        kind: kind == "c" for kind in MEANS
    }


def test_the_nearest_to_a_decision_per_device_second_comes_first(whole):
    assert {kind for kind, _ in whole.order[:2]} == {"a", "b"}  # c costs ten times as much
    assert {kind for kind, _ in whole.order[2:]} == {"b", "c"}


def test_a_launch_goes_on_where_another_was_killed(whole, tmp_path):
    root = tmp_path / "cut"
    for after in (2, 3, 1):
        Toy(root).drive(after=after)
    toy = Toy(root).drive()
    assert toy.claims == whole.claims
    results = [{run.name: run.result for run in t.further.runs} for t in (whole, toy)]
    assert results[0] == results[1]
    elsewhere = [f"root={root}", "cluster.parallel=4"]  # as `retry` and other machines have it
    assert Toy(root, words=elsewhere).drive().order == []  # everything that can be settled is


def test_a_budget_ends_it_and_says_so(tmp_path):
    spent = 3 * sum(SECONDS.values())
    toy = Toy(tmp_path, hours=(spent + 65) / 3600).drive()
    assert 0 < sum(SECONDS[kind] for kind, _ in toy.order) <= 65
    assert "until.device_hours=" in toy.claims["open"][-1]["why"]
    more = Toy(tmp_path).drive()
    assert more.given["c"] == [3, 4, 5]


def test_a_cell_that_fails_is_told_and_not_asked_again(tmp_path):
    toy = Toy(tmp_path).drive(fails=[("c", 4)])
    assert toy.given["c"] == [3, 4]
    (open_,) = toy.claims["open"]
    assert open_["why"].startswith("seed 4 of ")
    assert open_["why"].endswith(": broken")
    lines = told(toy.claims)
    assert lines[0] == "claims: 2 settled, 1 open"
    assert lines[-1].startswith("  open: kind=b < kind=c: b and c: seed 4 of ")


def test_the_page_has_every_seed_that_was_given_and_a_plain_launch_keeps_them(whole, tmp_path):
    shutil.copytree(whole.root, tmp_path, dirs_exist_ok=True)
    runs = read_directories(tmp_path)
    made = report.build(runs, runs.sweep("toy"))
    assert made.looks == Looks(first=3, most=12)
    by_text = {claim.text: claim for claim in made.claims}
    (one,) = by_text["kind=b < kind=c"].comparisons
    assert one.n == 6
    assert one.note == "unlikely to be decided by 12 seeds"
    assert not made.gaps or all("Median" in gap.cell for gap in made.gaps)
    plan = whole.further.plan
    plan = replace(
        plan, cells=[replace(c, overrides=[*c.overrides, "root=else"]) for c in plan.cells]
    )
    plan.save(tmp_path, [one.find(tmp_path) for one in plan.cells], {})
    content = read_json(tmp_path / schema.PLANS / "toy.json")
    seeds = [c["seed"] for c in content["cells"] if c["choices"] == {"kind": "c"}]
    assert sorted(seeds) == list(range(6))


def test_a_look_that_cannot_be_made_stops_no_cell_and_begins_no_seed(tmp_path, caplog):
    toy = Toy(tmp_path)

    def broken(root, sweep):
        raise OSError("no space left on device")

    toy.further.until = replace(toy.further.until, look=broken)
    ended = {}
    for run in toy.runs:
        assert toy.further(ended) == []
        finish(run)
        ended = {run.path: Outcome(schema.FINISHED)}
    assert "claims cannot be judged, so seeds wait" in caplog.text
    toy.further.until = replace(toy.further.until, look=look)
    assert toy.further(ended) != []


def test_seeds_that_a_failing_look_has_begun_are_run(tmp_path, monkeypatch):
    toy = Toy(tmp_path)
    for run in toy.runs:
        finish(run)
    toy.further._busy = set()
    saves, save = [], toy.further._save

    def full(*_):
        saves.append(1)
        if len(saves) == 2:  # after the seeds are begun
            raise OSError("no space left on device")
        save()

    monkeypatch.setattr(toy.further, "_save", full)
    begun = toy.further({})
    assert begun
    assert toy.further._busy == {run.path for run in begun}


def test_a_plan_says_what_is_open_and_what_it_waits_for(tmp_path):
    toy = Toy(tmp_path)
    for run in toy.runs:
        finish(run)
    plan = toy.further.plan
    plan.save(tmp_path, [one.find(tmp_path) for one in plan.cells], {})
    lines = Toy(tmp_path).further.preview()
    assert any(line.startswith("  holds: kind=a < kind=d") for line in lines)
    waits = next(line for line in lines if "kind=b < kind=c" in line)
    assert "waits for seed 3 of kind_b" in waits
    assert not list(tmp_path.glob("*seed_3*"))


@pytest.mark.parametrize(
    ("changes", "hours", "message"),
    [
        ({"seeds": [0, 1]}, None, r"needs `seeds: \{first: 3, most: 16\}` in toy, which says"),
        ({"claims": []}, None, "needs claims, and toy has none"),
        ({}, -1, "until.device_hours must be a number above 0 or null, got -1"),
        ({}, 0, "until.device_hours must be a number above 0 or null, got 0"),
        ({}, True, "until.device_hours must be a number above 0 or null, got True"),
    ],
)
def test_what_cannot_be_decided_is_refused(changes, hours, message):
    asked = grid({}, statement(**changes), "toy")
    with pytest.raises(UserError, match=message):
        Until.of(asked, hours, another, look)


def test_seeds_of_ones_own_are_the_first_and_further_ones_follow_them(tmp_path):
    toy = Toy(tmp_path, typed={"seed": [f"seed={n}" for n in (100, 101, 102)]}).drive()
    given = sorted({seed for _, seed in toy.order})
    assert given == list(range(103, 103 + len(given)))
    assert len(given) > 0
    assert {one["claim"] for one in toy.claims["open"]} | {
        one["claim"] for one in toy.claims["settled"]
    } == set(statement().claims)
    Toy(tmp_path, typed={"seed": [f"seed={n}" for n in (100, 101, 102)]}).drive()
    (path,) = (tmp_path / schema.PLANS).glob("*.json")
    assert {cell["seed"] for cell in read_json(path)["cells"]} == {100, 101, 102, *given}


def test_other_seeds_that_are_typed_and_sweeps_without_a_file_are_refused():
    typed = grid({"seed": ["seed=0", "seed=1"]}, statement(), "toy")
    with pytest.raises(UserError, match=r"needs 3 first seeds in a row .* got seed=0,1; leave it"):
        Until.of(typed, None, another, look)
    with pytest.raises(UserError, match="needs claims, which a sweep file has"):
        Until.of(replace(typed, statement=None), None, another, look)
