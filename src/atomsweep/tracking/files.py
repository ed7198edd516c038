"""Files that survive a kill: atomic replacement, append-only lines, strict JSON, YAML.

JSON has no NaN. Non-finite floats are written as the strings "NaN", "Infinity" and "-Infinity" and
read back as floats, so that every other reader of JSON can read our files and none is lost.
"""

import errno
import json
import logging
import math
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from atomsweep.tracking import documents

log = logging.getLogger(__name__)

TEMPORARY = ".tmp"  # ends the name of a file that is being written
LARGEST = 100_000  # values of a YAML file
DEEPEST = 200  # nesting of YAML
OLD_S = 3600.0  # a write takes seconds

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class DamagedFile(ValueError):
    """A file that cannot be what it should be; the message names it and what is wrong."""


def dumps(obj: Any, indent: int | None = None) -> str:
    """Strict JSON of `obj`; tuples become lists, paths strings, non-finite floats their names.

    Raises:
        TypeError: `obj` holds something that JSON cannot say.
    """
    return json.dumps(_encode(obj), indent=indent, allow_nan=False, ensure_ascii=False)


def loads(text: str | bytes) -> Any:
    """What `dumps` wrote.

    Raises:
        ValueError: `text` is not JSON.
    """
    obj = json.loads(text)
    raw = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    return _decode(obj) if b"NaN" in raw or b"Infinity" in raw else obj


def write_atomic(
    path: Path, content: str | bytes, durable: bool = True, named: bool = True
) -> None:
    """Replace `path` by `content`: a reader, or a kill at any time, sees the old file or the new.

    Args:
        path: file to write; its directory must exist.
        content: text (written as UTF-8) or bytes.
        durable: also survive a power cut (fsync of file and directory); off for heartbeats.
        named: of these the second; off where a file that is lost whole is made again.

    Raises:
        OSError: it could not be written; the previous file is intact and no temporary is left.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    mark = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.name}.{mark}{TEMPORARY}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        temporary.replace(path)
        if durable and named:
            _sync_directory(path.parent)
    except OSError as error:
        raise _explained(error, path, "the previous file is intact") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def overwrite(path: Path, content: str) -> None:
    """Replace `path` by `content`, or what stands in it where the disk has no room for a new file.

    For a last word that must be heard: a reader at that moment may see neither the old nor the new.

    Raises:
        OSError: it could not be written either way.
    """
    try:
        write_atomic(path, content, durable=False)
    except OSError:
        with Path(path).open("r+b") as file:
            data = content.encode()
            left = os.fstat(file.fileno()).st_size - len(data)
            file.write(data + b" " * max(0, left))  # JSON may end in spaces


def remove_temporaries(directory: Path) -> None:
    """Remove what writers left in `directory` that were killed; who writes there now is let be."""
    for path in Path(directory).glob(f".*{TEMPORARY}"):
        with suppress(OSError):
            if _is_left(path):
                path.unlink()


def _is_left(path: Path) -> bool:
    """Whether a temporary file is old, or of a process of this machine that is gone."""
    if time.time() - path.stat().st_mtime > OLD_S:
        return True
    writer = rf".*\.{re.escape(socket.gethostname())}-(\d+)-[0-9a-f]+{re.escape(TEMPORARY)}"
    found = re.fullmatch(writer, path.name)
    return found is not None and not _lives(int(found[1]))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


def append_line(path: Path, obj: Any) -> None:
    """Add one JSON line with a single write, or nothing at all.

    A line that a killed writer left without its end is closed first, so it never swallows the next.

    Raises:
        OSError: the line could not be written whole; what was written of it is removed.
    """
    path = Path(path)
    data = dumps(obj).encode() + b"\n"
    check_regular(path)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                data = b"\n" + data
            written = os.write(fd, data)
            if written != len(data):
                os.ftruncate(fd, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(fd)
    except OSError as error:
        raise _explained(error, path, "the lines before are intact") from error


def check_regular(path: Path) -> None:
    """Refuse a pipe, a socket or a device, which would be waited for without end.

    A folder, and what is not there, are left to whoever opens them.

    Raises:
        OSError: names it and says what it is.
    """
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(mode), "a device")
        raise OSError(errno.EINVAL, f"is {kind}, expected a file; move it away", str(path))


def read_file(path: Path) -> bytes:
    """All of a file.

    Raises:
        OSError: it cannot be read, or is none.
    """
    check_regular(path)
    return Path(path).read_bytes()


def read_text(path: Path) -> str:
    """As `read_file`, of UTF-8.

    Raises:
        OSError: it cannot be read, or is none.
        UnicodeDecodeError: it is not UTF-8.
    """
    return read_file(path).decode()


def read_lines(path: Path, damaged: list[int] | None = None) -> list[dict[str, Any]]:
    """The JSON objects of a file of lines; [] where there is no file.

    A last line without its end is a write that was killed: it is left out. A damaged line before
    it is left out too, and named in a warning, or its number is added to `damaged`.
    """
    try:
        raw = read_file(path)
    except FileNotFoundError:
        return []
    return [obj for _, obj in _parse(raw, path, damaged)]


def read_lines_from(path: Path, start: int) -> tuple[list[dict[str, Any]], int]:
    """The JSON objects of a file of lines from a byte on, and where the next is to begin.

    Damaged lines are left out, and so is a last line without its end, which is yet to come.
    """
    with Path(path).open("rb") as file:
        file.seek(start)
        raw = file.read()
    end = raw.rfind(b"\n") + 1
    return [obj for _, obj in _parse(raw[:end], path, [])], start + end


def truncate_after(path: Path, step: int) -> int:
    """Keep the lines with `step` at most the given one (lines without a step too), atomically.

    Returns:
        Number of lines removed, damaged ones included.
    """
    path = Path(path)
    try:
        raw = read_file(path)
    except FileNotFoundError:
        return 0
    kept = [line for line, obj in _parse(raw, path) if obj.get("step", step) <= step]
    content = b"".join(line + b"\n" for line in kept)
    if content != raw:
        write_atomic(path, content)
    return raw.count(b"\n") + (not raw.endswith(b"\n") and raw != b"") - len(kept)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        FileNotFoundError: there is no file.
        DamagedFile: the file does not hold one JSON object, or not what `documents` says.
    """
    try:
        obj = loads(read_file(path))
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path} is damaged: expected a JSON object ({error})") from error
    if not isinstance(obj, dict):
        raise DamagedFile(f"{path} must hold a JSON object, got {type(obj).__name__}")
    if (wrong := documents.fault(documents.kind_of(Path(path)), obj)) is not None:
        raise DamagedFile(f"{path} is damaged: {wrong}")
    return obj


