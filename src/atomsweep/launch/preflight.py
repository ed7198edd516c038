"""What is checked before anything is trained: that every cell can be built and its data read.

Heavy rooms are imported inside: planning and `--help` start without torch.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from atomsweep.build import UserError, build, build_learner, data_source
from atomsweep.console import Progress, to_terminal
from atomsweep.engine.ranks import num_ranks
from atomsweep.launch.plan import Cell
from atomsweep.launch.slurm.settings import slurm_settings
from atomsweep.processes import ProcessLost, calls
from atomsweep.sweep.grid import Grid
from atomsweep.sweep.names import split_lacking
from atomsweep.tracking import schema
from atomsweep.tracking.files import told
from atomsweep.tracking.identity import identity

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext

    from atomsweep.data.source import DataSource
    from atomsweep.engine.optim import Recipe
    from atomsweep.engine.trainer import Trainer
    from atomsweep.models.base import ForceField
    from atomsweep.tasks.base import Task

PARTS = ("augmentation", "optim", "engine", "data")  # built beside model and task
LEARNER = ("model", "task", "dens")  # what decides how a model is built
KEPT = 64  # built parts that are kept, for cells that have them in common
COUNTS = (  # of what a model has at least one
    *("num_layers", "num_elements", "num_heads", "num_filters", "num_basis", "num_freqs"),
    *("num_functions", "num_gaussians", "num_radial", "num_spherical"),
)


# One cell, in this process


def _part(name: str, config: str) -> Any:
    return build(json.loads(config), name)


def _learner(config: str) -> tuple[Any, Any]:
    import torch

    with torch.device("meta"):
        return build_learner(json.loads(config))


def preflight(
    config: Mapping[str, Any],
    here: bool = True,
    part: Callable[[str, str], Any] = _part,
    learner: Callable[[str], tuple[Any, Any]] = _learner,
) -> int:
    """Build everything that a run needs, the model without memory for its weights.

    Args:
        config: of the run.
        here: it is to run on this machine, so its device must be there.
        part: builds a part of its config, given as JSON under its name.
        learner: builds model and task.

    Returns:
        Number of parameters, as papers count them: those that nothing reads are among them; 0
        where nothing could be built, on a login node without torch.

    Raises:
        UserError: something is unknown, of the wrong type, or does not fit together.
    """
    settings = slurm_settings(config)
    ranks = num_ranks(config)
    if settings is not None and find_spec("torch") is None:
        return 0
    from atomsweep.engine.devices import refusal

    _check_sizes(config["model"], "model")
    parts = {name: part(name, json.dumps(config[name])) for name in PARTS}
    trainer: Trainer = parts["engine"]
    recipe: Recipe = parts["optim"]
    source: DataSource = parts["data"]
    model: ForceField
    task: Task
    model, task = learner(json.dumps({name: config.get(name) for name in LEARNER}))
    _check_graph(model)
    if here and settings is None:  # a login node has no GPU
        _check_device(trainer, ranks)
    _check_micro_batches(recipe, trainer, ranks)
    _check_optimizer(recipe, model)
    if (problem := refusal(trainer, model, ranks)) is not None:
        raise UserError(problem)
    if settings is not None and trainer.device == "cuda" and 0 < settings.gpus < settings.ranks:
        raise UserError(
            f"each rank trains on a GPU of its own, but a node of cluster.ranks={settings.ranks} "
            f"has cluster.gpus={settings.gpus}; make them equal"
        )
    _check_trained_splits(trainer, source)
    _check_labels(task, source)
    metric = trainer.metric.partition("/")[2]
    if task.metric_names and metric not in task.metric_names:
        raise UserError(
            f"engine.metric is {trainer.metric}, and {type(task).__name__} measures "
            f"{', '.join(task.metric_names)}; set metric to one of these"
        )
    return sum(p.numel() for p in model.parameters())


def _check_sizes(node: Any, where: str) -> None:
    """Refuse layers of no width and series of no functions, which build and learn nothing.

    Raises:
        UserError: names the value.
    """
    for key, value in node.items() if isinstance(node, Mapping) else ():
        counts = key.endswith("channels") or key in COUNTS
        if counts and isinstance(value, int | float) and value < 1:
            raise UserError(f"{where}.{key} must be at least 1, got {value}")
        _check_sizes(value, f"{where}.{key}")


def _check_graph(model: "ForceField") -> None:
    """Refuse a model without neighbours.

    Raises:
        UserError: names the value.
    """
    from atomsweep.graph.neighbors import RadiusGraph

    try:
        if model.cutoff is not None:
            RadiusGraph(model.cutoff, model.max_neighbors)
    except ValueError as error:
        raise UserError(f"model.{error}") from error


def _check_device(trainer: "Trainer", ranks: int) -> None:
    """Refuse a device that is not there, or that ranks cannot speak on.

    Raises:
        UserError: says what is there.
    """
    import torch

    from atomsweep.engine.devices import check_device, missing_backend

    check_device(trainer.device, "engine.device", "engine=cpu")
    if ranks > 1 and (problem := missing_backend(torch.device(trainer.device))) is not None:
        raise UserError(problem)


def _check_micro_batches(recipe: "Recipe", trainer: "Trainer", ranks: int) -> None:
    """Refuse a batch that cannot be cut as it is asked for.

    Raises:
        UserError: names the settings that contradict one another.
    """
    if recipe.batch_size // recipe.accumulate < ranks:
        raise UserError(
            f"optim.batch_size={recipe.batch_size} is that of all ranks, and in "
            f"optim.accumulate={recipe.accumulate} micro-batches it does not give each of {ranks} "
            "ranks a structure; use fewer ranks or a larger batch"
        )
    if trainer.batch_edges is not None and recipe.accumulate > 1:
        raise UserError(
            f"engine.batch_edges={trainer.batch_edges} and optim.accumulate={recipe.accumulate} "
            "both cut a step into micro-batches; set optim.accumulate=1 or engine.batch_edges=null"
        )


def _check_optimizer(recipe: "Recipe", model: "ForceField") -> None:
    """Refuse settings out of the optimizer's ranges, and averaged weights that lack statistics.

    Raises:
        UserError: names the setting.
    """
    from atomsweep.engine.optim import kept_statistics

    try:
        if any(p.requires_grad for p in model.parameters()):
            recipe.new_optimizer(model)  # its own ranges, e.g. of the learning rate
    except (ValueError, TypeError) as error:
        raise UserError(f"optim.optimizer: {error}") from error
    if recipe.ema_decay is not None and (norm := kept_statistics(model)) is not None:
        raise UserError(
            f"optim.ema_decay evaluates an average of weights, and the {norm} of this model keeps "
            "statistics that other weights made; set optim.ema_decay=null or choose a model "
            "without it"
        )


def _check_trained_splits(trainer: "Trainer", source: "DataSource") -> None:
    """Refuse splits that the data set does not have.

    Raises:
        UserError: names the first.
    """
    wanted = {schema.TRAIN, *trainer.eval_splits}
    if missing := sorted(wanted - set(source.splits())):
        raise UserError(
            f"the data set has no split {missing[0]}; it has "
            f"{', '.join(source.splits())}: set engine.eval_splits and engine.metric"
        )


def _check_labels(task: "Task", source: "DataSource") -> None:
    """Refuse data that do not carry what the task learns, as far as that is known unread.

    Raises:
        UserError: names the label, or says whose energy the data have.
    """
    name, there = type(task).__name__, source.label_names()
    lacking = sorted(set(task.labels) - there) if there is not None else []
    if lacking:
        raise UserError(
            f"{name} learns {' and '.join(task.labels)}, and structures of {source.name} carry no "
            f"{lacking[0]}; choose another task or other data"
        )
    if source.relaxed_energy is task.relaxed_energy or "energy" not in task.labels:
        return
    if source.relaxed_energy is None:
        if not task.relaxed_energy:
            return
        raise UserError(
            f"{name} learns the energy of the relaxed structure from the initial one, and nothing "
            f"tells whose energies {source.name} has; set data.relaxed_energy=true if they are "
            "those of the relaxed structures"
        )
    if task.relaxed_energy:
        raise UserError(
            f"{name} learns the energy of the relaxed structure from the initial one, and "
            f"{source.name} has frames with their own energies; choose data=mini_oc_is2re or other "
            "IS2RE data"
        )
    raise UserError(
        f"{name} learns the energy of the structure itself, and {source.name} has that of the "
        "relaxed one; choose task=is2re"
    )


def prepare_data(config: Mapping[str, Any]) -> None:
    """Make or check the data set, once for all cells that share it.

    Raises:
        UserError: the data cannot be read or made.
    """
    try:
        source = data_source(config)
        source.prepare()
        for split in source.splits():
            source.split(split)  # what cannot be held out is found here, not in a run
    except (ValueError, ImportError, RuntimeError) as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(told(error)) from error


# Many cells, in a process that has torch


def check_all(cells: Sequence[Cell], context: "ForkServerContext", here: bool) -> dict[str, int]:
    """Build every cell, in a process that has torch; parts that cells have in common, once.

    Args:
        cells: of a plan.
        context: from `warm_up`.
        here: they are to run, so the data are made and the devices must be there.

    Returns:
        Identity → parameters of the model.

    Raises:
        UserError: a cell cannot be built, or its data cannot be read.
    """
    kinds = {cell.identity: identity({**cell.science, "seed": None}) for cell in cells}
    examples = {kinds[cell.identity]: cell for cell in reversed(cells)}
    sizes: dict[str, int] = {}
    answers = _elsewhere(context, _check, [(cell.config, here) for cell in examples.values()])
    with Progress.of_cells("checking", len(examples)) as progress:
        for (kind, cell), (size, problem) in zip(examples.items(), answers, strict=True):
            if problem is not None:
                raise UserError(f"{' '.join(cell.overrides)}: {problem}")
            sizes[kind] = size
            progress.update(1)
    if here:
        sources = {cell.data["fingerprint"]: (cell.config,) for cell in cells}
        list(_elsewhere(context, _prepare_loudly, list(sources.values())))
    return {cell: sizes[kind] for cell, kind in kinds.items()}


def check_one(cell: Cell, context: "ForkServerContext") -> int:
    """Build a cell in a process of its own; returns the parameters of its model.

    Raises:
        UserError: it cannot be built.
    """
    ((size, problem),) = _elsewhere(context, _check, [(cell.config, True)])
    if problem is not None:
        raise UserError(problem)
    return size


def _elsewhere(
    context: "ForkServerContext",
    function: Callable[..., Any],
    arguments: Sequence[tuple[Any, ...]],
) -> Iterator[Any]:
    """Results in order, from a process that has torch and that another one replaces if it dies."""
    try:
        with closing(calls(context, function, arguments)) as results:
            for _, result in results:
                yield result
    except ProcessLost as error:
        raise UserError(f"the cells cannot be checked and their data made: {error}") from error


# In the process that checks many cells, what they have in common is built once
_kept_part, _kept_learner = lru_cache(KEPT)(_part), lru_cache(KEPT)(_learner)


def _prepare_loudly(config: Mapping[str, Any]) -> None:
    """`prepare_data` in a process whose log lines nobody has asked for yet."""
    to_terminal()
    prepare_data(config)


def _check(config: Mapping[str, Any], here: bool) -> tuple[int, str | None]:
    try:
        return preflight(config, here, _kept_part, _kept_learner), None
    except UserError as error:
        return 0, str(error)


def check_splits(cells: Sequence[Cell], grid: Grid) -> None:
    """Refuse a table of splits that no run will evaluate.

    Raises:
        UserError: names the metric and the splits that there are.
    """
    if grid.statement is None:
        return
    for cell in {cell.data["fingerprint"]: cell for cell in cells}.values():
        source = data_source(cell.config)
        kinds = ("", *source.kinds)
        splits = [schema.part_name(split, kind) for split in source.splits() for kind in kinds]
        if name := split_lacking(grid.statement.metrics, splits):
            raise UserError(
                f"the table asks for {name}, but data={cell.data['name']} has the splits "
                f"{', '.join(splits)}"
            )
