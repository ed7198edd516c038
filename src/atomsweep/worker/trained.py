"""A finished run as a model to use: from Python, as an ASE calculator, for evaluations."""

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch_geometric.data import Batch

from atomsweep import keys
from atomsweep.build import UserError, build, build_learner
from atomsweep.data.atoms import structure_from_atoms, structure_to_atoms, unkept_constraints
from atomsweep.engine import checkpoint
from atomsweep.engine.devices import check_device
from atomsweep.models.base import ForceField, Prediction
from atomsweep.tasks.relax.files import write_trajectory
from atomsweep.tasks.relax.lbfgs import LBFGS
from atomsweep.tasks.relax.loop import relax
from atomsweep.tasks.relax.potentials import ModelPotential
from atomsweep.tracking import schema
from atomsweep.tracking.files import told
from atomsweep.tracking.find import find_run
from atomsweep.tracking.identity import former_identities, identity, science
from atomsweep.tracking.run import RunDirectory

if TYPE_CHECKING:
    from ase import Atoms

    from atomsweep.data.source import DataSource
    from atomsweep.tasks.relax.calculator import PotentialCalculator

log = logging.getLogger(__name__)


class TrainedModel:
    """The best checkpoint of a run, in evaluation mode.

    Attributes:
        run: its directory.
        config: resolved config of the run.
        model: the network.
        device: where it is.
        dtype: of its weights, and so of positions.
        step: of the checkpoint.
        learned: labels that it was trained on, `energy`, `forces`.
    """

    def __init__(self, run: RunDirectory, device: torch.device, dtype: torch.dtype) -> None:
        self.run = run
        self.device, self.dtype = device, dtype
        path = run.path / schema.CHECKPOINTS / checkpoint.BEST
        try:
            state = checkpoint.load_of(run.identity, path, device)
        except FileNotFoundError:
            remedy = "train it to its first evaluation"
            if run.result is not None:
                remedy = "it is gone, so run its command again with rerun=all"
            raise UserError(
                f"run {run.name} has no best checkpoint yet (it is {run.state()}); {remedy}"
            ) from None
        except ValueError as error:
            raise UserError(str(error)) from error
        self.config = _config_of(run)
        model: ForceField
        model, task = build_learner(self.config)
        self.learned: tuple[str, ...] = tuple(task.labels)
        try:
            with checkpoint.fitting(path):
                model.load_state_dict(state["model"])
        except ValueError as error:
            raise UserError(str(error)) from error
        self.model = model.to(device, dtype).eval().requires_grad_(False)
        self.step = state["step"]
        engine = self.config.get("engine") or {}
        self._autocast = engine.get("precision") == "bf16" and dtype == torch.float32

    def __repr__(self) -> str:
        return f"TrainedModel({self.run.name}, step {self.step}, {self.device})"

    def predict(self, batch: Batch) -> Prediction:
        """One forward, without gradients of weights, in the precision that was trained with."""
        context: AbstractContextManager[object] = nullcontext()
        if self._autocast:
            context = torch.autocast(self.device.type, dtype=torch.bfloat16)
        with torch.set_grad_enabled(self.model.conservative), context:
            return self.model(batch)

    def require_forces(self) -> None:
        """Refuse a model whose forces were not trained.

        Raises:
            UserError: says which task trains them.
        """
        if keys.FORCES not in self.learned:
            raise UserError(
                f"run {self.run.name} learned {' and '.join(self.learned)} alone, and its forces "
                "mean nothing; take a run of task=s2ef or task=s2f"
            )

    def potential(self) -> ModelPotential:
        """What relaxations ask for forces.

        Raises:
            UserError: as `require_forces`.
        """
        self.require_forces()
        return ModelPotential(self.model, self.predict)

    def calculator(self, nan_energy: bool = False) -> "PotentialCalculator":
        """A new ASE calculator.

        Args:
            nan_energy: an energy that the model does not predict reads NaN and is no error. ASE's
                optimisers need this of a model of forces alone: they log the energy.
        """
        from atomsweep.tasks.relax.calculator import PotentialCalculator

        return PotentialCalculator(self.potential(), self.run.name, nan_energy)

    def relax(
        self,
        images: "Atoms | Iterable[Atoms]",
        fmax: float = 0.05,
        steps: int = 200,
        batch_size: int = 32,
        optimizer: LBFGS = LBFGS(),  # noqa: B008 (frozen)
        trajectories: Path | None = None,
        on_done: Callable[[], None] = lambda: None,
    ) -> "Atoms | list[Atoms]":
        """Relax many structures at once; fixed atoms are held.

        Args:
            images: initial structures, or one.
            fmax: largest force on a free atom at the end, eV/Å.
            steps: most steps of a structure.
            batch_size: structures relaxed at once.
            optimizer: settings of L-BFGS.
            trajectories: folder for every step of each, `<number>.traj`; None keeps none.
            on_done: called as each one ends.

        Returns:
            Copies in the same order, or one of the one, with forces and, if predicted, energy;
            `info["relaxation"]` is converged, stopped (after `steps`) or failed and why,
            `info["relaxation_steps"]` counts.

        Raises:
            ValueError: a constraint that fixes no atom whole, or a number out of its range.
        """
        single = _is_atoms(images)
        images = [cast("Atoms", images)] if single else list(images)
        for number, one in enumerate(images):
            if unkept := unkept_constraints(one):
                raise ValueError(
                    f"structure {number} has the constraint {unkept[0]}; only atoms that are fixed "
                    "whole can be held, remove it or relax with ASE and model.calculator()"
                )
        initial = [structure_from_atoms(one, sid=number) for number, one in enumerate(images)]
        ended: dict[int, Atoms] = {}
        paths = trajectories is not None
        for one in relax(initial, self.potential(), optimizer, fmax, steps, batch_size, paths):
            if trajectories is not None and one.path:
                write_trajectory(trajectories / f"{one.index}.traj", one)
            atoms = images[one.index].copy()
            atoms.set_positions(one.structure.pos, apply_constraint=False)
            atoms.calc = structure_to_atoms(one.structure).calc if one.fault is None else None
            state = "converged" if one.converged else "stopped"
            atoms.info["relaxation"] = state if one.fault is None else f"failed: {one.fault}"
            atoms.info["relaxation_steps"] = one.steps
            ended[one.index] = atoms
            on_done()
        return ended[0] if single else [ended[number] for number in range(len(images))]

    def source(self) -> "DataSource":
        """The data set that it was trained on."""
        return build(self.config["data"], "data")