def read_yaml(text: str) -> Any:
    """YAML as OmegaConf reads it: `1e-3` is a number, and no tag runs code.

    Raises:
        DamagedFile: it is no YAML.
    """
    try:
        check_depth(text)
        content = yaml.load(text, Loader=YamlLoader)
        if _size(content, {}) > LARGEST:
            raise DamagedFile(f"it stands for more than {LARGEST} values; its aliases repeat them")
        return content
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # 2026-13-45 is a ValueError
        raise DamagedFile(f"this is no YAML: {' '.join(str(error).split())}") from error


def _size(content: Any, known: dict[int, int]) -> int:
    """Values in it, each as often as aliases repeat it: who walks through it meets them all."""
    if not isinstance(content, dict | list):
        return 1
    if id(content) not in known:
        parts = [*content, *content.values()] if isinstance(content, dict) else content
        known[id(content)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(content)]


def check_depth(text: str) -> None:
    """Refuse what is nested so deeply that the C library would end the process."""
    if sum(map(text.count, ("[", "{", "- "))) < DEEPEST:
        return
    depth = 0
    for event in yaml.parse(text, Loader=YamlLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise DamagedFile(f"it is nested more than {DEEPEST} times")


class YamlLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML follows YAML 1.1, where `1e-3` is a string; YAML 1.2 and OmegaConf say float."""


YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*)(?:\.[\d_]*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def _parse(
    raw: bytes, path: Path, damaged: list[int] | None = None
) -> list[tuple[bytes, dict[str, Any]]]:
    complete = raw[: raw.rfind(b"\n") + 1]
    parsed = []
    for number, line in enumerate(complete.split(b"\n")[:-1], start=1):
        try:
            obj = loads(line)
        except (ValueError, RecursionError):
            obj = None
        if isinstance(obj, dict) and documents.fault(Path(path).name, obj) is None:
            parsed.append((line, obj))
        elif line.strip() and damaged is not None:
            damaged.append(number)
        elif line.strip():
            log.warning("%s: line %d is damaged and left out", path, number)
    return parsed


def _encode(obj: Any) -> Any:
    if isinstance(obj, float):
        if math.isfinite(obj):
            return obj
        return "NaN" if math.isnan(obj) else ("Infinity" if obj > 0 else "-Infinity")
    if isinstance(obj, dict):
        return {str(key): _encode(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_encode(value) for value in obj]
    if isinstance(obj, Path):
        return str(obj)
    return obj


def _decode(obj: Any) -> Any:
    if isinstance(obj, str):
        return _NON_FINITE.get(obj, obj)
    if isinstance(obj, dict):
        return {key: _decode(value) for key, value in obj.items()}
    if isinstance(obj, list):
        return [_decode(value) for value in obj]
    return obj


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:  # some network file systems refuse it; the data itself is synced
        log.debug("cannot sync directory %s: %s", path, error)
    finally:
        os.close(fd)


REMEDIES: Mapping[int | None, str] = {
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "free some of your quota and run the same command again",
    errno.EFBIG: "raise the file size limit (ulimit -f) and run the same command again",
    errno.EACCES: "check the permissions of its directory",
    errno.EROFS: "choose a directory on a file system that can be written",
    errno.ENOENT: "create its directory",
}


def told(error: Exception) -> str:
    """An error as a sentence; one of the system: which file, what happened, what to do."""
    if not isinstance(error, OSError):
        return str(error)
    if isinstance(error.__cause__, OSError) and error.filename is None:
        return error.strerror or str(error)  # it says so already
    reason = error.strerror or str(error)
    where = "" if error.filename is None else f"{error.filename}: "
    remedy = REMEDIES.get(error.errno)
    return f"{where}{reason}" + (f"; {remedy}" if remedy else "")


def _explained(error: OSError, path: Path, state: str) -> OSError:
    """The same kind of error, saying which file, what became of it and what to do."""
    remedy = REMEDIES.get(error.errno, "solve this and run the same command again")
    reason = os.strerror(error.errno) if error.errno is not None else str(error)
    make: Callable[..., OSError] = type(error)
    return make(error.errno, f"cannot write {path}: {reason}; {state}; {remedy}")
