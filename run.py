"""The one entry: a choice of config groups becomes a run; with -m, a set of choices a sweep."""

import sys

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float | None:
    """Compose → preflight → run → objective value."""
    from atomsweep.build import UserError
    from atomsweep.launch import run

    try:
        return run(cfg)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