def _is_atoms(images: Any) -> bool:
    """Whether it is one `Atoms`, which iterates over its atoms."""
    from ase import Atoms

    return isinstance(images, Atoms)


def _config_of(run: RunDirectory) -> dict[str, Any]:
    """Its config, which is the one that its identity was made of.

    Raises:
        UserError: it is not, so that another model than the trained one would be built.
    """
    about = run.run
    try:
        config = run.config()
        content = science(config, str(about["data"]["fingerprint"]))
        if measured := (about.get("science") or {}).get("measured"):
            content["measured"] = measured
        right = run.identity in (identity(content), *former_identities(content))
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise UserError(f"run {run.name} cannot be loaded: {told(error)}") from error
    if not right:
        raise UserError(
            f"{run.path / schema.CONFIG} is not the config that run {run.name} was made of: it was "
            "changed or damaged; restore the file, or run its command again with rerun=all"
        )
    return config


def load(
    run: str | Path,
    root: str | Path = "runs",
    device: str | None = None,
    dtype: str = "float32",
) -> TrainedModel:
    """A run's best checkpoint.

    Args:
        run: its directory, or its name or identity in `root`.
        root: where runs are.
        device: of torch; None takes a GPU where there is one.
        dtype: float32 or float64.

    Raises:
        UserError: there is no such run, device or precision, or the run has no checkpoint.
    """
    if dtype not in ("float32", "float64"):
        raise UserError(f"dtype must be float32 or float64, got {dtype}")
    if device is not None:
        check_device(device, "device", "device cpu")
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return TrainedModel(find_run(run, root), where, getattr(torch, dtype))


def device_name(device: torch.device) -> str:
    """Name of a device, as run directories have it."""
    from atomsweep.tracking.environment import cpu_name

    if device.type in ("cuda", "xpu"):
        return str(torch.get_device_module(device.type).get_device_name(device))
    return f"{device.type} ({cpu_name()})"
