"""Denoising non-equilibrium structures: corruption, and its objective (arXiv:2403.09549).

It draws no numbers but those of its own generator, and knows no particular model.
"""
