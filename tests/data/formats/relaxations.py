"""Relaxations of four systems as flat arrays, docs/data.md."""

import numpy as np

SIZES = (3, 2, 4, 3)  # atoms of the systems 70, 30, 50, 90
SIDS = (70, 30, 50, 90)


def arrays(frames=5, seed=0):
    """Frames of four systems, not in the order of the systems."""
    rng = np.random.default_rng(seed)
    sid = rng.permutation(np.repeat(SIDS, frames))
    fid = np.zeros(len(sid), dtype=np.int32)
    for one in SIDS:
        fid[sid == one] = np.arange(frames)
    atoms = sum(dict(zip(SIDS, SIZES, strict=True))[one] for one in sid)
    numbers = [[29, 29, 8], [13, 6], [78, 78, 78, 1], [29, 29, 6]]
    return {
        "pos": rng.normal(size=(atoms, 3)).astype("f4"),
        "forces": rng.normal(size=(atoms, 3)).astype("f4"),
        "energy": rng.normal(size=len(sid)),
        "sid": sid,
        "fid": fid,
        "sys_sid": np.array(SIDS),
        "sys_numbers": np.concatenate(numbers).astype("u1"),
        "sys_tags": np.concatenate([[0, 1, 2], [1, 2], [0, 0, 1, 2], [0, 1, 2]]).astype("u1"),
        "sys_fixed": np.concatenate([[1, 0, 0], [0, 0], [1, 1, 0, 0], [1, 0, 0]]).astype("u1"),
        "sys_offset": np.cumsum([0, *SIZES]),
        "sys_cell": np.stack([np.eye(3) * (8 + i) for i in range(4)]).astype("f4"),
    }
