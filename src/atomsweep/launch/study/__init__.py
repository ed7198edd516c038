"""Studies: Optuna proposes, ordinary runs answer, one driver listens.

Only the driver writes the study; jobs never see it.
"""
