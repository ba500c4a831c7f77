"""The place of an access as people read it, in whatever space that is.

Memory and ports have a region and an offset in it. A model-specific register is told by its index,
a leaf of CPUID by its number and that of its subleaf: what stands for an offset there is made of
these (:mod:`tracer.trace.inputs`).
"""

from __future__ import annotations

from tracer.text.printable import printable
from tracer.trace.member import Space
from tracer.trace.record import MemoryAccess

MSR_BYTES = 8
"""Bytes that a model-specific register has in its region: offsets are a multiple of its index."""

LEAF_BYTES = 16
"""Bytes that a subleaf of CPUID has in its region: EAX, EBX, ECX and EDX."""

_OF_CPUID = ("EAX", "EBX", "ECX", "EDX")


def place(access: MemoryAccess) -> str:
    """Return where an access is: ``nvme+0x1c``, ``serial+0x5 @0x3fd``, ``msr 0xc0000080``.

    Of one whose extent alone is known, both ends: ``nvme+0x0..0x1ff``. A port is told with its
    number behind, unless the region is that of all ports, where the offset is the number.
    """
    region = access.region or ""
    return place_in(access.space, region, access.offset, access.physical, access.extent)


def place_in(
    space: Space, region: str, offset: int | None, address: int | None, extent: int | None = None
) -> str:
    """Return where in a space something is, in the words of :func:`place`."""
    if space in ("msr", "cpuid", "tsc"):
        return f"{space} {spot(space, offset)}".rstrip()
    told = f"{printable(region)}{spot(space, offset, extent)}"
    if space == "port" and offset != address:
        return f"{told} @{address:#x}"
    return told


def spot(space: Space, offset: int | None, extent: int | None = None) -> str:
    """Return an offset as it is told behind its region: ``+0x1c``, ``0xc0000080``, ``0x7.1``.

    What is not known is ``?``: no message goes to address 0. The time-stamp counter has none.
    """
    if space == "tsc":
        return ""
    if offset is None or (space == "msi" and not offset):
        return "+?"
    if space == "msr":
        return hex(offset // MSR_BYTES)
    if space == "cpuid":
        number = offset // LEAF_BYTES
        return f"{number & (1 << 32) - 1:#x}.{number >> 32}"
    last = "" if extent is None else f"..{offset + extent - 1:#x}"
    return f"+{offset:#x}{last}"


def bare_name(space: Space, offset: int | None) -> str:
    """Return what is accessed where no map has a name for it: a register of CPUID, or nothing."""
    if space != "cpuid" or offset is None:
        return ""
    return _OF_CPUID[offset % LEAF_BYTES // 4]
