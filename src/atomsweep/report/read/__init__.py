"""Runs, plans and papers → DataFrames and statements: the only room of the report that reads files.

It does no arithmetic on what was measured, and what it cannot read is a sentence, never an end.
"""
