"""What is measured of a finished run: rotation, cost, relaxations. Results are files of the run.

Nothing here changes a trained model or the result of its training.
"""
