"""What Hydra composes of choices: each file of options is read once, and Hydra's own are left out.

Hydra reads and checks every file anew for each config, and half of what it composes are settings
of its own. Here its functions put together files that are kept, and refuse in its words.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.default_element import GroupDefault, InputDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from atomsweep.launch.typed import CONFIG

HYDRA = "hydra"  # its node of a config, and the folder of its groups


class Choices:
    """Composes configs without their `hydra` node. Files that change meanwhile are not read again.

    Args:
        loader: Hydra's `ConfigLoaderImpl`, that knows where options lie.
        of_hydra: what was typed for Hydra itself, which may name more such places.
    """

    def __init__(self, loader: Any, of_hydra: Sequence[str] = ()) -> None:
        self._loader, self._parser = loader, OverridesParser.create()
        self._files = _Files(loader.repository)
        loader._process_config_searchpath(
            CONFIG, self._parser.parse_overrides(list(of_hydra)), self._files
        )

    def __call__(self, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, Any]]:
        """A config of one's own, interpolations as they stand, and the choice of each group.

        Raises:
            HydraException: an override that nothing answers.
        """
        parsed = self._parser.parse_overrides(list(overrides))
        if any(one.is_hydra_override() for one in parsed):
            return self._by_hydra(list(overrides))
        self._loader.validate_sweep_overrides_legal(parsed, RunMode.RUN, from_shell=True)
        try:
            found = create_defaults_list(
                self._files, CONFIG, parsed, prepend_hydra=False, skip_missing=False
            )
            self._files.to_merge = True
            config = self._loader._compose_config_from_defaults_list(found.defaults, self._files)
            config.pop(HYDRA, None)
            OmegaConf.set_struct(config, True)
            self._loader._apply_overrides_to_config(found.config_overrides, config)
        except OmegaConfBaseException as error:
            raise ConfigCompositionException() from error
        finally:
            self._files.to_merge = False
        return config, dict(found.overrides.known_choices)

    def _by_hydra(self, overrides: list[str]) -> tuple[DictConfig, dict[str, Any]]:
        whole = self._loader.load_configuration(CONFIG, overrides, RunMode.RUN)
        config = OmegaConf.masked_copy(whole, [str(key) for key in whole if key != HYDRA])
        OmegaConf.set_struct(config, True)
        return config, dict(whole[HYDRA].runtime.choices)


class _Files(CachingConfigRepository):
    """Files that were read, without what they choose for Hydra itself.

    Attributes:
        to_merge: give copies, since merging puts into the config what it is given.
    """

    to_merge = False

    def load_config(self, config_path: str) -> ConfigResult | None:
        is_new = f"config_path={config_path}" not in self.cache
        found = super().load_config(config_path)
        if found is None:
            return None
        if is_new and found.defaults_list is not None:
            found.defaults_list = [one for one in found.defaults_list if not _is_of_hydra(one)]
        return replace(found, config=deepcopy(found.config)) if self.to_merge else found


def _is_of_hydra(default: InputDefault) -> bool:
    group = default.group if isinstance(default, GroupDefault) else None
    return default.is_override() and (group or "").lstrip("/").startswith(f"{HYDRA}/")
