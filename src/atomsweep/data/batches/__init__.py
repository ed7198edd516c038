"""Structures of a data set as batches on a device, and which ones a step takes.

The one room of data that imports torch. Knows no file format and no source.
"""
