"""From runs to paper: what was measured is read, laid out as tables, drawn and written as pages.

Each room imports only those before it: `read`, `tables`, `figures`, `study`, `pages`. Nothing here
imports torch, launches a run or writes into a run's directory.
"""
