"""Unwind a kernel's stack with its ORC tables, which say of each address where its caller is.

A table is two arrays sorted by address: 32-bit distances to the code that each entry is for, and
the entries. Which bits of an entry mean what changes between kernels, and BTF tells.

Ref: Linux 6.1 and 6.12: arch/x86/include/asm/orc_types.h (struct orc_entry, ORC_REG_*,
ORC_TYPE_*), arch/x86/kernel/unwind_orc.c (__orc_find, unwind_next_frame), arch/x86/include/asm/
ptrace.h (struct pt_regs). Linux fb799447ae29 "x86,objtool: Split UNWIND_HINT_EMPTY in two" (v6.4)
has made the end of a stack a type, which was a bit.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial

from tracer.access.stack import Frame, Stack
from tracer.linux.btf import Btf
from tracer.linux.wrapper import NO_BACKS, Backs
from tracer.x86.state import GPR, RBP, RSP

Read = Callable[[int, int], bytes]
"""Read ``size`` bytes at a linear address of the guest; raises LookupError when unmapped."""

ENTRY_SIZE = 6
MAX_FRAMES = 128

_OFFSETS = struct.Struct("<hhH")
_UNDEFINED, _PREV_SP, _DX, _DI, _BP, _SP, _R10, _R13, _BP_INDIRECT, _SP_INDIRECT = range(10)
_REGISTERS = {_DX: "rdx", _DI: "rdi", _R10: "r10", _R13: "r13"}
_MASK = (1 << 64) - 1
# Byte offsets in struct pt_regs; the frame of IRET is its last five members.
_SAVED = {"r13": 16, "rbp": 32, "r10": 56, "rdx": 96, "rdi": 112}
_IRET_FRAME = 128


class Kind(Enum):
    """Tell what lies where an entry's stack pointer leads."""

    UNDEFINED = "no stack can be told"
    END = "nothing: this is the outermost code"
    CALL = "a return address below it"
    REGS = "a struct pt_regs"
    REGS_PARTIAL = "the frame that IRET takes"


_KINDS = (Kind.UNDEFINED, Kind.END, Kind.CALL, Kind.REGS, Kind.REGS_PARTIAL)
_OLDER_KINDS = (Kind.CALL, Kind.REGS, Kind.REGS_PARTIAL)


@dataclass(frozen=True, slots=True)
class Layout:
    """Say where the fields of an entry are, each as first bit and width within its last 16 bits.

    ``end`` is there up to Linux 6.3, where a ``kind`` of 0 is a call; ``signal`` from 6.3 on.
    """

    kind: tuple[int, int]
    end: tuple[int, int] | None
    signal: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Table:
    """Say where a table is: linear addresses of the distances and of the entries; how many."""

    distances: int
    entries: int
    count: int


@dataclass(frozen=True, slots=True)
class Entry:
    """Hold how to leave the code from one address to the next entry's.

    Offsets are in bytes, ``sp_base`` and ``bp_base`` are ORC_REG_* numbers. ``signal`` says that
    the caller was interrupted and made no call.
    """

    sp_offset: int
    bp_offset: int
    sp_base: int
    bp_base: int
    kind: Kind
    signal: bool


Find = Callable[[int], Entry | None]
"""Return the entry for a linear address of code, None when no table covers it."""


def layout_of(types: Btf) -> Layout | None:
    """Return the layout of a kernel's entries, or None when it has none."""
    kind = _field(types, "type")
    if kind is None or types.size_of("orc_entry") != ENTRY_SIZE:
        return None
    return Layout(kind, _field(types, "end"), _field(types, "signal"))


def _field(types: Btf, name: str) -> tuple[int, int] | None:
    found = types.bit_field("orc_entry", name)
    if found is None:
        return None
    first, width = found[0] - 32, found[1]
    # A member beyond the last 16 bits is damage, not a layout.
    return (first, width) if first >= 0 and first + width <= 16 else None


def parse_entry(data: bytes, layout: Layout) -> Entry:
    """Return the entry in six bytes."""
    sp_offset, bp_offset, bits = _OFFSETS.unpack(data)

    def field(place: tuple[int, int] | None) -> int:
        return 0 if place is None else bits >> place[0] & (1 << place[1]) - 1

    sp_base = bits & 0xF
    number = field(layout.kind)
    kinds = _KINDS if layout.end is None else _OLDER_KINDS
    kind = kinds[number] if number < len(kinds) else Kind.UNDEFINED
    if layout.end is not None and sp_base == _UNDEFINED:
        kind = Kind.END if field(layout.end) else Kind.UNDEFINED
    signal = bool(field(layout.signal)) if layout.signal else kind is not Kind.CALL
    return Entry(sp_offset, bp_offset, sp_base, bits >> 4 & 0xF, kind, signal)


def find_entry(table: Table, layout: Layout, place: int, read: Read) -> Entry | None:
    """Return the last entry of a table at or before a linear address of code.

    Raises LookupError when the table cannot be read.
    """
    low, high = 0, table.count
    while low < high:
        middle = (low + high) // 2
        at = table.distances + 4 * middle
        if at + int.from_bytes(read(at, 4), "little", signed=True) <= place:
            low = middle + 1
        else:
            high = middle
    if low == 0:
        return None
    return parse_entry(read(table.entries + ENTRY_SIZE * (low - 1), ENTRY_SIZE), layout)


