"""What a sweep file says: cells, names, the grammar of claims, settings of evaluations and studies.

It is read by launch and by report alike, starts nothing and needs no torch.
"""
