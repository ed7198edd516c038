"""Data of one's own: which task their labels are for, where none was named."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from atomsweep.build import UserError
from atomsweep.launch.typed import Vocabulary
from atomsweep.shipped import SWEEPS
from atomsweep.stated import stated
from atomsweep.sweep.file import key_of

LABELS = ("data.labels", "data.reader.labels")


def with_task(words: Sequence[str], known: Vocabulary) -> list[str]:
    """The words, with the task that the labels of one's own data are for, where none is chosen.

    Files of energies and forces are learned whole; the default task is ForceNet's, of forces alone,
    and stays where no model predicts an energy, or the file has none.

    Args:
        words: overrides, as `checked` gives them.
        known: what there is.

    Raises:
        UserError: data of one's own are swept beside others, or stores of other labels are, and no
            task is named.
    """
    typed = {key_of(word): word.partition("=")[2] for word in words}
    if "data" not in typed or {"task", "experiment", SWEEPS} & set(typed):
        return list(words)
    data, models = typed["data"].split(","), typed.get("model", "").split(",")
    own = [one for one in data if stated(known.content("data", one), "own")]
    if not own:
        return list(words)
    if len(own) < len(data):
        raise UserError(
            f"data={typed['data']} names files of your own beside data that are made for a task; "
            "name the task of all: task=s2ef learns energies and forces, task=s2f forces alone"
        )
    labels = next((v for k, v in typed.items() if k in LABELS), None)
    if labels is None and data == ["extxyz"] and _has_forces_alone(typed):
        return [*words, "data.labels=[forces]"]
    if all(stated(known.content("model", one), "predicts_energy") is False for one in models):
        return list(words)
    whole = labels is None or {"energy", "forces"} <= set(re.findall(r"\w+", labels))
    if data == ["store"]:
        whole = "data.relaxed_energy" not in typed and _are_whole(typed.get("data.path", ""))
    return [*words, "task=s2ef"] if whole else list(words)


def _has_forces_alone(typed: Mapping[str, str]) -> bool:
    """Whether the first frame of a file has forces and no energy; what is wrong is told later."""
    from atomsweep.data.formats.known import open_files

    path, *keys = (
        typed.get(f"data.{key}", default).strip("'\"")
        for key, default in (("path", ""), ("energy_key", "energy"), ("forces_key", "forces"))
    )
    try:
        reader, found = open_files(path, (), energy_key=keys[0], forces_key=keys[1])
        frame = next(reader.frames(found.files[0], 0, 0, 1), None)
    except (ValueError, OSError):
        return False
    structure = None if frame is None else frame.structure
    return structure is not None and structure.forces is not None and structure.energy is None


def _are_whole(paths: str) -> bool:
    """Whether stores have forces, and energies of their frames; what is wrong is told later.

    Args:
        paths: one, or several, listed or swept.

    Raises:
        UserError: some have, and some have not.
    """
    from atomsweep.data.store.dataset import StoreDataset

    found = set()
    for path in paths.strip("[]").split(","):
        try:
            store = StoreDataset(Path(path.strip().strip("'\"")))
        except (ValueError, OSError):
            return False
        relaxed = (store.meta.get("conversion") or {}).get("relaxed_energy")
        found.add(store.has_energy and store.has_forces and not relaxed)
    if len(found) > 1:
        raise UserError(
            f"not all of {paths} have energies and forces of their frames; name the task of all: "
            "task=s2ef, task=s2f or task=is2re"
        )
    return found.pop()
