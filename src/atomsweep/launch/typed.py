"""What was typed: held against what there is before Hydra composes it, and what Hydra says of it.

Hydra's messages tell what its parser met, and advise `+key`, which trains the same as before under
another name. Ours tell what there is and what to type.
"""

import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, QuotedString
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import OmegaConf

from atomsweep.build import UserError, plugins
from atomsweep.console import suggestion
from atomsweep.shipped import CONF, SWEEPS, places, shipped
from atomsweep.sweep.file import Scalar, key_of, spelt
from atomsweep.sweep.grid import is_of_launch
from atomsweep.tracking import schema
from atomsweep.tracking.files import read_yaml

CONFIG = "config"  # name of the primary config
READ_BY_HYDRA = ("hydra.searchpath", "hydra.mode")


@dataclass(frozen=True)
class Vocabulary:
    """What can be typed.

    Attributes:
        folders: in which groups of options lie.
        loader: makes the loader that composes; asked only when something is wrong.
    """

    folders: Sequence[Path]
    loader: Callable[[], ConfigLoader]

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """Group → its options; of `sweeps`, files with their folders."""
        found: dict[str, set[str]] = {}
        for folder in self.folders:
            for path in folder.rglob("*.yaml"):
                place = path.relative_to(folder).with_suffix("").as_posix()
                group, _, option = place.partition("/")
                if option and group != "hydra":
                    found.setdefault(group, set()).add(option)
        sweeps = {
            path.relative_to(place).with_suffix("").as_posix()
            for place in places(SWEEPS)
            for path in place.rglob("*.yaml")
        }
        return {group: sorted(options) for group, options in {**found, SWEEPS: sweeps}.items()}

    @cached_property
    def names(self) -> set[str]:
        """What can stand before the first point of a key."""
        return {*names_of_config(), *self.groups}

    def content(self, group: str, option: str) -> list[Any]:
        """What stands in an option's file and in those of its group that it begins with."""
        files = [folder / group / f"{option}.yaml" for folder in self.folders]
        path = next((path for path in files if path.is_file()), None)
        if path is None:
            return []
        content = read_yaml(path.read_text(encoding="utf-8")) or {}
        parents = [one for one in content.get("defaults", ()) if isinstance(one, str)]
        return [content, *(self.content(group, one) for one in parents if one != "_self_")]

    def keys(self, words: Iterable[str]) -> list[str]:
        """Every key of the config that the choices among `words` make, of several the first."""
        chosen = [
            w.partition(",")[0] for w in words if key_of(w) in self.groups and key_of(w) != SWEEPS
        ]
        try:
            loader = self.loader()
            try:
                cfg = loader.load_configuration(CONFIG, chosen, RunMode.RUN)
            except HydraException:
                cfg = loader.load_configuration(CONFIG, [], RunMode.RUN)
        except HydraException:
            return []
        mine = [str(key) for key in cfg if key != "hydra"]
        return sorted(keys_of(OmegaConf.to_container(OmegaConf.masked_copy(cfg, mine))))


@cache
def names_of_config() -> frozenset[str]:
    """Groups and keys that `conf/config.yaml` names."""
    content = read_yaml((shipped(CONF) / f"{CONFIG}.yaml").read_text(encoding="utf-8"))
    groups = {str(next(iter(one))) for one in content.pop("defaults") if isinstance(one, dict)}
    return frozenset(content) | {group for group in groups if " " not in group}


def vocabulary(more: Iterable[Path] = ()) -> Vocabulary:
    """What this folder, the package, its plugins and the folders `more` offer.

    Raises:
        UserError: a plugin cannot be found.
    """
    of_plugins = [folder / CONF for folder in plugins().values()]
    return Vocabulary([*map(Path, more), *places(CONF), *of_plugins], make_loader)


def found_options(words: Iterable[str]) -> Path:
    """Folder of the options that studies have found in the root that a command names."""
    typed = [word.partition("=")[2].strip("'\"") for word in words if word.startswith("root=")]
    root = Path(typed[-1] if typed else "runs").expanduser()
    return (root / schema.PLANS / schema.OPTIONS).absolute()