class _Lost(Exception):
    pass


def unwind(rip: int, gpr: Sequence[int], find: Find, read: Read, backs: Backs = NO_BACKS) -> Stack:
    """Return the functions under way in interrupted kernel code, itself first.

    At the return addresses ``backs`` are no functions, but guest code around the one that returns
    there (:mod:`tracer.linux.wrappers`), which may have kept its errand.

    ``rip`` is its linear address, ``gpr`` its registers in the order of
    :data:`tracer.x86.state.GPR`. The stack goes on through interrupts, to where the kernel was
    entered from user space or to the first function of a thread. No register and no quadword is
    looked at that the chain does not depend on.
    """
    frames: list[Frame] = []
    state = _State(Frame(rip, True), gpr[RSP], lambda: gpr[RBP], lambda name: gpr[GPR.index(name)])
    try:
        while True:
            while (back := backs.get(state.frame.rip)) is not None:
                if back.errand is not None and frames and not state.frame.interrupted:
                    errand = _quadword(read, state.sp + back.errand)
                    frames[-1] = replace(frames[-1], errand=errand)
                rip = _quadword(read, state.sp + back.returns)
                above = state.sp + back.returns + 8
                state = _State(Frame(rip, False), above, state.bp, None)
            entry = find(state.frame.place)
            if frames and frames[-1].interrupted and not _tells(entry):
                # A retpoline stood at its RET, which goes to a function's beginning: nobody has
                # called from before that (Linux arch/x86/lib/retpoline.S, RETPOLINE).
                target = find(state.frame.rip)
                if _tells(target):
                    entry, state = target, replace(state, frame=Frame(state.frame.rip, True))
            frames.append(state.frame)
            if entry is None:
                raise _Lost(f"no ORC entry for {state.frame.place:#x}")
            following = _caller(state, entry, read)
            if following is None:
                return Stack(tuple(frames))
            if len(frames) == MAX_FRAMES:
                raise _Lost(f"more than {MAX_FRAMES} frames")
            state = following
    except _Lost as lost:
        return Stack(tuple(frames), str(lost))
    except LookupError:
        return Stack(tuple(frames), f"a stack or table of {state.frame.place:#x} is not in RAM")


def _tells(entry: Entry | None) -> bool:
    return entry is not None and entry.kind is not Kind.UNDEFINED


@dataclass(frozen=True, slots=True)
class _State:
    # A frame with its stack pointer, RBP, and its other registers, where they are known. A function
    # saves what is in RBP, whatever it is, so it is asked for where it is needed.
    frame: Frame
    sp: int
    bp: Callable[[], int]
    registers: Callable[[str], int] | None


def _caller(state: _State, entry: Entry, read: Read) -> _State | None:
    # The state of the frame around this one; None at the end of the stack.
    def quadword(linear: int) -> int:
        return _quadword(read, linear)

    if entry.kind is Kind.END:
        return None
    if entry.kind is Kind.UNDEFINED:
        raise _Lost(f"the ORC entry for {state.frame.place:#x} tells no stack")
    sp = _previous_sp(state, entry, quadword)
    bp, registers = state.bp, None
    if entry.kind is Kind.CALL:
        rip, above = quadword(sp - 8), sp
    else:
        iret = sp
        if entry.kind is Kind.REGS:
            iret = sp + _IRET_FRAME
            registers = partial(_saved, quadword, sp)
            bp = partial(registers, "rbp")
        rip, above = quadword(iret), quadword(iret + 24)
        if quadword(iret + 8) & 3:
            return None  # the selector is user space's
    if entry.bp_base == _PREV_SP:
        bp = partial(quadword, sp + entry.bp_offset)
    elif entry.bp_base == _BP:
        bp = partial(_saved_by_frame, quadword, state.bp, entry.bp_offset)
    elif entry.bp_base != _UNDEFINED:
        raise _Lost(f"the ORC entry for {state.frame.place:#x} takes RBP from {entry.bp_base}")
    return _State(Frame(rip, entry.signal), above & _MASK, bp, registers)


def _saved(quadword: Callable[[int], int], regs: int, name: str) -> int:
    return quadword(regs + _SAVED[name])


def _saved_by_frame(quadword: Callable[[int], int], bp: Callable[[], int], offset: int) -> int:
    return quadword(bp() + offset)


def _quadword(read: Read, linear: int) -> int:
    return int.from_bytes(read(linear & _MASK, 8), "little")


def _previous_sp(state: _State, entry: Entry, quadword: Callable[[int], int]) -> int:
    base = entry.sp_base
    if base == _SP:
        return state.sp + entry.sp_offset
    if base == _BP:
        return state.bp() + entry.sp_offset
    if base == _SP_INDIRECT:
        return quadword(state.sp) + entry.sp_offset
    if base == _BP_INDIRECT:
        return quadword(state.bp() + entry.sp_offset)
    name = _REGISTERS.get(base, "")
    if name and state.registers is not None:
        return state.registers(name)
    raise _Lost(f"the stack of {state.frame.place:#x} is in ORC register {base}, not known there")
