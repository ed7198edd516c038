"""Parts that a config names, and the names that old runs know them by.

A config names a part by where its class lies, `atomsweep.models.forcenet.ForceNet`. A run must not
become a stranger because a file moved, so what is hashed is what the class is called: `ForceNet`.
"""

from collections.abc import Mapping, Sequence

OURS = "atomsweep."

FORMER: Mapping[str, Sequence[str]] = {
    "atomsweep.data.formats.ase_db.AseDb": ("atomsweep.data.ase_db.AseDb",),
    "atomsweep.data.formats.extxyz.ExtXYZ": ("atomsweep.data.extxyz.ExtXYZ",),
    "atomsweep.data.formats.files.FileSource": ("atomsweep.data.files.FileSource",),
    "atomsweep.data.formats.flat_npz.FlatNPZReader": ("atomsweep.data.flat_npz.FlatNPZReader",),
    "atomsweep.data.formats.md17.MD17": ("atomsweep.data.md17.MD17",),
    "atomsweep.data.formats.store.NativeStore": ("atomsweep.data.native.NativeStore",),
    "atomsweep.data.formats.ocp_lmdb.IS2RE": ("atomsweep.data.ocp_lmdb.IS2RE",),
    "atomsweep.data.formats.ocp_lmdb.S2EF": ("atomsweep.data.ocp_lmdb.S2EF",),
    "atomsweep.data.generated.mini_md.MiniMD": ("atomsweep.data.mini_md.MiniMD",),
    "atomsweep.data.generated.mini_oc.MiniOC": ("atomsweep.data.mini_oc.MiniOC",),
    "atomsweep.data.generated.mini_oc.MiniOCIS2RE": ("atomsweep.data.mini_oc.MiniOCIS2RE",),
    "atomsweep.launch.slurm.settings.SlurmSettings": (
        "atomsweep.launch.slurm.settings.SlurmSettings",
    ),
}
"""Present path of a class of ours -> the paths that it had before, oldest first.

A class that moves or gets another name needs a row, or runs that name its old path cannot be read.
"""

_PRESENT = {former: path for path, formers in FORMER.items() for former in formers}


def present_path(target: str) -> str:
    """Where a class lies now that a config, perhaps an old one, names."""
    return _PRESENT.get(target, target)


def first_path(target: str) -> str:
    """Where a class lay when runs first named it."""
    path = present_path(target)
    return FORMER.get(path, (path,))[0]


def part_name(target: str) -> str:
    """What a class is, for an identity: of ours its first name alone, of others the whole path.

    Names of ours are unique among the parts that are hashed; a test holds that.
    """
    path = first_path(target)
    return path.rpartition(".")[2] if path.startswith(OURS) else path
