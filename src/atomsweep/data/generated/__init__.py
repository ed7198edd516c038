"""Data sets that are made on the user's machine, each determined by its recipe alone.

Reads no file but its own. The recipes start without ASE.
"""
