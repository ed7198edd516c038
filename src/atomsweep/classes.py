"""What classes are called that a config names, and the names that old runs know them by.

A config names a class by where it lies, `atomsweep.models.forcenet.ForceNet`. A run must not become
a stranger because a file moved, so what is hashed is what a class is called: `ForceNet`.
"""

from collections.abc import Mapping, Sequence

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
        "atomsweep.sweep.slurm_settings.SlurmSettings",
    ),
}
"""Present path of a class of ours -> the paths that it had before, oldest first.

A class that moves or gets another name needs a row, or runs that name its old path cannot be read.
"""

NAMED = frozenset(
    f"atomsweep.{path}"
    for path in (
        "augment.RotateSO3",
        "augment.RotateZ",
        "dens.objective.Denoising",
        "engine.optim.Cosine",
        "engine.optim.Exponential",
        "engine.optim.Milestones",
        "engine.optim.Recipe",
        "engine.trainer.Trainer",
        "models.dimenet_pp.DimeNetPlusPlus",
        "models.egnn.EGNN",
        "models.equiformer.Equiformer",
        "models.equiformer_v2.EquiformerV2",
        "models.escn.ESCN",
        "models.forcenet.ForceNet",
        "models.gala.Gala",
        "models.gns.GNS",
        "models.median.MedianBaseline",
        "models.megnet.MegNet",
        "models.schnet.SchNet",
        "nn.activations.ShiftedSoftplus",
        "nn.basis.GaussianBasis",
        "nn.basis.IdentityBasis",
        "nn.basis.LinearActBasis",
        "nn.basis.NoBasis",
        "nn.basis.SineBasis",
        "nn.basis.SphericalBasis",
        "tasks.is2re.IS2RE",
        "tasks.normalize.Normalizer",
        "tasks.s2ef.S2EF",
        "tasks.s2f.S2F",
    )
)
"""First paths of the classes that identities know by their names, which are unique.

Frozen: a class that is added later is known by its path, and by `FORMER` where it moves.
"""

_PRESENT = {former: path for path, formers in FORMER.items() for former in formers}


def present_path(target: str) -> str:
    """Where a class lies now that a config, perhaps an old one, names."""
    return _PRESENT.get(target, target)


def first_path(target: str) -> str:
    """Where a class lay when runs first named it."""
    path = present_path(target)
    return FORMER.get(path, (path,))[0]


def class_name(target: str) -> str:
    """What a class is, for an identity: the name alone of a shipped one, else the whole path.

    A class beside the shipped ones, perhaps a copy that was edited, has a path of its own and so an
    identity of its own, whatever it is called.
    """
    path = first_path(target)
    return path.rpartition(".")[2] if path in NAMED else path
