"""From a choice to processes and jobs: compose, preflight, plan, survey, then here or on SLURM.

Nothing is trained in this room, and planning imports no torch. It never reads what a report writes.
"""
