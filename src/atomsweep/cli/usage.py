"""`run --help`: on one screen what is typed most, and where the rest is."""

import shutil
from collections.abc import Mapping, Sequence

HEAD = """\
usage: atomsweep run [-m] [group=option ...] [key=value ...]      (in a checkout: python run.py ...)

  atomsweep run                                          one run: what conf/config.yaml says
  atomsweep run basis=gauss act=tanh engine.steps=500    another choice; any key of the config
  atomsweep run -m basis=sph,sine seed=0,1,2             a sweep of what is listed; again: the rest
  atomsweep run data=extxyz data.path=my.extxyz          your own structures
  atomsweep run sweeps=forcenet/table5                   a published table; report shows it
  atomsweep run ... plan=true                            what would run, its state and its cost
  atomsweep run ... cluster=slurm_gpu engine=gpu         the same on SLURM

groups and their options:"""
TAIL = """\

also: root=<folder of the runs>  rerun=none|failed|stale|all  scale=<of a sweep file>  seed=0
  atomsweep run --help all          every option and every key
  atomsweep run ... --cfg job       the config that a choice makes
  atomsweep --help                  the other commands: status, watch, report, info, retry, ...
  docs/running.md                   sweeps, studies, own data, clusters"""
BY_USE = (
    "data", "model", "size", "basis", "act", "task", "augmentation", "ablation", "dens", "optim",
    "engine", "cluster", "tracking", "experiment", "sweeps",
)  # fmt: skip


def usage(groups: Mapping[str, Sequence[str]]) -> str:
    """The screen.

    Args:
        groups: group → its options, as can be typed.
    """
    width = min(100, shutil.get_terminal_size((100, 24)).columns)
    known = [group for group in BY_USE if group in groups]
    known += sorted(set(groups) - set(known))
    longest = max(map(len, known))
    lines = [f"  {g:<{longest}}  {_listed(groups[g], width - longest - 4)}" for g in known]
    return "\n".join([HEAD, *lines, TAIL])


def _listed(options: Sequence[str], width: int) -> str:
    """Options in one line, the last of them counted where there is no room."""
    whole = " ".join(options)
    if len(whole) <= width:
        return whole
    shown = list(options)
    while shown:
        shown.pop()
        text = " ".join([*shown, f"... and {len(options) - len(shown)} more"])
        if len(text) <= width:
            return text
    return f"{len(options)} options"
