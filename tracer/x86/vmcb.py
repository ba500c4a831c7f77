"""The control block of a guest of AMD's SVM (VMCB): for what it leaves, and its registers then.

Ref: AMD64 Architecture Programmer's Manual vol. 2, chapter 15 and appendix B.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tracer.x86.legacy_paging import legacy_paging_of
from tracer.x86.paging import Paging
from tracer.x86.segment import Segment
from tracer.x86.state import Mode

SIZE = 4096
"""Bytes of a control block."""

# Offsets of the control area.
_DR_READS, _DR_WRITES = 4, 6
INTERCEPTS = 0x0C
"""Offset of the two words that say for what the guest leaves."""
_PORT_MAP, _MSR_MAP = 0x40, 0x48
_ASID = 0x58
_INFO1 = 0x78
_DELIVERED = 0x88  # EXITINTINFO
_NESTED, _NESTED_ROOT = 0x90, 0xB0
EVENT = 0xA8
"""Offset of the event that is raised in the guest as it is entered (EVENTINJ)."""

# Offsets of the state save area.
_SEGMENTS = {
    name: 0x400 + 16 * number for number, name in enumerate(("es", "cs", "ss", "ds", "fs", "gs"))
}
"""Offsets of the segment registers: each has selector, attributes, limit and base there."""
_ATTRIBUTES, _LIMIT, _BASE = 2, 4, 8
_GDT, _IDT = 0x460, 0x480
_CPL = 0x4CB
_DR7, _DR6 = 0x560, 0x568
_PAT = 0x668
REGISTERS = {
    "efer": 0x4D0, "cr4": 0x548, "cr3": 0x550, "cr0": 0x558, "eflags": 0x570, "rip": 0x578,
    "rsp": 0x5D8, "rax": 0x5F8, "cr2": 0x640,
}  # fmt: skip
"""Offsets of the registers that a guest leaves in it, by GDB's names."""

# Bits of the two words at INTERCEPTS.
INTERRUPT, SMI, RDTSC, RDPMC, CPUID = 1, 1 << 2, 1 << 14, 1 << 15, 1 << 18
IRET, INVD, PAUSE, HLT, IO, MSR = 1 << 20, 1 << 22, 1 << 23, 1 << 24, 1 << 27, 1 << 28
VMRUN_TO_SKINIT, RDTSCP = 0x7F << 32, 1 << 39
WBINVD, MONITOR, MWAIT = 1 << 41, 1 << 42, 1 << 43

SVME = 1 << 12
"""The bit of EFER that lets a CPU have guests."""
_LMA = 1 << 10
_CODE_LONG, _CODE_32 = 1 << 9, 1 << 10
_PAT_AT_RESET = 0x0007_0406_0007_0406
"""PAT has this value after a reset (Intel SDM vol. 3A, 12.12.4): TCG knows no memory types."""
_OF_TABLES = 1 << 33
_VALID, _WITH_CODE, _EXCEPTION = 1 << 31, 1 << 11, 3 << 8
_FRAME_SIZE = 5 * 8
ALL_PORTS = range(0x10000)
_MSR_RANGES = (range(0x2000), range(0xC000_0000, 0xC000_2000), range(0xC001_0000, 0xC001_2000))
_MSR_RANGE_SIZE = 0x800
PORT_MAP_SIZE, MSR_MAP_SIZE = 3 * 4096, 2 * 4096
"""Bytes of the maps of ports and MSRs for which a guest leaves."""


@dataclass(frozen=True, slots=True)
class Entered:
    """Hold what a guest is entered with: its registers by GDB's names, and what these lack.

    ``tables`` are base and limit of GDT and IDT.
    """

    registers: Mapping[str, int]
    segments: Mapping[str, Segment]
    gdt: tuple[int, int]
    idt: tuple[int, int]
    dr6: int
    dr7: int


@dataclass(frozen=True, slots=True)
class Executing:
    """Say in which manner a guest's code runs: its mode, privilege level, and segments' bases.

    ``paging`` is how it translates where it is outside ``long`` mode, None in that.
    """

    mode: Mode
    cpl: int
    bases: Mapping[str, int]
    paging: Paging | None


# ---- made


