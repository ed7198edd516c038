"""The run directory, which is the truth: files, lock, identity, code, journal, time.

Who writes here knows nothing of configs, models or MLflow; all other views are derived.
"""
