"""Cells as jobs of SLURM, through submitit: submitted, watched, requeued.

The run directories say what became of a cell; the scheduler only whether a job is to come.
"""
