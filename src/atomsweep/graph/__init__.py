"""Who is whose neighbour: radius graphs, images, point clouds, edge vectors.

Geometry alone: nothing is learnt here and nothing read.
"""
