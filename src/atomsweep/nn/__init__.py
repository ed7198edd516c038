"""Layers that models are made of: bases, activations, cutoffs, scatter, norms.

No layer knows a model, a batch or a device.
"""
