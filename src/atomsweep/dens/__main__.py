"""`python -m atomsweep.dens corrupted.png data=mini_oc dens=oc20`: a picture of what DeNS makes."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atomsweep.build import UserError, build


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw structures of the training split, corrupted as `dens=` says; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m atomsweep.dens", description=__doc__)
    parser.add_argument("path", type=Path, help="of the picture: .png, .pdf or .svg")
    parser.add_argument("choices", nargs="*", help="data=… dens=… and what else is typed for a run")
    parser.add_argument("--structures", type=int, default=3, help="rows")
    parser.add_argument("--sigmas", type=float, nargs="+", help="Å; default: that of dens=")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        _draw(options)
    except (UserError, ValueError, OSError) as error:
        print(f"atomsweep.dens: {error}", file=sys.stderr)
        return 1
    print(options.path)
    return 0


def _draw(options: argparse.Namespace) -> None:
    import numpy as np
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    from atomsweep.data.batches.graphs import GraphDataset
    from atomsweep.dens.picture import draw_corruption

    try:
        with initialize_config_dir(str(Path("conf").resolve()), version_base="1.3"):
            config = compose("config", ["dens=v2_fixed", *options.choices])
    except HydraException as error:
        raise UserError(str(error).splitlines()[0]) from error
    chosen: Any = OmegaConf.to_container(config, resolve=True)
    if chosen["dens"] is None:
        raise UserError("dens=none corrupts nothing; choose another")
    dens, source = build(chosen["dens"], "dens"), build(chosen["data"], "data")
    source.prepare()
    split = source.split("train")
    if not 0 < options.structures <= len(split):
        raise UserError(f"--structures must lie in 1 to {len(split)}, got {options.structures}")
    indices = np.random.default_rng(options.seed).choice(
        len(split), options.structures, replace=False
    )
    batch = GraphDataset(split, None).batch(indices)
    sigmas = options.sigmas or sorted({dens.sigma_low or dens.sigma_high, dens.sigma_high})
    draw_corruption(batch, dens, sigmas, options.seed, options.path)


if __name__ == "__main__":
    sys.exit(main())
