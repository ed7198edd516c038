"""Files of other programs as sources of data: a reader for each kind, and what it found.

Reads without executing anything, and writes only native stores. Knows no batch and no device.
"""
