"""Experiment platform for machine-learned force fields.

Imports nothing: Hydra scans plugins at every start.
"""
