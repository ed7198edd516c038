"""Which frames are of one system, where ids are lacking or stand for several, and which are equal.

An id says less than it seems: counters begin anew, two sources have one numbering, files lack ids.
What a frame holds tells more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from atomsweep.data.frames import hashed
from atomsweep.data.structure import Array

if TYPE_CHECKING:
    import pandas as pd


ROW = np.dtype(
    [
        ("sid", "<i8"),
        ("fid", "<i8"),
        ("file", "<i8"),  # number of the file that it is from
        ("content", "<u8"),  # hash of all but the ids
        ("atoms", "<u8"),  # hash of the composition; 0 where the file has no sid
        ("place", "<i8"),  # among all frames
        ("numbered", "?"),  # the file has no sid for it
    ]
)
"""What is known of a frame."""


def table(rows: Array) -> pd.DataFrame:
    """`ROW`s, ascending by place, as a table."""
    import pandas as pd

    return pd.DataFrame({name: rows[name] for name in ROW.names or ()})


def copies(frames: pd.DataFrame, columns: list[str]) -> tuple[Array, Array]:
    """Places of frames that equal an earlier one in some columns, and of those earlier ones."""
    later = np.flatnonzero(frames.duplicated(columns))
    first = np.flatnonzero(~frames.duplicated(columns))
    if not len(later):
        return later, later
    pairs = frames.iloc[later][columns].merge(
        frames.iloc[first][columns].assign(place=first), on=columns, how="left"
    )
    return later, pairs["place"].to_numpy()


def told_apart(frames: pd.DataFrame) -> Array:
    """(S,) system ids, of which none stands for two systems; those that do so already stay.

    A sid stands for several where it was given and also made up for a file without ids; where the
    composition differs; and where a fid comes again with another structure. The last is taken for a
    restart, and so one system, where the frames of the sid lie one behind the other in one file;
    else each file, and each time that the counter begins anew, is a system of its own. The first
    keeps its sid, the others get one made from it.

    Args:
        frames: as of `table`, without copies, places numbered through: all of a sid, and perhaps
            not all that lie between.
    """
    sids = frames["sid"].to_numpy().copy()
    kinds = frames.drop_duplicates(["sid", "numbered", "atoms"])
    mixed = kinds.loc[kinds.duplicated("sid"), "sid"]
    again = frames.loc[frames.duplicated(["sid", "fid"]) & ~frames["numbered"], "sid"]
    places = np.flatnonzero(frames["sid"].isin(mixed) | frames["sid"].isin(again))
    if not len(places):
        return sids
    some = frames.iloc[places]
    key = some[["sid", "numbered", "atoms"]].copy()
    contested = (some["sid"].isin(again) & ~some["numbered"]).to_numpy()
    key["file"] = np.where(contested, some["file"], -1)
    key["time"] = np.where(contested, _times(frames).iloc[places], 0)
    system = key.groupby(list(key), sort=False).ngroup().to_numpy()
    _, first = np.unique(system, return_index=True)
    before = some.iloc[first].groupby("sid", sort=False).cumcount().to_numpy()  # of each system
    named = some["sid"].to_numpy()[first]
    news = [sid if k == 0 else hashed(f"{sid} {k}") for sid, k in zip(named, before, strict=True)]
    sids[places] = np.array(news, dtype=np.int64)[system]
    return sids


def _times(frames: pd.DataFrame) -> pd.Series[int]:
    """How often a frame's ids came before in its file; 0 where the frames of its sid adjoin."""
    of_file = ["sid", "file"]
    adjoins = frames["place"] == frames["place"].shift() + 1
    begins = (frames[of_file] != frames[of_file].shift()).any(axis=1) | ~adjoins
    blocks = begins.groupby([frames[name] for name in of_file]).transform("sum")
    times = frames.groupby([*of_file, "fid"]).cumcount()
    return times.where(blocks > 1, 0)
