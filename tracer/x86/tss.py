"""A stack of vetrace's own for page faults: the guest's TSS, or one made for a guest without.

A page fault pushes its frame where RSP is. Where that is a poisoned page, the push faults as well,
and the CPU gives up; with an interrupt stack (IST) it goes there first.

Ref: Intel SDM vol. 3A, 8.7 (64-bit TSS), 8.2.3 (TSS descriptor in 64-bit mode), 6.14.5 (IST);
vol. 2A, LTR.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

TSS_SIZE = 104
STACKS = range(7, 0, -1)
"""The numbers of interrupt stacks."""

_IST = 36
_DESCRIPTOR = struct.Struct("<QQ")
_AVAILABLE = 0x89  # present, an available 64-bit TSS
_SELECTOR = 8
_POINTER = struct.Struct("<HQ")
_POINTER_ROOM = 16


def stack_offset(number: int) -> int:
    """Return where the pointer of an interrupt stack is in a TSS, in bytes."""
    return _IST + 8 * (number - 1)


def make_tss(number: int, top: int) -> bytes:
    """Return a TSS with one interrupt stack, which begins below linear address ``top``."""
    tss = bytearray(TSS_SIZE)
    struct.pack_into("<Q", tss, stack_offset(number), top)
    struct.pack_into("<H", tss, TSS_SIZE - 2, TSS_SIZE)  # no I/O permission map
    return bytes(tss)


@dataclass(frozen=True, slots=True)
class Loader:
    """Hold code that loads the task register, and its data, for a linear address.

    It goes by way of a GDT of its own, puts the guest's back, and is at ``loaded`` then.
    """

    code: bytes
    start: int
    loaded: int


def assemble_loader(base: int, tss: int) -> Loader:
    """Return the loader at a linear address that makes a vCPU use the TSS at another.

    What is there must be writable: the CPU marks the descriptor as busy.
    """
    gdt = b"".join((bytes(_SELECTOR), _descriptor(tss)))
    pointer = base + len(gdt)
    saved = pointer + _POINTER_ROOM
    data = gdt + _POINTER.pack(len(gdt) - 1, base).ljust(_POINTER_ROOM, b"\0")
    data += bytes(_POINTER_ROOM)
    start = base + len(data)
    code = b""
    for opcode, place in ((b"\x0f\x01\x05", saved), (b"\x0f\x01\x15", pointer)):  # sgdt, lgdt
        code += opcode + struct.pack("<i", place - start - len(code) - 7)
    code += b"\x66\xb8" + struct.pack("<H", _SELECTOR)  # mov ax, the selector
    code += b"\x0f\x00\xd8"  # ltr ax
    code += b"\x0f\x01\x15" + struct.pack("<i", saved - start - len(code) - 7)  # lgdt
    return Loader(data + code + b"\xf4", start, start + len(code))  # hlt: nobody comes there


def _descriptor(base: int) -> bytes:
    low = (TSS_SIZE - 1) | (base & 0xFF_FFFF) << 16 | _AVAILABLE << 40 | (base >> 24 & 0xFF) << 56
    return _DESCRIPTOR.pack(low, base >> 32)
