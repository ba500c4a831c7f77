"""tracer.linux.orc: stacks unwound with tables made here, in both layouts of the kernel."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from btf_sample import BtfWriter

from tracer.linux.btf import parse_btf
from tracer.linux.orc import (
    MAX_FRAMES,
    Entry,
    Frame,
    Kind,
    Layout,
    Stack,
    Table,
    find_entry,
    layout_of,
    parse_entry,
    unwind,
)
from tracer.x86.state import GPR

OLD = Layout(kind=(8, 2), end=(10, 1), signal=None)
NEW = Layout(kind=(8, 3), end=None, signal=(11, 1))
PREV_SP, DX, DI, BP, SP, R10, R13, BP_INDIRECT, SP_INDIRECT = range(1, 10)
CODE = 0xFFFF_FFFF_8100_0000
STACK = 0xFFFF_C900_0000_1000


def types(*fields: tuple[str, int, int], size: int = 6) -> bytes:
    btf = BtfWriter()
    number = btf.integer("unsigned int", 4)
    members = [(name, number, bits << 24 | at) for name, at, bits in fields]
    btf.structure("orc_entry", size, *members, bit_fields=True)
    return btf.blob()


def test_btf_tells_the_layout() -> None:
    plain = (("sp_offset", 0, 0), ("bp_offset", 16, 0), ("sp_reg", 32, 4), ("bp_reg", 36, 4))
    old = parse_btf(types(*plain, ("type", 40, 2), ("end", 42, 1)))
    new = parse_btf(types(*plain, ("type", 40, 3), ("signal", 43, 1)))
    assert layout_of(old) == OLD
    assert layout_of(new) == NEW
    assert layout_of(parse_btf(BtfWriter().blob())) is None
    assert layout_of(parse_btf(types(*plain, ("type", 40, 3), size=8))) is None


@pytest.mark.parametrize(
    ("layout", "data", "kind", "signal"),
    [
        (OLD, "1000f0ff1500", Kind.CALL, False),
        (OLD, "1000f0ff1501", Kind.REGS, True),
        (OLD, "1000f0ff1502", Kind.REGS_PARTIAL, True),
        (OLD, "1000f0ff1503", Kind.UNDEFINED, True),
        (OLD, "000000000000", Kind.UNDEFINED, True),
        (OLD, "000000000004", Kind.END, True),
        (NEW, "1000f0ff1502", Kind.CALL, False),
        (NEW, "1000f0ff150a", Kind.CALL, True),
        (NEW, "1000f0ff150b", Kind.REGS, True),
        (NEW, "1000f0ff150c", Kind.REGS_PARTIAL, True),
        (NEW, "000000000001", Kind.END, False),
        (NEW, "000000000000", Kind.UNDEFINED, False),
        (NEW, "000000000007", Kind.UNDEFINED, False),
    ],
)
def test_entries(layout: Layout, data: str, kind: Kind, signal: bool) -> None:
    entry = parse_entry(bytes.fromhex(data), layout)
    assert (entry.kind, entry.signal) == (kind, signal)
    if kind not in (Kind.END, Kind.UNDEFINED):
        assert (entry.sp_offset, entry.bp_offset) == (16, -16)
        assert (entry.sp_base, entry.bp_base) == (SP, PREV_SP)


def table(*starts: int) -> tuple[Table, Callable[[int, int], bytes]]:
    # Distances lie before their code and entries behind them: each tells its index in sp_offset.
    base = CODE + 0x10_0000
    data = b"".join(
        struct.pack("<i", start - (base + 4 * index)) for index, start in enumerate(starts)
    )
    entries = base + len(data)
    data += b"".join(struct.pack("<hhH", index, 0, 0x205) for index in range(len(starts)))

    def read(linear: int, size: int) -> bytes:
        found = data[linear - base : linear - base + size]
        if linear < base or len(found) != size:
            raise LookupError(linear)
        return found

    return Table(base, entries, len(starts)), read


def test_the_last_entry_at_or_before_an_address_counts() -> None:
    where, read = table(CODE, CODE + 8, CODE + 8, CODE + 24)

    def index(place: int) -> int | None:
        entry = find_entry(where, NEW, place, read)
        return None if entry is None else entry.sp_offset

    places = (CODE - 1, CODE, CODE + 7, CODE + 8, CODE + 23, CODE + 24, CODE + 999)
    assert [index(place) for place in places] == [None, 0, 0, 2, 2, 3, 3]
    assert find_entry(Table(where.distances, where.entries, 0), NEW, CODE, read) is None
    with pytest.raises(LookupError):
        find_entry(Table(where.distances, where.entries + 999, 4), NEW, CODE, read)


class Guest:
    """Code by entry, and a stack of quadwords."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        self.stack: dict[int, int] = {}
        self.registers = dict.fromkeys(GPR, 0)

    def code(
        self,
        start: int,
        sp: tuple[int, int] = (0, 0),
        bp: tuple[int, int] = (0, 0),
        kind: Kind = Kind.CALL,
    ) -> None:
        """16 bytes of code with one entry; bases and offsets."""
        signal = kind in (Kind.REGS, Kind.REGS_PARTIAL)
        self.entries[start] = Entry(sp[1], bp[1], sp[0], bp[0], kind, signal)

    def read(self, linear: int, size: int) -> bytes:
        if linear not in self.stack:
            raise LookupError(linear)
        return self.stack[linear].to_bytes(size, "little")

    def unwind(self, rip: int) -> Stack:
        registers = [self.registers[name] for name in GPR]
        return unwind(rip, registers, lambda place: self.entries.get(place & -16), self.read)


