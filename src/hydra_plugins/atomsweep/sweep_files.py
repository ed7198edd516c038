"""Where Hydra finds groups, and `sweeps=forcenet/table5`: the directory `sweeps/` as one of them.

`conf/` and `sweeps/` of the present folder come first, then what is shipped, then what studies of
this root have found, then the `conf/` of packages that `ATOMSWEEP_PLUGINS` names. What a sweep file
says is read by `atomsweep.sweep.file`; to Hydra its choice only means multirun.
"""

import re
import sys
from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

GROUP = "sweeps"
HERE, FOUND = "present folder", "studies"


class SweepSearchPath(SearchPathPlugin):
    """Adds the present folder, sweep files and plugins to where Hydra looks."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """What is here comes before what is shipped, and that before what a plugin calls alike."""
        from atomsweep.build import UserError, plugins
        from atomsweep.launch.typed import found_options
        from atomsweep.shipped import CONF, SWEEPS, places, shipped

        known = {(element.path or "").removeprefix("file://") for element in search_path.get_path()}
        if str(shipped(CONF)) not in known:  # another program of this environment
            return
        for place in places(CONF)[:-1]:
            search_path.prepend(HERE, f"file://{place}", "main")
        best = found_options(sys.argv[1:])  # Hydra asks before the config is composed
        if best.is_dir():  # first: earlier versions wrote options of the same names into conf/
            _check_options(best)
            search_path.prepend(FOUND, f"file://{best}", "hydra")
        for place in places(SWEEPS):
            search_path.append(GROUP, f"{SweepFiles.scheme()}://{place.parent}")
        try:
            for name, folder in plugins().items():
                if (folder / CONF).is_dir():
                    search_path.append(name, f"file://{folder / CONF}")
        except UserError as error:
            sys.exit(f"error: {error}")


class SweepFiles(FileConfigSource):
    """Of a directory, the sub-directory `sweeps` and nothing else."""

    @staticmethod
    def scheme() -> str:
        """Scheme of the search path."""
        return "sweeps"

    def load_config(self, config_path: str) -> ConfigResult:
        """Choosing a file turns a run into a sweep."""
        return ConfigResult(
            provider=self.provider,
            path=self.full_path(),
            config=OmegaConf.create({"hydra": {"mode": "MULTIRUN"}}),
            header={"package": "_global_"},
        )

    def is_group(self, config_path: str) -> bool:
        """Whether a path is a directory of sweeps."""
        return _inside(config_path) and super().is_group(config_path)

    def is_config(self, config_path: str) -> bool:
        """Whether a path is a sweep file."""
        return _inside(config_path) and super().is_config(config_path)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Files with their directories, so that a typo is answered with every sweep."""
        if config_path == "":
            return [] if results_filter == ObjectType.CONFIG else [GROUP]
        folder = Path(self.path, config_path)
        if not _inside(config_path) or results_filter == ObjectType.GROUP:
            return []
        return sorted(p.relative_to(folder).with_suffix("").as_posix() for p in files(folder))


def _check_options(folder: Path) -> None:
    """A root may come from elsewhere: its options set nothing of Hydra's, which would be code."""
    import yaml
    from omegaconf._utils import get_yaml_loader  # what Hydra reads with: no file may fool it alone

    for path in folder.rglob("*.yaml"):
        text = path.read_text(encoding="utf-8", errors="replace")
        try:
            content = yaml.load(text, Loader=get_yaml_loader())
        except (yaml.YAMLError, ValueError, RecursionError):
            continue  # Hydra says so where it is chosen
        content = content if isinstance(content, dict) else {}
        keys = [*content, *(str(entry) for entry in content.get("defaults") or [])]
        package = re.search(r"^#\s*@package\s+(\S+)", text, re.MULTILINE)
        elsewhere = package is not None and package[1] != "_global_"
        if elsewhere or any(re.search(r"(^|[/{' ])hydra([/.@:']|$)", str(key)) for key in keys):
            sys.exit(f"error: {path} must set nothing of Hydra's; delete it, or use another root")


def files(folder: Path) -> "list[Path]":
    """Every sweep file below `folder`."""
    return sorted(folder.rglob("*.yaml"))


def _inside(config_path: str) -> bool:
    return config_path.partition("/")[0] in ("", GROUP)
