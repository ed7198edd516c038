"""The thin adapters that Hydra demands. What they do lives in `atomsweep`."""
