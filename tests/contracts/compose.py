"""Compose the configuration as run.py does, and build its model."""

from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from atomsweep.models.base import ForceField

CONF = Path(__file__).parents[2] / "conf"
CONFIG_NAME = "model_axes"

ConfigStore.instance().store(
    name=CONFIG_NAME,
    node={
        "defaults": [
            "_self_",
            {"basis": "sph"},
            {"act": "swish"},
            {"model": "forcenet"},
            {"ablation": "none"},
        ]
    },
)


def compose(overrides: list[str]) -> DictConfig:
    """The config of `python run.py <overrides>`."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra_compose(CONFIG_NAME, overrides)


def build_model(overrides: list[str]) -> ForceField:
    """The model of `python run.py <overrides>`."""
    return instantiate(compose(overrides).model)
