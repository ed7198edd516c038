"""Rotation-equivariant algebra in real spherical harmonics, polar axis y.

Coefficients of an atom are (…, (L + 1)², C): degree l, order m at row l² + l + m ("l-primary"), and
l = 1 is (x, y, z). In the frame of an edge, which has the edge along +y, rows are ordered by |m|
("m-primary"), see `layout`.
"""
