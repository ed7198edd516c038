"""`python run.py -m …` and `sweeps=…`: Hydra composes each cell, `atomsweep` does the rest."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.atomsweep.sweep_files import GROUP, SweepFiles

if TYPE_CHECKING:
    from atomsweep.launch.execute import Start


log = logging.getLogger(__name__)

OfFile = tuple[Path, list[str]]  # the sweep file, and what was typed besides


class AtomsweepSweeper(Sweeper):
    """The cells of a sweep file times the swept overrides; finished cells are not run again."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what composing needs; the task is not called, its words are the cells', as jobs."""
        from atomsweep.launch.choices import Choices
        from atomsweep.launch.composer import Composer
        from atomsweep.launch.typed import vocabulary

        self._loader = hydra_context.config_loader
        self._config = config
        self._words: Sequence[str] = getattr(task_function, "words", ())
        self._known = vocabulary()
        groups = {*self._known.groups, *config.hydra.runtime.choices}
        self._composer = Composer(Choices(self._loader, config.hydra.overrides.hydra), groups)

    def sweep(self, arguments: list[str]) -> Any:
        """Compose every cell, then plan and run them; exit code 1 if a cell does not finish."""
        from atomsweep.build import UserError
        from atomsweep.console import Progress, to_terminal
        from atomsweep.launch.compose import Cells
        from atomsweep.launch.execute import warm_up
        from atomsweep.launch.many import run_sweep
        from atomsweep.launch.survey import check_plan, check_rerun
        from atomsweep.sweep.grid import grid, is_of_launch
        from atomsweep.sweep.study import StudyFile, read_statement
        from atomsweep.tracking.files import DamagedFile, told

        to_terminal()
        start: Start | None = None
        arguments = list(self._words) or arguments
        try:
            typed = {k: v for k, v in self._typed(arguments).items() if not is_of_launch(k)}
            chosen = self._config.hydra.runtime.choices.get(GROUP)
            path = None if chosen is None else self._path_of(chosen)
            statement = None if path is None else read_statement(path)
            check_rerun(self._config.rerun)
            check_plan(self._config.plan)
            if isinstance(statement, StudyFile):
                if self._config.hydra.runtime.choices.get("until") == "decided":
                    raise UserError(
                        f"until=decided needs claims, and {chosen} is a study, which has none; "
                        "leave it out"
                    )
                start = warm_up(self._root([o for one in typed.values() for o in one]))
                sys.exit(self._study(statement, chosen, typed, start))
            wanted = grid(typed, statement, chosen, self._config.scale)
            wanted = replace(wanted, name=self._name() or wanted.name)
            if not wanted.cells:
                raise UserError("every cell is excluded; take something out of exclude")
            of_file = None if path is None else (path, [o for one in typed.values() for o in one])
            until = self._until(wanted, of_file)
            start = warm_up(self._root(wanted.cells[0][0], of_file))
            cells, cell_of = [], Cells()
            with Progress.of_cells("composing", len(wanted.cells)) as progress:
                for overrides, label in wanted.cells:
                    try:
                        config, choices = self._compose(overrides, of_file)
                        cells.append(cell_of(config, choices, overrides, label, wanted.groups))
                    except UserError as error:
                        if self._config.plan and isinstance(error.__cause__, FileNotFoundError):
                            log.info("%s", "\n".join(wanted.told()))
                        raise
                    progress.update(1)
            sys.exit(run_sweep(cells, wanted, self._config.plan, self._config.rerun, start, until))
        except (UserError, OSError, DamagedFile) as error:
            if start is not None and start.code is not None:
                start.code.discard()
            sys.exit(f"error: {told(error)}")

    def _until(self, wanted: Any, of_file: OfFile | None) -> Any:
        """What `until=decided` asks for: claims are looked at as their page would show them."""
        if self._config.hydra.runtime.choices.get("until") != "decided":
            return None
        from atomsweep.launch.compose import Cells
        from atomsweep.launch.until import Until

        cell_of = Cells()

        def another(cell: Any, seed: int) -> Any:
            overrides = [f"seed={seed}" if o.startswith("seed=") else o for o in cell.overrides]
            config, choices = self._compose(overrides, of_file)
            return cell_of(config, choices, overrides, cell.label, wanted.groups)

        def look(root: Path, sweep: str) -> Any:
            from atomsweep.report.pages.report import look
            from atomsweep.report.read.directories import read_directories
            from atomsweep.sweep.looks import Look

            try:
                return look(read_directories(root), sweep)
            except (LookupError, FileNotFoundError):  # nothing of it has been launched
                return Look()

        return Until.of(wanted, self._config.until.device_hours, another, look)

    def _study(
        self, statement: Any, chosen: str, typed: dict[str, list[str]], start: "Start"
    ) -> int:
        """Drive a study, which composes its trials one by one."""
        from atomsweep.launch.compose import Cells
        from atomsweep.launch.study.request import Request, run_study

        cell_of = Cells()

        def compose(overrides: list[str]) -> Any:
            config, choices = self._compose(overrides)
            return cell_of(config, choices, overrides)

        search: Any = OmegaConf.to_container(self._config.search)
        request = Request.of(statement, chosen, typed, self._config.scale, search, compose)
        request = replace(request, name=self._name() or request.name)
        return run_study(request, self._config.plan, self._config.rerun, start)

    def _name(self) -> str | None:
        """What was typed after `sweep=`: cells do not know of it, it would make them others."""
        from atomsweep.launch.plan import check_name

        if self._config.sweep is not None:
            check_name(str(self._config.sweep))
            return str(self._config.sweep)
        return None

    def _root(self, overrides: list[str], of_file: OfFile | None = None) -> Path | None:
        """Where the code is copied to, which a plan does not need: where a cell is put."""
        if self._config.plan:
            return None
        if OmegaConf.is_interpolation(self._config, "root"):  # of values that only cells have
            return Path(self._compose(overrides, of_file)[0]["root"]).absolute()
        return Path(self._config.root).absolute()

    def _compose(
        self, overrides: list[str], of_file: OfFile | None = None
    ) -> tuple[dict[str, Any], Any]:
        """Config and choices of a cell; what Hydra says of a wrong one becomes a sentence."""
        from hydra.errors import HydraException

        from atomsweep.build import UserError
        from atomsweep.launch.typed import told
        from atomsweep.sweep.file import place_of

        try:
            return self._composer(overrides)
        except HydraException as error:
            where = ""
            if of_file is not None:
                path, typed = of_file
                where = place_of(path, overrides, str(error), typed)
            raise UserError(f"{where}{told(error, overrides, self._known)}") from error

    def _typed(self, arguments: list[str]) -> dict[str, list[str]]:
        """Key → what was typed for it: one override, or one for each swept value."""
        parsed = OverridesParser.create(config_loader=self._loader).parse_overrides(arguments)
        typed = {}
        for override in parsed:
            key = override.get_key_element()
            if override.is_sweep_override():
                values = dict.fromkeys(override.sweep_string_iterator())
                typed[key] = [f"{key}={value}" for value in values]
            else:
                typed[key] = [override.input_line or ""]
        return typed

    def _path_of(self, chosen: str) -> Path:
        elements = self._loader.get_search_path().get_path()
        places = (Path(e.path.removeprefix(f"{SweepFiles.scheme()}://")) for e in elements)
        paths = (place / GROUP / f"{chosen}.yaml" for place in places)
        return next(path for path in paths if path.is_file())
