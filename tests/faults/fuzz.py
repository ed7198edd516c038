"""Mutants read in a process of their own, with little memory, and what came of each.

python -m tests.faults.fuzz --count 1000 --seed 5 [kind ...]
"""

import argparse
import collections
import logging
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import numpy as np

from atomsweep.build import UserError
from atomsweep.data.store.environment import close_environment
from tests.faults import mutants
from tests.faults.readers import READERS, flat_arrays, md17_arrays

MEMORY = 1 << 30  # bytes beyond what the process has
SECONDS = 10  # of CPU time for one mutant; the longest takes 1
ARRAYS = {"npz": flat_arrays, "md17": md17_arrays}
RECORDS = ("s2ef", "is2re", "aselmdb", "store", "edges")


def write_mutant(kind, good, path, rng):
    """A mutant of the file, or of one array or record inside it."""
    if kind in ARRAYS and rng.random() < 0.5:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            np.savez(path, **mutants.array_mutant(ARRAYS[kind](), rng))
        return
    if isinstance(good, Path):
        _mutate_folder(good, path, rng)
        return
    path.write_bytes(good)
    if kind in RECORDS and rng.random() < 0.5:
        _mutate_records(kind, path, rng)
    elif kind in ("gz", "xz") and rng.random() < 0.5:
        module = __import__("gzip" if kind == "gz" else "lzma")
        path.write_bytes(module.compress(mutants.mutant(module.decompress(good), rng)))
    else:
        path.write_bytes(mutants.mutant(good, rng))


def _mutate_folder(good, path, rng):
    """One of its files of text."""
    shutil.copytree(good, path)
    files = [one for one in sorted(path.rglob("*")) if one.suffix in (".json", ".jsonl", ".yaml")]
    one = files[int(rng.integers(len(files)))]
    one.write_bytes(mutants.mutant(one.read_bytes(), rng))


def _mutate_records(kind, path, rng):
    """A value of the LMDB, which itself stays whole; what is packed is mutated unpacked."""
    import lmdb

    with (
        lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 26) as environment,
        environment.begin(write=True) as transaction,
    ):
        keys = [key for key, _ in transaction.cursor()]
        key = keys[int(rng.integers(len(keys)))]
        if kind in ("store", "edges") and rng.random() < 0.5:
            key = [k for k in keys if not k.startswith(b"\0")][int(rng.integers(4))]
        value = transaction.get(key)
        change = mutants.packed_mutant if kind == "aselmdb" else mutants.mutant
        new = change(value, rng)
        if rng.random() < 0.1:
            transaction.delete(key)
        else:
            transaction.put(key, new)


def one(kind, good, name, folder, seed, turn):
    """Read a mutant; what came of it, and the fault if that is not as promised."""
    rng = np.random.default_rng([seed, turn, len(kind)])
    path = folder / name
    write_mutant(kind, good, path, rng)
    try:
        READERS[kind][1](path, turn)
    except (ValueError, OSError, UserError) as error:  # a DataError is a ValueError
        if type(error).__name__ in ("UnicodeDecodeError", "JSONDecodeError", "LinAlgError"):
            return "fault", traceback.format_exc()
        if path.name not in str(error):
            return "fault", f"names no file: {error}\n{traceback.format_exc()}"
        return "refused", ""
    except BaseException:
        return "fault", traceback.format_exc()
    finally:
        for store in folder.rglob("*lmdb"):
            close_environment(store)
    return "read", ""


def child(kind, seed, turns, folder, out):
    """Read mutants one after another; a line for each before and after."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGVTALRM, _hang)
    clean = folder / "good"
    clean.mkdir()
    path = READERS[kind][0](clean)
    good, name = path if path.is_dir() else path.read_bytes(), path.name
    READERS[kind][1](path, 0)  # what is good is read
    for turn in turns:
        place = folder / "mutant"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        os.write(out, f"{turn}\n".encode())
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        result, told = one(kind, good, name, place, seed, turn)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        os.write(out, f"{result} {told.encode().hex()}\n".encode())


class Hang(BaseException):
    """It took more than its time; a reader must not take it for an error of its file."""


def _hang(_signal, _frame):
    raise Hang


def run(kind, seed, count):
    """Read mutants in a child; how many were read and refused, and faults by number of mutant."""
    counts, faults = collections.Counter(), {}
    turns = list(range(count))
    while turns:
        folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{kind}-"))
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(reading)
                child(kind, seed, turns, folder, writing)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writing)
        turn = None
        with os.fdopen(reading) as lines:
            for line in lines:
                result, _, told = line.strip().partition(" ")
                if not told and result.isdigit():
                    turn = int(result)
                    continue
                counts[result] += 1
                if result == "fault":
                    faults[turn] = bytes.fromhex(told).decode()
                turns = turns[1:]
        _, status = os.waitpid(pid, 0)
        shutil.rmtree(folder, ignore_errors=True)
        if status:
            if turn is None or (os.WIFEXITED(status) and not turns):
                raise RuntimeError(f"{kind}: the good file is not read")
            counts["fault"] += 1
            faults[turn] = f"the process ended with {os.waitstatus_to_exitcode(status)}"
            turns = [one for one in turns if one != turn]
    return counts, faults


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("kinds", nargs="*")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shown", type=int, default=8)
    arguments = parser.parse_args()
    total = collections.Counter()
    for kind in arguments.kinds or READERS:
        counts, faults = run(kind, arguments.seed, arguments.count)
        total += counts
        said = collections.Counter()
        for turn, told in faults.items():
            last = told.strip().splitlines()[-1][:150]
            said[last] += 1
            if said[last] == 1 and len(said) <= arguments.shown:
                print(f"--- {kind} seed {arguments.seed} mutant {turn}")
                print(*told.splitlines()[-9:], sep="\n")
        print(_figures(kind, counts), flush=True)
    print(_figures("all", total))
    return int(total["fault"] > 0)


def _figures(kind, counts):
    return f"{kind} {counts['read']} read {counts['refused']} refused {counts['fault']} faults"


if __name__ == "__main__":
    sys.exit(main())
