"""ELF files for x86, of 32 and of 64 bits: how their structures lie.

Ref: System V ABI, Object Files (Elf32_Ehdr, Elf64_Ehdr and what they lead to).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

MAGIC = b"\x7fELF"
INTEL_386, X86_64 = 3, 62
"""Machines (``e_machine``)."""
LOAD, EXECUTABLE = 1, 1
"""The type of a segment that is loaded, and a flag of one (PT_LOAD, PF_X)."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Say how the structures of one class of files lie.

    ``parts`` are the places in a segment's header of flags, offset, linear address, size in the
    file and in memory, physical address.
    """

    header: struct.Struct
    segment: struct.Struct
    parts: tuple[int, int, int, int, int, int]
    section: struct.Struct


NARROW = Layout(
    struct.Struct("<16sHHIIIIIHHHHHH"), struct.Struct("<IIIIIIII"), (6, 1, 2, 4, 5, 3),
    struct.Struct("<IIIIIIIIII"),
)  # fmt: skip
WIDE = Layout(
    struct.Struct("<16sHHIQQQIHHHHHH"), struct.Struct("<IIQQQQQQ"), (1, 2, 3, 5, 6, 4),
    struct.Struct("<IIQQQQIIQQ"),
)  # fmt: skip
_LAYOUTS = {b"\x01\x01": NARROW, b"\x02\x01": WIDE}
"""By class and byte order: 32 and 64 bits, little-endian."""


def layout_of(file: bytes) -> Layout | None:
    """Return how the structures of an ELF file lie, None for any other file."""
    return _LAYOUTS.get(file[4:6]) if file.startswith(MAGIC) else None
