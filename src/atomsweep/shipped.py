"""What is shipped with the code: `conf`, `sweeps` and `published`, the papers' numbers.

In a checkout they are folders of the repository, in an installed package they lie inside it. What
the present folder has comes first.
"""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
CONF, SWEEPS, PUBLISHED = "conf", "sweeps", "published"
IN_REPOSITORY = {CONF: "conf", SWEEPS: "sweeps", PUBLISHED: "analysis/published"}


def shipped(name: str) -> Path:
    """The folder that comes with the code, by one of the three names."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parents[1] / IN_REPOSITORY[name]


def places(name: str) -> list[Path]:
    """Where to look: in the present folder, if it has one, then in what is shipped."""
    here = Path(IN_REPOSITORY[name]).absolute()
    return [here] * (here.is_dir() and here != shipped(name)) + [shipped(name)]