def rips(stack: Stack) -> list[int]:
    return [frame.rip for frame in stack.frames]


A, B, C, D = (CODE + 0x100 * number for number in range(4))


def test_calls_by_stack_pointer_and_by_rbp() -> None:
    guest = Guest()
    guest.registers.update(rsp=STACK, rbp=0x99)
    guest.code(A, (SP, 24), bp=(PREV_SP, -16))  # pushed RBP, and 8 bytes of its own
    guest.code(B, (BP, 16))
    guest.code(C, kind=Kind.END)
    guest.stack = {STACK + 8: STACK + 0x40, STACK + 16: B + 4, STACK + 0x48: C + 4}
    assert guest.unwind(A + 2) == Stack(
        (Frame(A + 2, True), Frame(B + 4, False), Frame(C + 4, False))
    )


def test_rbp_saved_relative_to_rbp() -> None:
    guest = Guest()
    guest.registers.update(rsp=STACK, rbp=STACK + 0x20)
    guest.code(A, (SP, 8), bp=(BP, -8))
    guest.code(B, (BP, 0))
    guest.code(C, kind=Kind.END)
    guest.stack = {STACK: B + 4, STACK + 0x18: STACK + 0x80, STACK + 0x78: C + 4}
    assert rips(guest.unwind(A)) == [A, B + 4, C + 4]


def test_a_call_that_ends_its_function_is_of_that_function() -> None:
    guest = Guest()
    guest.registers.update(rsp=STACK)
    guest.code(A, (SP, 8))
    guest.code(B, kind=Kind.END)
    guest.code(B + 16, kind=Kind.UNDEFINED)
    guest.stack = {STACK: B + 16}
    stack = guest.unwind(A)
    assert stack.lost is None
    assert stack.frames[1].place == B + 15


def test_a_retpoline_at_its_return_goes_to_a_function_and_was_called_by_none() -> None:
    guest = Guest()
    guest.registers.update(rsp=STACK)
    guest.code(A, (SP, 8))
    guest.code(B - 16, kind=Kind.UNDEFINED)
    guest.code(B, (SP, 8))
    guest.code(C, (SP, 8))
    guest.code(D, kind=Kind.END)
    guest.stack = {STACK: B, STACK + 8: C + 4, STACK + 16: D + 4}
    assert guest.unwind(A) == Stack(
        (Frame(A, True), Frame(B, True), Frame(C + 4, False), Frame(D + 4, False))
    )
    guest.stack[STACK + 16] = B  # where a call was to return, it is none
    assert guest.unwind(A).lost == f"the ORC entry for {B - 1:#x} tells no stack"


