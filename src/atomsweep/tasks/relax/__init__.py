"""Relaxations in batches: potentials, L-BFGS, their metrics, and a calculator of ASE.

It moves atoms and trains nothing.
"""
