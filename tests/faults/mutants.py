"""Files damaged by chance: bits, ranges, pages, lines and numbers, as a seed draws them."""

import re
import struct
import zlib

import numpy as np

NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
ODD = [b"nan", b"inf", b"-1", b"0", b"1e400", b"-7.5", b"99999999999999999999", b"2147483648", b"x"]
WORDS = [b"", b"null", b"[]", b"{}", b"T", b'"', b"\xff\xfe", b"{[", b"- - -", b"1e999999", b"\0"]
PAGE = 4096


def mutant(data, rng):
    """One mutant of a file's bytes."""
    kinds = [flip, flip, cut, drop, double, blank, number, field, noise]
    if _is_text(data):
        kinds += [swap_lines, number, number, word, word, drop_line]
    for _ in range(int(rng.integers(1, 4)) if rng.random() < 0.3 else 1):
        data = kinds[int(rng.integers(len(kinds)))](data, rng)
    return data


def _is_text(data):
    return b"\0" not in data[:4096]


def _range(data, rng):
    start = int(rng.integers(max(len(data), 1)))
    return start, min(len(data), start + int(2 ** rng.uniform(0, 12)))


def flip(data, rng):
    """A few bits."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        if out:
            place = int(rng.integers(len(out)))
            if rng.random() < 0.4:  # heads are small, and most depends on them
                place = int(rng.integers(min(len(out), 512)))
            out[place] ^= 1 << int(rng.integers(8))
    return bytes(out)


def cut(data, rng):
    """The end is missing."""
    return data[: int(rng.integers(len(data) + 1))]


def drop(data, rng):
    """A range is missing."""
    start, stop = _range(data, rng)
    return data[:start] + data[stop:]


def double(data, rng):
    """A range is there twice, or over another."""
    start, stop = _range(data, rng)
    at = int(rng.integers(len(data) + 1))
    over = stop - start if rng.random() < 0.5 else 0
    return data[:at] + data[start:stop] + data[at + over :]


def blank(data, rng):
    """A page of zeros or of ones."""
    page = int(rng.integers(len(data) // PAGE + 1)) * PAGE
    size = min(PAGE, len(data) - page)
    return data[:page] + bytes([0 if rng.random() < 0.7 else 255]) * size + data[page + size :]


def noise(data, rng):
    """A range of any bytes."""
    start, stop = _range(data, rng)
    return data[:start] + rng.bytes(stop - start) + data[stop:]


def field(data, rng):
    """A binary number is huge, small or negative."""
    if len(data) < 8:
        return data
    at = int(rng.integers(len(data) - 7)) & ~1
    value = [0, 1, -1, 1 << 30, -(1 << 31), (1 << 62), 0x7FF0 << 48][int(rng.integers(7))]
    size, form = [(2, "<h"), (4, "<i"), (8, "<q")][int(rng.integers(3))]
    bits = 8 * size - 1
    packed = struct.pack(form, max(-(1 << bits), min(value, (1 << bits) - 1)))
    return data[:at] + packed + data[at + size :]


def number(data, rng):
    """A number that is written out is another one."""
    found = list(NUMBER.finditer(data[: 1 << 16]))
    if not found:
        return data
    one = found[int(rng.integers(len(found)))]
    return data[: one.start()] + ODD[int(rng.integers(len(ODD)))] + data[one.end() :]


def word(data, rng):
    """A word is another one."""
    words = list(re.finditer(rb"[^\s]+", data[: 1 << 16]))
    if not words:
        return data
    one = words[int(rng.integers(len(words)))]
    return data[: one.start()] + WORDS[int(rng.integers(len(WORDS)))] + data[one.end() :]


def swap_lines(data, rng):
    """Two lines have changed places."""
    lines = data.split(b"\n")
    a, b = (int(i) for i in rng.integers(len(lines), size=2))
    lines[a], lines[b] = lines[b], lines[a]
    return b"\n".join(lines)


def drop_line(data, rng):
    """A line is missing, or there twice."""
    lines = data.split(b"\n")
    at = int(rng.integers(len(lines)))
    rest = lines[at + int(rng.integers(2)) :]
    return b"\n".join(lines[: at + int(rng.integers(2))] + rest)


def packed_mutant(data, rng):
    """A mutant of what zlib has packed."""
    return zlib.compress(mutant(zlib.decompress(data), rng))


def array_mutant(arrays, rng):
    """Arrays of an archive of which one has another shape, type or value."""
    arrays = dict(arrays)
    names = sorted(arrays)
    name = names[int(rng.integers(len(names)))]
    value = np.asarray(arrays[name])
    choice = int(rng.integers(9))
    if choice == 0:
        value = value[()] if value.ndim == 0 else value.ravel()[0]
    elif choice == 1:
        value = value[None]
    elif choice == 2:
        value = value.ravel()
    elif choice == 3:
        value = value.astype("U8")
    elif choice == 4:
        value = value[:-1] if value.ndim else value
    elif choice == 5:
        del arrays[name]
        return arrays
    elif choice == 6:
        value = np.array(["x", {"a": 1}], dtype=object)
    elif choice == 7:
        value = value.astype("c16")
    else:
        value = value.astype(["f2", "f8", "i1", "u8", "?"][int(rng.integers(5))], copy=True)
        if value.size:
            odd = [np.nan, np.inf, -1, 0, 1e300, 2**62][int(rng.integers(6))]
            with np.errstate(all="ignore"):
                value.reshape(-1)[int(rng.integers(value.size))] = np.array(odd).astype(value.dtype)
    arrays[name] = value
    return arrays
