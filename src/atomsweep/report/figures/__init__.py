"""Tables → drawings, and sections that hold text, grids and drawings.

Matplotlib is imported inside of functions. No number is made here that a table could hold.
"""
