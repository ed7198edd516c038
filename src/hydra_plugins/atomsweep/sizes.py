"""`${size:512, 64}` in a model's file: 512 with `size=published`, 64 with `size=small`.

Registered when Hydra looks for plugins, so every composed config has it.
"""

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


OmegaConf.register_new_resolver("size", of_size, replace=True)
