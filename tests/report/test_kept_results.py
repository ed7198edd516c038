"""Kept results: every comparison of a page follows from the seeds' values in its CSV."""

import csv
import math
import re
from collections import defaultdict

import pytest
from scipy import stats

from atomsweep.report.figures.leaving import LEFT_MEDIAN
from atomsweep.report.tables.boundaries import boundaries
from tests.places import REPOSITORY

RESULTS = REPOSITORY / "analysis" / "results"
CLAIM = re.compile(
    r"(?:(?P<left>[\d.]+) \* )?.+? (?P<order><=|>=|<|>) (?:(?P<right>[\d.]+) \* )?.+?"
    r"(?: on (?P<on>\S+)(?: minus (?P<minus>\S+))?)?"
)
NUMBERS = re.compile(r"([+−]?[\d.]+) ± ([\d.]+)")


def pages():
    found = []
    for path in sorted(RESULTS.glob("*.csv")):
        with path.open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if "values" in rows[0] and "### Comparisons" in path.with_suffix(".md").read_text():
            found.append(pytest.param(path, id=path.stem))
    return found


def values_of(path):
    """Sweep → row → split/metric → seed → value; of trained runs, and `of_all`."""
    found = defaultdict(lambda: defaultdict(dict))
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            seeds, values = row["seeds"].split(), row["values"].split()
            name = f"{row['split']}/{row['metric']}"
            if row["metric"] == LEFT_MEDIAN:
                continue  # steps, which no claim is about
            every = {s: float(v) for s, v in zip(seeds, values, strict=True)}
            untrained = row["not_trained"].split()
            trained = {s: v for s, v in every.items() if s not in untrained}
            found[row["sweep"]][row["row"]] |= {name: trained, f"of_all {name}": every}
    return found


def sections(page):
    """Sweep, texts of its claims, lines of its comparisons, whether claims are looked at often."""
    claims = defaultdict(list)
    for sweep, text in re.findall(r"^\| (\S+) +\| `(.+?)` +\|", page, re.M):
        claims[sweep].append(text)
    for part in re.split(r"^## ", page, flags=re.M):
        sweep = re.search(r"\((\S+)\)$", part.splitlines()[0]) if part else None
        if sweep and "### Comparisons" in part:
            table = part.split("### Comparisons")[1].split("###")[0]
            lines = [line for line in table.splitlines() if re.match(r"\| +\d", line)]
            yield sweep[1], claims[sweep[1]], [re.split(r" *\| *", line[1:-1]) for line in lines]


def sides(claim, left, right):
    """Values of both sides by seed, and what the claim says of them.

    Against the Median every finished run counts: whether it has left it is what is asked.
    """
    asked, of = CLAIM.fullmatch(claim), "of_all " if "model=median" in claim else ""
    there = [name.split("/", 1) for name in left if " " not in name]
    average = [name for name in there if name[0] == "val_avg"]
    first, metric = (average or there)[0]  # the page's first table, as the CSV has it
    if asked["on"] == "device_seconds":  # of the run, on no split
        first, metric, asked = "", asked["on"], asked.groupdict() | {"on": None}
    split = asked["on"] or ("val_id" if f"val_id/{metric}" in left and not average else first)

    def side(values, factor):
        chosen = values[f"{of}{split}/{metric}"]
        less = (
            values[f"{of}{asked['minus']}/{metric}"] if asked["minus"] else dict.fromkeys(chosen, 0)
        )
        return {s: float(factor or 1) * (v - less[s]) for s, v in chosen.items()}

    return side(left, asked["left"]), side(right, asked["right"]), asked["order"]


@pytest.mark.parametrize("path", pages())
def test_every_comparison_is_recomputed_from_the_csv(path):
    page, values = path.with_suffix(".md").read_text(), values_of(path)
    looked = "Claims are looked at after 3 seeds" in page
    checked = 0
    for sweep, claims, lines in sections(page):
        for number, left, right, told, n, verdict, *_ in lines:
            claim = claims[int(number) - 1]
            numbers = NUMBERS.fullmatch(told.strip())
            if numbers is None:
                continue  # without an interval: against the baseline, which has one run
            ours, theirs, order = sides(claim, values[sweep][left], values[sweep][right])
            d = [ours[s] - theirs[s] for s in ours if s in theirs]
            assert len(d) == int(n), claim
            mean = sum(d) / len(d)
            spread = math.sqrt(sum((x - mean) ** 2 for x in d) / (len(d) - 1))
            c = boundaries(0.05, 3).critical(len(d)) if looked else stats.t.ppf(0.975, len(d) - 1)
            half = c * spread / math.sqrt(len(d))
            effect, reach = (float(text.replace("−", "-")) for text in numbers.groups())
            digits = 10.0 ** -len(numbers[2].partition(".")[2])
            assert effect == pytest.approx(mean, abs=0.51 * digits), claim
            assert reach == pytest.approx(half, abs=0.51 * digits), claim
            assert verdict in verdicts_of(order, mean * (1 if order[0] == "<" else -1), half), claim
            checked += 1
    assert checked > 1


def verdicts_of(order, effect, half):
    """What an interval may be called; how much `<=` forgives is not on the page."""
    low, high = effect - half, effect + half
    if order in "<>":
        surely = "holds" if high < 0 else "fails" if low >= 0 else "undecided"
        return {surely, "equal"} if surely != "holds" else {surely}
    if high <= 0:
        return {"holds"}
    return {"holds", "undecided"} if low <= 0 else {"holds", "undecided", "fails"}
