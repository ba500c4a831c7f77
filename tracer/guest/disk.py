"""The guest's disks: small images whose content, and so whose checksum, is known beforehand."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tracer.host.cache import cache_folder
from tracer.host.whole_file import new_file

DISK_SIZE = 4 << 20
"""Size of a disk in bytes."""

DISKS = ("nvme", "virtio-blk")
"""Names of the disks, as ``qemu/machine.cfg`` has them."""


def content(name: str) -> bytes:
    """Return what a disk holds: SHAKE-256 output, seeded with the disk's name."""
    return hashlib.shake_256(f"vetrace disk {name}".encode()).digest(DISK_SIZE)


def checksum(name: str) -> str:
    """Return the SHA-256 that a guest must find when it reads the whole disk, in hex."""
    return hashlib.sha256(content(name)).hexdigest()


def disk_file(name: str) -> Path:
    """Return a disk's raw image, made when it is not in the cache folder.

    QEMU opens it with ``snapshot=on``, so that no guest changes it. Raises TracerError when it
    cannot be written.
    """
    path = cache_folder() / "disk" / f"{name}.raw"
    if not path.is_file() or path.stat().st_size != DISK_SIZE:
        with new_file(path) as draft:
            draft.write_bytes(content(name))
    return path
