"""Compose the configuration as run.py does, and build its model."""

import os
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from atomsweep.build import build
from atomsweep.launch.choices import Choices
from atomsweep.launch.composer import Composer
from atomsweep.launch.typed import vocabulary
from atomsweep.models.base import ForceField
from atomsweep.shipped import places
from tests.places import CONF


def hydra_composed(overrides: list[str]) -> DictConfig:
    """The config of `python run.py <overrides>` as Hydra composes it, with its `hydra` node."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra_compose("config", overrides, return_hydra_config=True)


@cache  # composing takes most of the time of a test that builds something small
def _composer(plugins: str | None, folders: tuple[Path, ...]) -> Composer:
    known = vocabulary()
    return Composer(Choices(known.loader()), known.groups)


def compose_with_choices(overrides: list[str]) -> tuple[DictConfig, dict[str, Any]]:
    """The config of `python run.py <overrides>`, and the option chosen in each group."""
    composer = _composer(os.environ.get("ATOMSWEEP_PLUGINS"), tuple(places("conf")))
    return composer.unresolved(overrides)


def compose(overrides: list[str]) -> DictConfig:
    """The config of `python run.py <overrides>`."""
    return compose_with_choices(overrides)[0]


def build_model(overrides: list[str]) -> ForceField:
    """The model of `python run.py <overrides>`."""
    return build(model_config(overrides), "model")


def num_parameters(*overrides: str) -> int:
    """Of the model of `python run.py <overrides>`, which is built without memory for them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_model(list(overrides)).parameters())


def model_config(overrides: list[str]) -> Any:
    """The model of `python run.py <overrides>` as a run gets it, plain and resolved."""
    return deepcopy(_model_config(tuple(overrides), os.environ.get("ATOMSWEEP_PLUGINS")))


@cache  # most of the time that a test of a small model takes
def _model_config(overrides: tuple[str, ...], plugins: str | None) -> Any:
    return OmegaConf.to_container(compose(list(overrides)).model, resolve=True)
