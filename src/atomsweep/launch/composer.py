"""Configs of many overrides: composed once for each set of choices, values set on what they share.

Hydra composes each config anew, and resolves every interpolation in it. Here both are done once for
all configs that choose the same options. A value that no interpolation reads is then set on the
plain result; any other value is set by Hydra's own means, on a copy, and resolved with the rest.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cache, lru_cache
from typing import Any, TypeVar

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from atomsweep.build import UserError
from atomsweep.sweep.file import LAUNCH_KEYS, key_of

K = TypeVar("K")
V = TypeVar("V")

OF_RUN = ("sweep", "sweeps")  # a run says of which it is
LAUNCH = tuple(key for key in LAUNCH_KEYS if key not in OF_RUN)
KEPT = 256  # sets of choices and values whose result is kept; a sweep goes through them in order
MISSING = "???"  # OmegaConf's word for a value that must be given

READS: Mapping[str, Sequence[str]] = {"size": ("size.column",), "case": (), "oc.env": ()}
"""Resolver → keys that it reads beside its arguments; of others nothing is known."""
_REFERENCE = re.compile(r"\$\{\s*([^${}:,\s]*)\s*(:|\})")
_SELECTED = re.compile(r"\$\{oc\.select:\s*([\w.]+)\s*[,}]")
_KEY = re.compile(r"\w+(\.\w+)*")


class Composer:
    """Composes configs, and does once what those that share their choices have in common.

    Args:
        compose: as `Choices` does, from overrides to a config and the choice of each group.
        groups: names of config groups.
    """

    def __init__(
        self,
        compose: Callable[[list[str]], tuple[DictConfig, dict[str, Any]]],
        groups: Collection[str],
    ) -> None:
        self._compose, self._groups = compose, groups
        self._composed: OrderedDict[tuple[str, ...], tuple[DictConfig, dict[str, Any]]]
        self._composed = OrderedDict()
        self._shared: OrderedDict[tuple[tuple[str, ...], tuple[str, ...]], _Shared] = OrderedDict()

    def __call__(self, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The resolved config of some overrides, and the choice of each group.

        Configs share what they have in common: to change one, copy the way to what changes.

        Raises:
            HydraException: an override that nothing answers.
            UserError: a missing value, or an interpolation that cannot be resolved.
        """
        chosen = tuple(o for o in overrides if self._is_choice(o))
        values = [o for o in overrides if not self._is_choice(o)]
        by_hydra: tuple[str, ...] = ()
        while True:
            shared = self._shared_by(chosen, by_hydra)
            more = {o for o in values if o not in by_hydra and not shared.takes(o)}
            if not more:
                return shared.with_values(values, by_hydra), shared.choices
            by_hydra = tuple(o for o in values if o in more or o in by_hydra)

    def unresolved(self, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, Any]]:
        """A config of one's own, and the choice of each group.

        Interpolations stand in it, and what is missing: all values are set by Hydra's means.

        Raises:
            HydraException: an override that nothing answers.
        """
        chosen = tuple(o for o in overrides if self._is_choice(o))
        return self._set(chosen, [o for o in overrides if not self._is_choice(o)])

    def _shared_by(self, chosen: tuple[str, ...], values: tuple[str, ...]) -> "_Shared":
        return _kept(
            self._shared, (chosen, values), lambda: _Shared(*self._set(chosen, values), values)
        )

    def _set(
        self, chosen: tuple[str, ...], values: Sequence[str]
    ) -> tuple[DictConfig, dict[str, Any]]:
        composed, choices = _kept(self._composed, chosen, lambda: self._compose(list(chosen)))
        config = deepcopy(composed)
        ConfigLoaderImpl._apply_overrides_to_config([_parsed(o) for o in values], config)
        return config, choices

    def _is_choice(self, override: str) -> bool:
        key, value = key_of(override), override.partition("=")[2]
        if key in self._groups and value.lstrip().startswith("{"):
            return False  # values of the option that is chosen
        return key in self._groups or key.partition(".")[0] == "hydra" or override[0] == "~"