def control_block(
    entered: Entered, intercepts: int, ports: int, msrs: int, tables: int | None, *, dr7: bool
) -> bytes:
    """Return the control block of a guest, which leaves for ``intercepts``, and for DR7 with that.

    The maps of ``ports`` and ``msrs`` and, unless None, the root of its nested ``tables`` are at
    physical addresses.
    """
    page, registers = bytearray(SIZE), entered.registers
    struct.pack_into("<H", page, _DR_READS, dr7 << 7)
    struct.pack_into("<H", page, _DR_WRITES, dr7 << 7)
    struct.pack_into("<Q", page, INTERCEPTS, intercepts)
    struct.pack_into("<Q", page, _PORT_MAP, ports)
    struct.pack_into("<Q", page, _MSR_MAP, msrs)
    struct.pack_into("<I", page, _ASID, 1)
    if tables is not None:
        struct.pack_into("<Q", page, _NESTED, 1)
        struct.pack_into("<Q", page, _NESTED_ROOT, tables)
        struct.pack_into("<Q", page, _PAT, _PAT_AT_RESET)
    for name, place in _SEGMENTS.items():
        it = entered.segments[name]
        attributes = it.flags >> 8 & 0xFF | it.flags >> 12 & 0xF00
        struct.pack_into("<HHIQ", page, place, it.selector, attributes, it.limit, it.base)
    for place, (base, limit) in ((_GDT, entered.gdt), (_IDT, entered.idt)):
        struct.pack_into("<IQ", page, place + _LIMIT, limit, base)
    struct.pack_into("<Q", page, _DR7, entered.dr7)
    struct.pack_into("<Q", page, _DR6, entered.dr6)
    for name, place in REGISTERS.items():
        value = registers[name] | (SVME if name == "efer" else 0)
        struct.pack_into("<Q", page, place, value)
    return bytes(page)


def port_map(span: range) -> bytes:
    """Return the map that has a guest leave for the ports of a span."""
    if span == ALL_PORTS:
        return b"\xff" * PORT_MAP_SIZE  # an access of the last port may reach beyond it
    bits = bytearray(PORT_MAP_SIZE)
    for port in span:
        bits[port // 8] |= 1 << port % 8
    return bytes(bits)


def msr_map(left: Collection[int], free: Collection[int], *, others: bool) -> bytes:
    """Return the map that has a guest leave for the MSRs ``left``, and for ``others`` if so.

    It does not for those that are ``free``, unless they are ``left`` as well.
    """
    # There are two bits an MSR, of reading and of writing.
    bits = bytearray((b"\xff" if others else b"\0") * MSR_MAP_SIZE)
    for on, indices in ((False, free), (True, left)):
        for index in indices:
            for number, span in enumerate(_MSR_RANGES):
                if index in span:
                    at = _MSR_RANGE_SIZE * number + (index - span.start) // 4
                    pair = 3 << 2 * (index % 4)
                    bits[at] = bits[at] | pair if on else bits[at] & ~pair
    return bytes(bits)


def event_of(vector: int, error_code: int | None) -> tuple[int, bytes]:
    """Return what to write where in a block, so that an exception is raised in the guest.

    Ref: figure 15-4 (EVENTINJ).
    """
    word = _VALID | _EXCEPTION | vector
    if error_code is not None:
        word |= _WITH_CODE | error_code << 32
    return EVENT, struct.pack("<Q", word)


# ---- read


def outside(vmcb: bytes) -> dict[str, int]:
    """Return the registers of a guest that has left that its block has.

    EFER is as the guest knows it. Bases and limits of its descriptor tables, and selectors, are
    among them.
    """
    found = {name: _word(vmcb, place) for name, place in REGISTERS.items()}
    found["efer"] &= ~SVME
    for name in ("es", "cs", "ss", "ds"):
        found[name] = _word(vmcb, _SEGMENTS[name], 2)
    for name, place in (("gdt", _GDT), ("idt", _IDT)):
        found[name] = _word(vmcb, place + _BASE)
        found[f"{name}_limit"] = _word(vmcb, place + _LIMIT, 4)
    return found


def executing(vmcb: bytes) -> Executing:
    """Return in which manner a guest runs that has left."""
    word = outside(vmcb)
    long = bool(word["efer"] & _LMA)
    attributes = _word(vmcb, _SEGMENTS["cs"] + _ATTRIBUTES, 2)
    mode = Mode.COMPAT32 if attributes & _CODE_32 else Mode.COMPAT16
    bases = {f"{name}_base": _word(vmcb, place + _BASE) for name, place in _SEGMENTS.items()}
    if long and attributes & _CODE_LONG:
        mode = Mode.LONG
        bases = {name: base for name, base in bases.items() if name in ("fs_base", "gs_base")}
    paging = None if long else legacy_paging_of(word["cr0"], word["cr3"], word["cr4"])
    return Executing(mode, vmcb[_CPL], bases, paging)


def frame_size(vmcb: bytes) -> int:
    """Return how many bytes the CPU was pushing for an exception or an interrupt as it left.

    That is in long mode; 0 where it was delivering none. Ref: 15.7.2 (EXITINTINFO), 8.9.3.
    """
    told = _word(vmcb, _DELIVERED)
    if not told & _VALID:
        return 0
    return _FRAME_SIZE + 8 * bool(told & _WITH_CODE)


def walked(vmcb: bytes) -> bool:
    """Tell whether a nested fault came as the CPU read the guest's page tables, or wrote to them.

    Ref: 15.25.6 (EXITINFO1).
    """
    return bool(_word(vmcb, _INFO1) & _OF_TABLES)


def _word(vmcb: bytes, place: int, size: int = 8) -> int:
    return int.from_bytes(vmcb[place : place + size], "little")