def make_loader() -> Any:
    """What composes, as `hydra.main` makes it."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_automatic_config_search_path
    from hydra.core.plugins import Plugins

    Plugins.instance()
    path = create_automatic_config_search_path(None, None, str(shipped(CONF)))
    return ConfigLoaderImpl(config_search_path=path)


def checked(words: Sequence[str], known: Vocabulary, multirun: bool) -> list[str]:
    """The words as Hydra is to read them: `~/` of a value is the home directory.

    Args:
        words: overrides, as they were typed.
        known: what there is.
        multirun: several values may stand for one.

    Raises:
        UserError: a word that cannot be read, is unknown, or would do nothing.
    """
    words = [_at_home(word) for word in words]
    parsed = [_parsed(word) for word in words]
    _check_once(words, parsed, multirun)
    names = {override.key_or_group for override in parsed}
    for word, override in zip(words, parsed, strict=True):
        if override.is_sweep_override() and (is_of_launch(word) or key_of(word) == "root"):
            raise UserError(
                f"{word} names several values, and a launch has one; launch each by itself"
            )
        if "hydra.searchpath" not in names:  # which may bring other groups
            _check_name(word, override, known, words)
            _check_options(override, known)
        _check_value(word, override, known, multirun or SWEEPS in names)
        if SWEEPS not in names:
            _check_lone(word, multirun)
    return words


def _check_lone(word: str, multirun: bool) -> None:
    """Refuse a word of a sweep, or of its file, where there is none: it would do nothing."""
    group = key_of(word).partition(".")[0]
    if group in ("scale", "search"):
        raise UserError(f"{word} is for a sweep file, and there is none; add sweeps=<file>")
    if group == "sweep" and not multirun:
        raise UserError(f"{word} names a sweep, and this is one run; add -m or sweeps=<file>")


def num_cells(words: Sequence[str]) -> int:
    """Cells that words sweep over, those of a sweep file left out."""
    swept = [override for override in map(_parsed, words) if override.is_sweep_override()]
    swept = [override for override in swept if not isinstance(override.value(), Glob)]  # few
    return math.prod(sum(1 for _ in override.sweep_iterator()) for override in swept)


def told(error: HydraException, words: Sequence[str], known: Vocabulary) -> str:
    """What Hydra says of words that passed `checked`, in a sentence."""
    text = str(error).partition("Config search path")[0]
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return f"{group} has no option {option}; {suggestion(option, error.options)}"
    if match := re.match(r"Could not override '([^']+)'", text):
        return _unknown_here(match[1].partition("@")[0], words, known)
    if match := re.match(r"Could not append to config.*at '([^']+)'", text):
        return f"{match[1]} is there already; type {match[1]}=… without +"
    if match := re.match(r"Could not delete.*'([^']+)'", text):
        return unknown(match[1], known.keys(words))
    return " ".join(text.replace("See https", "\n").split("\n")[0].split())


def _unknown_here(key: str, words: Sequence[str], known: Vocabulary) -> str:
    """As `unknown`; options of its group that have such a key are told first."""
    group, _, rest = key.partition(".")
    have = [
        option
        for option in known.groups.get(group, ())
        for folder in known.folders
        if (path := folder / group / f"{option}.yaml").is_file()
        and re.search(rf"^{re.escape(rest)}:", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    if rest and have:
        chosen = next((w for w in words if key_of(w) == group), f"the {group} that is chosen")
        return f"there is no {key} with {chosen}; it is of {group}={'|'.join(have)}"
    return unknown(key, known.keys(words))


def unknown(key: str, keys: Iterable[str]) -> str:
    """The sentence that answers a key that is not there.

    Args:
        key: as typed, `optim.lrr`.
        keys: all there are, with their parents.
    """
    keys = sorted(keys)
    parent, _, last = key.rpartition(".")
    same = [k for k in keys if k.rpartition(".")[2] == last]
    if len(same) == 1:
        return f"there is no {key}; did you mean {same[0]}?"
    if same:
        return f"there is no {key}; did you mean one of {', '.join(same)}?"
    inside = [k for k in keys if k.rpartition(".")[0] == parent]
    if not inside:
        return unknown(parent, keys) if parent else f"there is no {key}; --help shows what there is"
    names = [k.rpartition(".")[2] for k in inside]
    return f"there is no {key}; {suggestion(last, names, f'{parent}.' if parent else '')}"


def keys_of(content: Any, above: str = "") -> list[str]:
    """Every key of nested mappings, `optim.optimizer.lr`, those with keys below them too."""
    if not isinstance(content, Mapping):
        return []
    found = []
    for name, value in content.items():
        key = f"{above}{name}"
        found += [key, *keys_of(value, f"{key}.")]
    return [key for key in found if not key.rpartition(".")[2].startswith("_")]


def _at_home(word: str) -> str:
    """A shell leaves `~` after an equals sign as it is."""
    key, equals, value = word.partition("=")
    inner = value.strip("'\"")
    if not equals or not (inner == "~" or inner.startswith("~/")):
        return word
    return f"{key}={value.replace('~', str(Path.home()), 1)}"


def _parsed(word: str) -> Override:
    if "=" not in word and not word.startswith("~"):
        raise UserError(
            f"{word!r} is no choice; type group=option or key=value, such as basis=sine or "
            "engine.steps=10"
        )
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        if re.search(r"(=|,)\s*(,|$)", word):
            raise UserError(
                f"{word} has an empty value beside a comma; leave no comma at its ends and no "
                "space behind one"
            ) from None
        raise UserError(
            f"{word} cannot be read; a value with characters other than letters, digits and "
            f"/ . - _ + % @ * : ? | is quoted twice, for the shell and for Hydra: {_quoted(word)}"
        ) from None


def _quoted(word: str) -> str:
    key, _, value = word.partition("=")
    inner = value.strip("'\"").replace("\\", "\\\\").replace('"', '\\"').replace("${", "\\${")
    return shlex.quote(f'{key}="{inner}"')


def _check_once(words: Sequence[str], parsed: Sequence[Override], multirun: bool) -> None:
    """The last of two words for one key would win without a sound."""
    first: dict[str, str] = {}
    for word, override in zip(words, parsed, strict=True):
        if override.is_delete():
            continue
        key = override.get_key_element()
        if (before := first.setdefault(key.lstrip("+"), word)) is not word:
            many = f"; for a sweep over both: {'' if multirun else '-m '}{key}=<one>,<other>"
            raise UserError(f"{key} is typed twice, {before} and {word}; leave one out{many}")


def _check_name(word: str, override: Override, known: Vocabulary, words: Sequence[str]) -> None:
    key = override.key_or_group
    top = re.split(r"[./]", key)[0]
    if top == "hydra":
        if key not in READ_BY_HYDRA:
            raise UserError(
                f"{word} does nothing here: runs lie below root=<folder>, cluster= says where they "
                "are trained, and runs start in the folder of the launch; leave it out"
            )
    elif top not in known.names or ("/" in key and key not in known.groups):
        near = unknown(key.replace("/", "."), {*known.names, *known.keys(words)} - {"hydra"})
        raise UserError(near.replace(key.replace("/", "."), key, 1))
    elif override.is_delete() and key in known.names:
        none = f"; type {key}=none" if "none" in known.groups.get(key, ()) else ""
        raise UserError(f"{word} takes out what every run needs{none}")


def _check_value(word: str, override: Override, known: Vocabulary, multirun: bool) -> None:
    key, value = override.key_or_group, override.value()
    if override.is_delete():
        return
    if value == "":
        raise UserError(f"{word} has no value; type {word}<value>, or leave it out")
    if override.is_sweep_override() and not multirun:
        raise UserError(
            f"{word} names several values; a sweep over them begins with -m, and one value with "
            f"commas or brackets is quoted: {_quoted(word)}"
        )
    if key == "root" and not override.is_sweep_override() and not isinstance(value, str):
        raise UserError(
            f"{word} names a folder, and {value} is read as no text; quote it: {_quoted(word)}"
        )
    if override.is_interval_sweep():
        raise UserError(
            f"{word} is a range to search, and a sweep takes a list, {key}=1,2; a study searches: "
            "state the range in a file like sweeps/hpo/forcenet.yaml"
        )
    for name in re.findall(r"(?<!\\)\$\{([^}:]*)\}", word.partition("=")[2]):
        if re.split(r"[.\[]", name)[0] not in known.names:
            raise UserError(
                f"{word} refers to the key {name or '(empty)'}, which does not exist; if the value "
                f"is to have these characters, quote them: {_quoted(word)}"
            )


def _check_options(override: Override, known: Vocabulary) -> None:
    group, value = override.key_or_group, override.value()
    if group not in known.groups or override.is_delete() or value == "":
        return
    if isinstance(value, list):
        together = ",".join(map(str, value))
        raise UserError(f"{group} takes one option, or several to sweep: -m {group}={together}")
    if override.is_sweep_override() and not isinstance(value, ChoiceSweep):
        return
    for option in value.list if isinstance(value, ChoiceSweep) else [value]:
        name = option.text if isinstance(option, QuotedString) else spelt(cast(Scalar, option))
        if name not in known.groups[group] and "${" not in name:
            raise UserError(
                f"{group} has no option {name}; {suggestion(name, known.groups[group])}"
            )