class _Shared:
    """A config, resolved, and which values can be set on it without another look at the rest."""

    def __init__(self, config: DictConfig, choices: dict[str, Any], values: Sequence[str]) -> None:
        self.choices = choices
        self.error: UserError | None = None
        self.plain: dict[str, Any] = {}
        try:
            self.plain = resolved(config, throw_on_missing=False)
        except UserError as error:  # which a value may heal
            self.error = error
        nodes = dict(_leaves(OmegaConf.to_container(config, resolve=False)))
        texts = {k: v for k, v in nodes.items() if isinstance(v, str) and "${" in v}
        self._missing = {k for k, v in _leaves(self.plain) if v == MISSING}
        self._interpolated = set(texts)
        self._read = {key_of(o) for o in values}  # what is set before is not set again
        self._unknown = False
        for key, text in texts.items():
            read = read_by(key, text)
            self._unknown |= read is None
            self._read |= read or set()

    def takes(self, override: str) -> bool:
        """Whether its value replaces one that nothing else depends on."""
        parsed = _parsed(override)
        key, value = parsed.key_or_group, parsed.value()
        if self.error is not None or self._unknown or parsed.type != OverrideType.CHANGE:
            return False
        if parsed.package is not None or not _KEY.fullmatch(key) or parsed.is_sweep_override():
            return False
        if isinstance(value, dict | list) or (
            isinstance(value, str) and ("${" in value or value == MISSING)
        ):
            return False
        above = [key[: match.start()] for match in re.finditer(r"\.", key)]
        if self._interpolated.intersection(above) or self._read.intersection([key, *above]):
            return False
        if any(read.startswith(f"{key}.") for read in self._read):
            return False
        node: Any = self.plain
        for name in key.split("."):
            if not isinstance(node, dict) or name not in node:
                return False
            node = node[name]
        return not isinstance(node, dict | list)

    def with_values(self, values: Sequence[str], but: Collection[str]) -> dict[str, Any]:
        """The config with the values of overrides that it `takes`, those of `but` left out."""
        if self.error is not None:
            raise self.error
        set_here = {key_of(o): _parsed(o).value() for o in values if o not in but}
        if missing := sorted(self._missing - set_here.keys()):
            raise _must_be_given(missing[0])
        plain = dict(self.plain)
        copied: dict[tuple[str, ...], dict[str, Any]] = {(): plain}
        for key, value in set_here.items():
            *way, last = key.split(".")
            for depth in range(1, len(way) + 1):
                place = tuple(way[:depth])
                if place not in copied:
                    above = copied[place[:-1]]
                    copied[place] = above[place[-1]] = dict(above[place[-1]])
            copied[tuple(way)][last] = value
        return plain


def resolved(config: DictConfig, throw_on_missing: bool = True) -> dict[str, Any]:
    """A composed config as plain values, without what is of the launch.

    Raises:
        UserError: a missing value, or an interpolation that cannot be resolved.
    """
    try:
        return {
            str(key): _plain(config, str(key), throw_on_missing)
            for key in config
            if key not in LAUNCH
        }
    except MissingMandatoryValue as error:
        raise _must_be_given(str(error.full_key)) from error
    except OmegaConfBaseException as error:
        told = str(error).splitlines()[0]
        raise UserError(f"the config cannot be resolved: {told}") from error


def read_by(key: str, text: str) -> set[str] | None:
    """Keys that the interpolations in the value of `key` read; None where that cannot be told."""
    found: set[str] = set()
    known = list(_REFERENCE.finditer(text))
    if len(known) != text.count("${"):
        return None  # a name that is itself made of interpolations, or quoted text
    selected = _SELECTED.findall(text)
    for name, end in (match.groups() for match in known):
        if end == ":" and name == "oc.select":
            if not selected or selected[0].startswith("."):
                return None
            found.add(selected.pop(0))
        elif end == ":":
            if name not in READS:
                return None
            found.update(READS[name])
        elif "[" in name:
            return None
        elif name.startswith("."):
            dots = len(name) - len(name.lstrip("."))
            above = key.split(".")[:-dots]
            found.add(".".join([*above, name.lstrip(".")]))
        else:
            found.add(name)
    return found


def _plain(config: DictConfig, key: str, throw_on_missing: bool) -> Any:
    if not throw_on_missing and OmegaConf.is_missing(config, key):
        return MISSING
    value = config[key]
    if not OmegaConf.is_config(value):
        return value
    return OmegaConf.to_container(value, resolve=True, throw_on_missing=throw_on_missing)


def _must_be_given(key: str) -> UserError:
    return UserError(f"{key} must be given; type {key}=<value>")


def _leaves(node: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key → value, of what is no mapping and no list."""
    if isinstance(node, Mapping | list):
        pairs = node.items() if isinstance(node, Mapping) else enumerate(node)
        for name, value in pairs:
            yield from _leaves(value, f"{above}.{name}" if above else str(name))
    elif above:
        yield above, node


def _kept(cache: OrderedDict[K, V], key: K, make: Callable[[], V]) -> V:
    """What is kept for `key`, made if need be; the least recently used goes first."""
    if key not in cache:
        cache[key] = make()
        if len(cache) > KEPT:
            cache.popitem(last=False)
    cache.move_to_end(key)
    return cache[key]


@lru_cache(maxsize=4096)
def _parsed(override: str) -> Override:
    return _parser().parse_override(override)


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()
