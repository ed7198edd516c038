"""Identity of a run: the hash of what changes the science, and of nothing else.

Everything in the resolved config counts unless `NEUTRAL_KEYS` names it. A key forgotten there costs
one run that need not have been made; a key forgotten in a list of what counts would pass off
another run's result as this one's.

Not hashed as they stand: `data` (its fingerprint counts, so the same data at another path is the
same science), keys that are null and groups that are empty (an option that is not given equals an
option that does not exist), and options at the value of `NEUTRAL_DEFAULTS`. A class is hashed by
its name, not by the file it lies in (`atomsweep.classes`).
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from atomsweep.classes import class_name, first_path

IDENTITY_VERSION = 2
"""How a class is hashed: in version 1 by its path, since version 2 by its name.

A new version needs its own row in `_CLASS`, so that runs of older versions are still found.
"""
_CLASS: Mapping[int, Callable[[str], str]] = {1: first_path, 2: class_name}

NEUTRAL_KEYS: Mapping[str, str] = {
    "data": "its fingerprint stands for it: paths, workers and caches do not change a result",
    "root": "where runs are kept",
    "name": "how a run is called",
    "tracking": "who is told about a run",
    "cluster": "where and how jobs are started",
    "sweep": "which comparison asked for the run",
    "sweeps": "which file asked for the run",
    "search": "how a study chooses values; the values themselves are in their groups",
    "until": "how many seeds are trained; each of them is a run of its own",
    "experiment": "a bundle of choices; the choices themselves are in their groups",
    "metric": "the default of engine.metric, which counts",
    "hydra": "the composer's own settings",
    "engine.device": "the same arithmetic elsewhere; recorded in environment.json",
    "engine.threads": "speed only",
    "engine.workers": "speed only",
    "engine.sharded": "memory only: the same sums, kept in parts",
    "engine.cache_gib": "speed only: the same batches, made earlier",
    "engine.compile": "the same arithmetic up to rounding, as on another device; what it drops out "
    "differs where there is dropout, as on other ranks",
    "engine.eval_batch_size": "memory only: metrics are sums over structures",
    "engine.checkpoint_every": "a resumed run is bit-identical wherever it was cut",
    "engine.log_every": "what is written, not what is computed",
    "engine.progress": "what is shown",
}
"""Dotted keys that do not change a result, with the reason."""

NEUTRAL_DEFAULTS: Mapping[str, Any] = {
    "basis.l_max": 2,
    "dens.dynamics": True,
    "model.aggregation": "sum",
    "model.basis.l_max": 2,
    "model.detached_angles": False,
    "model.init": "port",
    "model.lin_up_bias": False,
}
"""Options added after runs existed: dotted key -> the value at which it does what was done before.

