"""What guest to run, and what to trace of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tracer.access.region import Choice
from tracer.errors import UsageError
from tracer.session.watchdog import Limits

QEMU = "qemu-system-x86_64"
GDB = "gdb"
DEFAULT_MEMORY = 512 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """Say what guest to run and what to trace of it.

    Without ``kernel`` the one that ``vetrace setup`` fetched is taken, without ``initrd`` one is
    built from ``qemu/init``, with ``modules`` beside the default guest's. ``append`` follows the
    default command line, ``extra`` the default QEMU arguments. ``memory`` is in bytes.
    """

    kernel: Path | None = None
    symbols: Path | None = None
    initrd: Path | None = None
    modules: tuple[str, ...] = ()
    append: str | None = None
    kaslr: bool = False
    memory: int = DEFAULT_MEMORY
    choice: Choice = field(default_factory=Choice)
    realtime: bool = False
    qemu_log: Path | None = None
    extra: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    qemu: str = QEMU
    gdb: str = GDB


def parse_memory(text: str) -> int:
    """Return the bytes in a size such as ``512M``, ``2G`` or ``1024`` (MiB, as QEMU has it).

    Raises UsageError for anything else, and for a size no guest boots with.
    """
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "M")
    scale = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(unit)
    if scale is None or not number.isdigit():
        raise UsageError(f"{text!r} is no memory size; write 512M or 2G")
    size = int(number) * scale
    if size < 64 << 20 or size % (1 << 20):
        raise UsageError(f"{text} of memory: whole mebibytes, 64M or more, are needed")
    return size
