"""The programs that vetrace runs or puts into its guest, and the packages that have them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass

from tracer.errors import TracerError
from tracer.guest.initramfs import find_busybox


@dataclass(frozen=True, slots=True)
class Program:
    """Name a program, Debian's package of it, and what it is for.

    ``there`` tells whether it is on this machine.
    """

    name: str
    package: str
    purpose: str
    there: Callable[[], bool]


def _has_busybox() -> bool:
    try:
        find_busybox()
    except (TracerError, OSError):
        return False
    return True


PROGRAMS = (
    Program(
        "qemu-system-x86_64, version 7.2 or newer",
        "qemu-system-x86",
        "boots the guest",
        lambda: shutil.which("qemu-system-x86_64") is not None,
    ),
    Program(
        "gdb, version 12 or newer",
        "gdb",
        "stops the guest at each access",
        lambda: shutil.which("gdb") is not None,
    ),
    Program(
        "busybox, statically linked", "busybox-static", "is what runs in the guest", _has_busybox
    ),
)


def missing_programs() -> list[Program]:
    """Return the programs that are not on this machine."""
    return [program for program in PROGRAMS if not program.there()]
