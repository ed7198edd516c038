"""The training loop: steps, optimisers, averages, checkpoints, ranks. `fit.fit` is the way in.

It knows no config and no command; what a run leaves goes through its `RunDirectory`.
"""