Example: `{"model.dropout": 0.0}`. A key at that value is left out, so that old identities stay
valid. A part that is injected (`model.basis: ${basis}`) needs a row for each place.
"""

KEPT = 4096  # parts of configs whose normal form is remembered

_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def science(
    config: Mapping[str, Any],
    data_fingerprint: str,
    neutral_defaults: Mapping[str, Any] = NEUTRAL_DEFAULTS,
) -> dict[str, Any]:
    """The part of a resolved config that decides a result, normalised.

    Numbers are compared as numbers (1, 1.0 and "1e0" are one value, and so are 0.0 and -0.0),
    booleans stay apart from them, sequences are lists.

    Args:
        config: the resolved config as plain dicts and lists.
        data_fingerprint: hash of the data set's content, from the data room.
        neutral_defaults: table as `NEUTRAL_DEFAULTS`.

    Raises:
        TypeError: a value is neither a number, string, boolean, null, list nor mapping.
        ValueError: the fingerprint is empty.
    """
    if not data_fingerprint:
        raise ValueError("data_fingerprint must be the hash of the data set, got an empty string")
    neutral = _text(neutral_defaults)
    kept: dict[str, Any] = {}
    for name, part in config.items():
        kept |= _science_of(str(name), _text(part, str(name)), neutral)
    return {**kept, "data": {"fingerprint": data_fingerprint}}


def measured(config: Mapping[str, Any], axes: Iterable[str]) -> dict[str, Any]:
    """What a sweep varies though it changes no result, e.g. `cluster.ranks`: key -> value.

    Such a sweep measures speed, so its cells are runs of their own: this part is added to their
    science. Whole groups (`cluster=…`) say where a sweep runs, and are not measured.

    Args:
        config: the resolved config.
        axes: keys that the sweep varies.
    """
    found = {}
    for axis in axes:
        key = axis.lstrip("+")
        group, _, rest = key.partition(".")
        if group not in ("cluster", "engine") or not rest or not {key, group} & set(NEUTRAL_KEYS):
            continue
        value: Any = config
        for name in key.split("."):
            value = value[name]
        found[key] = value
    return found


def identity(science: Mapping[str, Any], version: int = IDENTITY_VERSION) -> str:
    """12 hex digits of SHA-256 over the canonical JSON of `science` and the version."""
    parts = {str(name): _spelt(_text(part, str(name)), version) for name, part in science.items()}
    whole = ",".join(f"{canonical(name)}:{parts[name]}" for name in sorted(parts))
    content = f'{{"science":{{{whole}}},"version":{version}}}'  # as `canonical` writes it
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def former_identities(science: Mapping[str, Any]) -> tuple[str, ...]:
    """Identities of the same science by earlier versions, newest first: they find old runs."""
    return tuple(identity(science, version) for version in range(IDENTITY_VERSION - 1, 0, -1))


def canonical(obj: Any) -> str:
    """JSON with one spelling: sorted keys, no spaces, plain Unicode."""
    return json.dumps(
        obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


# Parts of a config, `model` or `optim`, are the same in many runs: what is made of one is kept


def _text(part: Any, key: str = "") -> str:
    """A part as JSON, equal for equal ones alone: what is not normal, NaN among it, stays so."""
    try:
        return json.dumps(part)
    except (TypeError, ValueError):  # `_normal` tells where
        return json.dumps(_normal(part, key))


@lru_cache(maxsize=KEPT)
def _science_of(name: str, text: str, neutral: str) -> dict[str, Any]:
    """What counts of one part of a config: {} or the part under its name."""
    defaults = {key: _normal(value, key) for key, value in json.loads(neutral).items()}
    return _strip({name: _normal(json.loads(text), name)}, "", defaults)


@lru_cache(maxsize=KEPT)
def _spelt(text: str, version: int) -> str:
    """One part of a run's science as a version of the identity hashes it."""
    return canonical(_with_classes(_normal(json.loads(text), ""), _CLASS[version]))


def _normal(value: Any, key: str) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _number(float(value)) if _EXPONENT.fullmatch(value) else value
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, Mapping):
        return {str(k): _normal(v, f"{key}.{k}" if key else str(k)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_normal(v, f"{key}[{i}]") for i, v in enumerate(value)]
    raise TypeError(
        f"config key {key} must be a number, string, boolean, null, list or mapping, "
        f"got {type(value).__name__}; resolve the config to plain containers first"
    )


def _with_classes(node: Any, spell: Callable[[str], str]) -> Any:
    """The same tree with the class of each part spelt as a version of the identity spells it."""
    if isinstance(node, Mapping):
        return {
            key: spell(value) if key == "_target_" else _with_classes(value, spell)
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [_with_classes(value, spell) for value in node]
    return node


def _number(value: float) -> int | float | str:
    """Whole numbers as int (so -0.0 is 0), others as float, non-finite ones by name."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return f".{value}"  # .nan .inf .-inf
        if value.is_integer():
            return int(value)
    return value


def _strip(node: Mapping[str, Any], prefix: str, neutral: Mapping[str, Any]) -> dict[str, Any]:
    """Without neutral keys, options at their neutral default, nulls and empty groups."""
    kept: dict[str, Any] = {}
    for name, value in node.items():
        key = f"{prefix}{name}"
        if key in NEUTRAL_KEYS or value is None:
            continue
        if key in neutral and canonical(value) == canonical(neutral[key]):
            continue
        if isinstance(value, Mapping):
            value = _strip(value, f"{key}.", neutral)
            if not value:
                continue
        kept[name] = value
    return kept
