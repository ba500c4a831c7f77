"""Guest code around a function that makes mappings: it rings where the function has come back.

A function of Linux that can be traced begins with five bytes for ftrace, a call of ``__fentry__``
or a NOP as long (Linux Documentation/trace/ftrace-design.rst; arch/x86/kernel/ftrace_64.S). They
are made a call of the function's *wrapper*. That puts the arguments' registers on the stack, calls
the rest of the function, and reads the stub's bell: the guest stops, once a call, and not for an
execution breakpoint, at which QEMU would throw away all translated code. From RSP upwards are then,
in quadwords: RDI RSI RDX RCX, and where the caller goes on. All registers are as the function
returned them but for R11, which is nobody's there (x86-64 psABI 3.2.1), nor at a function's entry.

A vCPU that stands at ``stop`` is sent on to ``behind``. One whose stop was lost, because another
vCPU stopped at the same moment, rings again.

Functions that map one page are called more often than a stop each is worth:
``vmf_insert_pfn_prot`` once for every process that reads the clock, as the kernel's clock page is
mapped at its first use. Their wrappers let calls for pages of RAM pass. The test is for RAM, and
not for devices, because devices move and RAM does not.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tracer.x86.state import PAGE_SIZE

SITE_SIZE = 5
NOP = b"\x0f\x1f\x44\x00\x00"  # nop dword ptr [rax + rax + 0]

_ARGUMENTS = struct.Struct("<4Q")
ARGUMENTS_SIZE = _ARGUMENTS.size
"""Bytes from RSP upwards at ``stop`` that :func:`unpack_arguments` takes."""

PASS = b"\x66\x90"  # xchg ax, ax
"""Two bytes of nothing: written at ``stop``, they let a vCPU pass, and nobody rings again."""

_ENDBR = b"\xf3\x0f\x1e\xfa"  # endbr64, in front of the site with CONFIG_X86_KERNEL_IBT
_LIMIT = 1 << 31

PageRange = tuple[int, int]
"""First page number and count."""


@dataclass(frozen=True, slots=True)
class Back:
    """Say where a function returns to in guest code around it: a linear address.

    From RSP on there lie, at these offsets in bytes, where the caller goes on, and the function of
    an ``errand``, None where it is on none.
    """

    linear: int
    returns: int
    errand: int | None = None


Backs = Mapping[int, Back]
"""Such places by their linear addresses; none of them is a function's."""
NO_BACKS: Backs = {}


@dataclass(frozen=True, slots=True)
class PageArgument:
    """Say which argument of a function tells the page: its number, or the page-table entry."""

    register: Literal["rsi", "rdx"]
    entry: bool = False


@dataclass(frozen=True, slots=True)
class Wrapper:
    """Hold a wrapper's bytes, and the linear addresses within it.

    ``back`` is where the function returns to, None where it is not called from there.
    """

    code: bytes
    base: int
    stop: int
    behind: int
    back: Back | None

    @property
    def disarm(self) -> tuple[int, bytes]:
        """Return a linear address, and bytes with which nobody rings again."""
        return self.stop, PASS

    @property
    def span(self) -> range:
        """Return the linear addresses that it lies at."""
        return range(self.base, self.base + len(self.code))


_TO_RAX = {"rsi": b"\x48\x89\xf0", "rdx": b"\x48\x89\xd0"}  # mov rax, rsi; mov rax, rdx
_SAVE = b"\x50\x51"  # push rax; push rcx
_RESTORE = b"\x59\x58"  # pop rcx; pop rax
_RETURN = b"\xc3"
_READ_SIZE = 7
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


def assemble(
    base: int, bell: int, argument: PageArgument | None = None, ram: Sequence[PageRange] = ()
) -> Wrapper:
    """Return the wrapper for linear address ``base`` that reads the bell at another.

    With an ``argument`` calls for pages of ``ram`` pass, and for entries that map nothing. Raises
    ValueError for a range of 2^31 pages or more, and for a bell out of reach.
    """
    code = bytearray(b"" if argument is None else _filter(argument, ram))
    code += b"\x41\x5b"  # pop r11: the rest of the function
    code += b"\x51\x52\x56\x57"  # push rcx; push rdx; push rsi; push rdi
    code += b"\xe8" + bytes(4)  # call enter
    call_end = len(code)
    stop = call_end + _READ_SIZE
    code += _ring(base + call_end, bell)
    behind = len(code)
    code += b"\x48\x83\xc4" + bytes([ARGUMENTS_SIZE]) + _RETURN  # add rsp, the arguments; ret
    struct.pack_into("<i", code, call_end - 4, len(code) - call_end)
    code += b"\x41\x53" + _RETURN  # push r11; ret: no ENDBR is wanted there
    back = Back(base + call_end, ARGUMENTS_SIZE)
    return Wrapper(bytes(code), base, base + stop, base + behind, back)


def announce(base: int, bell: int) -> Wrapper:
    """Return code for linear address ``base`` that reads the bell before the function runs.

    Raises ValueError for a bell out of reach.
    """
    code = _ring(base, bell)
    return Wrapper(code + _RETURN, base, base + _READ_SIZE, base + len(code), None)


def _ring(base: int, bell: int) -> bytes:
    # Code that reads the bell at a linear address, and again for who is not sent on behind it.
    code = b"\x4c\x8b\x1d" + _distance(base + _READ_SIZE, bell)  # mov r11, [rip + bell]
    return code + b"\xeb" + struct.pack("<b", -_READ_SIZE - 2)  # jmp to that


def _filter(argument: PageArgument, ram: Sequence[PageRange]) -> bytes:
    # Code that returns to the function for pages of RAM, and ends as it began for others.
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
    code += b"\xeb" + bytes([len(_RESTORE + _RETURN)])  # jmp past what follows
    for end in passes:
        struct.pack_into("<i", code, end - 4, len(code) - end)
    code += _RESTORE + _RETURN
    return bytes(code + _RESTORE)


def unpack_arguments(stack: bytes) -> Mapping[str, int]:
    """Return the arguments of a call by their registers, from ``ARGUMENTS_SIZE`` bytes at RSP."""
    return dict(zip(("rdi", "rsi", "rdx", "rcx"), _ARGUMENTS.unpack(stack), strict=True))


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
    try:
        return b"\xe8" + _distance(origin + SITE_SIZE, target)
    except ValueError:
        return b""


def _distance(end: int, target: int) -> bytes:
    if not -_LIMIT <= target - end < _LIMIT:
        raise ValueError(f"{target:#x} is out of reach from {end:#x}")
    return struct.pack("<i", target - end)