def test_an_interrupt_stack_leads_back_through_memory() -> None:
    guest = Guest()
    guest.registers.update(rsp=STACK, rbp=STACK + 0x100)
    guest.code(A, (SP_INDIRECT, 8))
    guest.code(B, (BP_INDIRECT, -8))
    guest.code(C, kind=Kind.END)
    guest.stack = {
        STACK: STACK + 0x200, STACK + 0x200: B + 1,
        STACK + 0xF8: STACK + 0x300, STACK + 0x2F8: C + 1,
    }  # fmt: skip
    assert rips(guest.unwind(A)) == [A, B + 1, C + 1]


@pytest.mark.parametrize(("base", "name"), [(DX, "rdx"), (DI, "rdi"), (R10, "r10"), (R13, "r13")])
def test_stacks_that_begin_in_a_register(base: int, name: str) -> None:
    guest = Guest()
    guest.registers.update({"rsp": STACK, name: STACK + 0x80})
    guest.code(A, (base, 0))
    guest.code(B, (base, 0))
    guest.stack = {STACK + 0x78: B + 1}
    stack = guest.unwind(A)
    assert rips(stack) == [A, B + 1]
    assert stack.lost is not None and f"register {base}," in stack.lost  # a call saves none


def saved(guest: Guest, at: int, rip: int, cs: int, rsp: int, **registers: int) -> None:
    offsets = {"r13": 16, "rbp": 32, "r10": 56, "rdx": 96, "rdi": 112}
    guest.stack |= {at + offset: registers.get(name, 0) for name, offset in offsets.items()}
    guest.stack |= {at + 128: rip, at + 136: cs, at + 152: rsp}


def test_through_an_interrupt_with_its_registers() -> None:
    guest = Guest()
    guest.registers.update(rsp=STACK)
    guest.code(A, (SP, 8), kind=Kind.REGS)
    guest.code(B, (R13, 0))
    guest.code(C, (BP, 8))
    guest.code(D, kind=Kind.END)
    saved(guest, STACK + 8, B, 0x10, STACK + 0x400, r13=STACK + 0x508, rbp=STACK + 0x600)
    guest.stack |= {STACK + 0x500: C + 1, STACK + 0x600: D + 1}
    stack = guest.unwind(A + 1)
    # Interrupted at the very start of B: what lies before that belongs to another function.
    assert stack == Stack(
        (Frame(A + 1, True), Frame(B, True), Frame(C + 1, False), Frame(D + 1, False))
    )


def test_through_the_frame_of_an_exception() -> None:
    guest = Guest()
    guest.registers.update(rsp=STACK)
    guest.code(A, (SP, 0), kind=Kind.REGS_PARTIAL)
    guest.code(B, kind=Kind.END)
    guest.stack = {STACK: B, STACK + 8: 0x10, STACK + 24: STACK + 0x400}
    assert guest.unwind(A) == Stack((Frame(A, True), Frame(B, True)))


def test_user_space_is_the_end() -> None:
    guest = Guest()
    guest.registers.update(rsp=STACK)
    guest.code(A, (SP, 0), kind=Kind.REGS)
    saved(guest, STACK, 0x401000, 0x33, 0x7FFF_0000)
    assert guest.unwind(A) == Stack((Frame(A, True),))


def test_what_is_lost_is_told() -> None:
    guest = Guest()
    guest.registers.update(rsp=STACK)
    assert guest.unwind(A) == Stack((Frame(A, True),), f"no ORC entry for {A:#x}")
    guest.code(A, kind=Kind.UNDEFINED)
    assert guest.unwind(A).lost == f"the ORC entry for {A:#x} tells no stack"
    guest.code(A, (SP, 8))
    assert guest.unwind(A).lost == f"a stack or table of {A:#x} is not in RAM"
    guest.stack = {STACK: B + 1}
    assert guest.unwind(A) == Stack(
        (Frame(A, True), Frame(B + 1, False)), f"no ORC entry for {B:#x}"
    )


def test_a_stack_without_end_is_cut() -> None:
    guest = Guest()
    guest.registers.update(rsp=STACK)
    guest.code(A, (SP, 0))  # its caller is itself, for ever
    guest.stack = {STACK - 8: A + 1}
    stack = guest.unwind(A + 1)
    assert len(stack.frames) == MAX_FRAMES
    assert stack.lost == f"more than {MAX_FRAMES} frames"
