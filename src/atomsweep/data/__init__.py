"""Structures: what they are, where they come from, and how they reach a device in batches.

Knows no model, task or run. Of its rooms `store` lies below `formats`, `generated` and `batches`;
the files beside this one lie below all four.
"""
