"""The native store: how structures are written, read and converted, whole or not at all.

Knows no file format but its own; a conversion is given its reader. No torch.
"""
