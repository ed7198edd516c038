"""Cells in processes of this machine.

It knows run directories and the job that it is given, and nothing of configs or science.
"""
