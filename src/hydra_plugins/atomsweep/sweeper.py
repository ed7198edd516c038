"""`python run.py -m …`: Hydra composes each cell, `atomsweep.sweep` runs what is missing."""

import itertools
import sys
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class AtomsweepSweeper(Sweeper):
    """Grid over the swept overrides; finished cells are not run again."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what composing needs; the task function is not called, cells are jobs."""
        self._loader = hydra_context.config_loader
        self._config = config

    def sweep(self, arguments: list[str]) -> Any:
        """Compose every cell, then plan and run them; exit code 1 if a cell does not finish."""
        from atomsweep.build import UserError
        from atomsweep.console import to_terminal
        from atomsweep.experiment import cell_of, run_sweep

        to_terminal()
        try:
            axes, overrides = self._grid(arguments)
            cells = []
            for cell in overrides:
                cfg = self._loader.load_sweep_config(self._config, cell)
                cells.append(cell_of(cfg, cfg.hydra.runtime.choices, cell))
            sys.exit(run_sweep(cells, axes))
        except UserError as error:
            sys.exit(f"error: {error}")

    def _grid(self, arguments: list[str]) -> tuple[dict[str, list[str]], list[list[str]]]:
        """Swept keys with their values, and the overrides of each cell, last key fastest."""
        parsed = OverridesParser.create(config_loader=self._loader).parse_overrides(arguments)
        axes: dict[str, list[str]] = {}
        lists: list[Sequence[str]] = []
        for override in parsed:
            if override.is_sweep_override():
                values = list(dict.fromkeys(override.sweep_string_iterator()))
                axes[override.get_key_element()] = [str(value) for value in values]
                lists.append([f"{override.get_key_element()}={value}" for value in values])
            else:
                lists.append([override.input_line or ""])
        return axes, [list(cell) for cell in itertools.product(*lists)]
