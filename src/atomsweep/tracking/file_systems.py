"""Which file systems other machines write to as well, where locks cannot be relied upon."""

import re
from pathlib import Path

NETWORK = {
    "nfs", "nfs4", "lustre", "gpfs", "beegfs", "beegfs_nodev", "cifs", "smb3", "smbfs", "ceph",
    "afs", "pvfs2", "orangefs", "panfs", "wekafs", "glusterfs", "fhgfs", "gfs2", "ocfs2",
    "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.ceph-fuse", "fuse.s3fs", "fuse.rclone",
    "fuse.juicefs",
}  # fmt: skip
UNKNOWN = ("", "9p", "virtiofs", "vboxsf")  # not told, or the disk of a host around this machine


def is_shared(path: Path) -> bool:
    """Whether other machines may work below `path`, whose locks are not surely seen from here."""
    kind = file_system(path)
    return kind in NETWORK or kind in UNKNOWN


def file_system(path: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """Type of the file system that holds `path`, or will; "" where the system does not say."""
    try:
        table = mounts.read_text()
    except OSError:
        return ""
    resolved = str(path.resolve())
    best, kind = "", ""
    for line in table.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields[1])
        inside = resolved == point or resolved.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind
