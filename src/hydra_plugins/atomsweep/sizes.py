"""Values in `conf/` that hang on what else is chosen.

`${size:512, 64}` in a model's file is 512 with `size=published`, 64 with `size=small`;
`${case:${x}, {benzene: 1}, 2}` is 1 where x is benzene, else 2. Registered when Hydra looks for
plugins, so every composed config has them.
"""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf


def of_size(*values: Any, _root_: DictConfig) -> Any:
    """The value for the size that is chosen.

    Args:
        values: one for each option of `conf/size/`, in the order of their `column`.

    Raises:
        ValueError: there are fewer.
    """
    column = _root_.size.column
    if column >= len(values):
        raise ValueError(f"no value for this size in ${{size:{', '.join(map(str, values))}}}")
    value = values[column]
    return OmegaConf.create(value) if isinstance(value, list) else value


def of_case(chosen: Any, values: Mapping[str, Any], otherwise: Any) -> Any:
    """The value for what is chosen, or `otherwise`; a paper's table of settings in one place."""
    return values.get(str(chosen), otherwise)


OmegaConf.register_new_resolver("size", of_size, replace=True)
OmegaConf.register_new_resolver("case", of_case, replace=True)
