"""Guest code in front of a function that maps one page: calls for pages of RAM do not stop.

Linux calls such functions more often than a stop each is worth: ``vmf_insert_pfn_prot`` once for
every process that reads the clock, as the kernel's clock page is mapped at its first use. A
function of Linux that can be traced begins with five bytes for ftrace, a call of ``__fentry__`` or
a NOP as long (Linux Documentation/trace/ftrace-design.rst; arch/x86/kernel/ftrace_64.S). They are
made a call of the filter, which returns for a page of RAM, and for any other runs into its *hit*,
where GDB has a breakpoint.

All registers are at the hit what they were at the entry, but for RSP, which is 8 lower. The test
is for RAM, and not for devices, because devices move and RAM does not.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from tracer.x86.state import PAGE_SIZE

SITE_SIZE = 5
NOP = b"\x0f\x1f\x44\x00\x00"  # nop dword ptr [rax + rax + 0]
PUSHED = 8
"""Bytes of stack that the call of the filter takes."""

_ENDBR = b"\xf3\x0f\x1e\xfa"  # endbr64, in front of the site with CONFIG_X86_KERNEL_IBT
_LIMIT = 1 << 31

PageRange = tuple[int, int]
"""First page number and count."""


@dataclass(frozen=True, slots=True)
class PageArgument:
    """Say which argument of a function tells the page: its number, or the page-table entry."""

    register: Literal["rsi", "rdx"]
    entry: bool = False


@dataclass(frozen=True, slots=True)
class PageFilter:
    """Hold the filter's bytes, which run anywhere, and the offset of its hit."""

    code: bytes
    hit: int


_TO_RAX = {"rsi": b"\x48\x89\xf0", "rdx": b"\x48\x89\xd0"}  # mov rax, rsi; mov rax, rdx
_SAVE = b"\x50\x51"  # push rax; push rcx
_RESTORE = b"\x59\x58"  # pop rcx; pop rax
_RETURN = b"\xc3"
_JB, _JZ = b"\x0f\x82", b"\x0f\x84"


def whole_pages(ranges: Iterable[tuple[int, int]]) -> list[PageRange]:
    """Return the pages that physical ranges (first and last address) cover whole, merged."""
    merged: list[tuple[int, int]] = []
    for start, last in sorted(ranges):
        if merged and start <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((start, last))
    found = []
    for start, last in merged:
        first, end = -(-start // PAGE_SIZE), (last + 1) // PAGE_SIZE
        if first < end:
            found.append((first, end - first))
    return found


def assemble(argument: PageArgument, ram: Sequence[PageRange]) -> PageFilter:
    """Return the filter that lets pages of RAM pass, and entries that map nothing.

    Raises ValueError for a range of 2^31 pages or more.
    """
    code = bytearray(_SAVE + _TO_RAX[argument.register])
    passes: list[int] = []

    def leave(jump: bytes) -> None:
        code.extend(jump + bytes(4))
        passes.append(len(code))

    if argument.entry:
        code += b"\xa8\x01"  # test al, 1: the entry is present
        leave(_JZ)
        # Bits 12 to 50 are the page number (Intel SDM vol. 3A, 4.5); bit 51 may be the poison.
        code += b"\x48\xc1\xe0\x0d\x48\xc1\xe8\x19"  # shl rax, 13; shr rax, 25
    for first, count in ram:
        if count >= _LIMIT:
            raise ValueError(f"{count:#x} pages of RAM in one piece")
        code += b"\x48\xb9" + struct.pack("<q", -first)  # mov rcx, -first
        code += b"\x48\x01\xc1"  # add rcx, rax
        code += b"\x48\x81\xf9" + struct.pack("<I", count)  # cmp rcx, count
        leave(_JB)
    code += _RESTORE
    hit = len(code)
    code += b"\x90" + _RETURN  # nop
    for end in passes:
        struct.pack_into("<i", code, end - 4, len(code) - end)
    code += _RESTORE + _RETURN
    return PageFilter(bytes(code), hit)


def find_site(code: bytes, linear: int, fentry: int | None) -> int | None:
    """Return the offset of ftrace's five bytes in the first bytes of a function, or None.

    ``linear`` is the address of the function, ``fentry`` that of ``__fentry__``.
    """
    offset = len(_ENDBR) if code.startswith(_ENDBR) else 0
    site = code[offset : offset + SITE_SIZE]
    if site == NOP:
        return offset
    if fentry is None or site != call(linear + offset, fentry):
        return None
    return offset


def call(origin: int, target: int) -> bytes:
    """Return the call at a linear address of another; empty when that is out of reach."""
    distance = target - origin - SITE_SIZE
    if not -_LIMIT <= distance < _LIMIT:
        return b""
    return b"\xe8" + struct.pack("<i", distance)
