"""Rotation-equivariant algebra in real spherical harmonics, polar axis y.

Coefficients of an atom are (…, (L + 1)², C): degree l, order m at row l² + l + m ("l-primary"), and
l = 1 is (x, y, z). Aligned with an edge, which then lies along +y, rows are ordered by |m|
("m-primary"), see `layout`.
"""
