"""Records of the monitor's: their sites, what they say, and what the registers are behind them."""

from __future__ import annotations

import pytest
from input_row import PROGRAM, row

from tracer.compiled.inputs import (
    FIRST,
    Input,
    InputPlace,
    InputSites,
    given,
    of_kinds,
    port_row,
    rip_of_input,
    state_behind,
)
from tracer.compiled.layout import RECORD_FIELDS, SLOT_SIZE
from tracer.compiled.ring import raws, sites_of
from tracer.x86.bus import In, Out, PortAccess
from tracer.x86.decode import decode
from tracer.x86.instruction import Instruction
from tracer.x86.state import GPR, RAX, RCX, RDI, RDX, RSI, CpuState, Flag, Mode

CODE = {0x1000: "ec", 0x2000: "0f32", 0x3000: "0fa2", 0x4000: "90"}


def look(place: InputPlace) -> Instruction | None:
    code = place.code or bytes.fromhex(CODE.get(place.rip, ""))
    return decode(code, place.rip, place.mode) if code else None


def names(*rows: bytes) -> tuple[list[int], list[str | None]]:
    named, new = InputSites(look).name(b"".join(rows))
    numbers = [raw.site for raw in raws(named)]
    return numbers, [None if site.insn is None else site.insn.text for site in new]


def test_a_site_is_an_instruction_that_makes_its_access_in_one_manner() -> None:
    numbers, texts = names(
        row(Input.PORT, 0x60), row(Input.PORT, 0x64), row(Input.MSR, 0x10, rip=0x2000),
        row(Input.PORT, 0x60, width=2), row(Input.CPUID, 1, rip=0x3000),
    )  # fmt: skip
    assert numbers == [FIRST, FIRST, FIRST + 1, FIRST + 2, FIRST + 3]
    assert texts == ["in al, dx", "rdmsr", "in al, dx", "cpuid"]


def test_programs_have_sites_of_their_own_and_the_kernel_one_whatever_its_tables() -> None:
    kernel = [row(Input.PORT, 0x60, cr3=cr3) for cr3 in (0x5000, 0x6000)]
    program = [row(Input.PORT, 0x60, cr3=cr3, cpl=PROGRAM) for cr3 in (0x5000, 0x6000, 0x5000)]
    numbers, _ = names(*kernel, *program)
    assert numbers == [FIRST, FIRST, FIRST + 1, FIRST + 2, FIRST + 1]


def test_a_program_has_the_code_that_it_ran_whatever_is_there_by_now() -> None:
    ran = [
        row(Input.PORT, 0x511, cpl=PROGRAM, rip=0x4000, code=code)
        for code in ("f36c", "ec", "f36c")
    ]
    numbers, texts = names(*ran)
    assert numbers == [FIRST, FIRST + 1, FIRST]
    assert texts == ["rep insb byte ptr [rdi], dx", "in al, dx"]
    named, _ = InputSites(look).name(b"".join(ran))
    assert {raw.written[16:] for raw in raws(named)} == {bytes(16)}  # it is told once, in the site


def test_code_in_which_an_interrupt_came_has_one_site_of_interrupts() -> None:
    numbers, texts = names(*(row(Input.IRQ, 0x20, cpl=PROGRAM, code=code) for code in ("ec", "90")))
    assert numbers == [FIRST, FIRST] and texts == [None]


def test_code_that_is_another_instruction_by_now_or_cannot_be_read_is_not_told() -> None:
    _, texts = names(
        row(Input.PORT, 0x60, rip=0x4000), row(Input.PORT, 0x60, rip=0x9000),
        row(Input.MSR, 0x10, rip=0x1000),
    )  # fmt: skip
    assert texts == [None, None, None]


def test_other_records_stay_as_they_are() -> None:
    other = bytearray(SLOT_SIZE)
    other[RECORD_FIELDS["SITE"]] = 5
    named, new = InputSites(look).name(bytes(other))
    assert named == bytes(other) and not new


@pytest.mark.parametrize("wrong", [{"cpl": 4}, {"mode": 65}])
def test_what_the_monitor_does_not_leave_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="an input made in the manner"):
        InputSites(look).name(row(Input.PORT, 0x60, **wrong))  # type: ignore[arg-type]


def test_kinds_that_are_not_wanted_are_left_out_in_order() -> None:
    rows = [row(Input.MSR, 1), row(Input.PORT, 2), row(Input.CPUID, 3), row(Input.PORT, 4)]
    kept = of_kinds(b"".join(rows), {Input.PORT})
    assert kept == rows[1] + rows[3]
    assert of_kinds(kept, {Input.PORT}) is kept
    assert sites_of(kept) == {Input.PORT}


def test_a_record_says_what_was_accessed() -> None:
    (raw,) = raws(row(Input.PORT, 0x3F8, 0x1122, write=True, width=2, cpl=PROGRAM, rip=0x77))
    told = given(raw, Input.PORT)
    assert (told.address, told.values, told.direction, told.cpl) == (0x3F8, (0x1122,), "write", 3)
    assert (told.following, rip_of_input(raw)) == (0x1002, 0x77)
    (raw,) = raws(row(Input.CPUID, 7 | 1 << 32, 1, 2, 3, 4))
    assert given(raw, Input.CPUID).values == (1, 2, 3, 4)
    (raw,) = raws(row(Input.MSR, 0xC0000080, 0x1_0000_0D01))
    assert given(raw, Input.MSR).values == (0x1_0000_0D01,)


ONES = (1 << 64) - 1


def behind(record: bytes, kind: Input, code: str = "ec", **registers: int) -> CpuState:
    (raw,) = raws(record)
    gpr = tuple(registers.get(name, 0) for name in GPR)
    before = CpuState(gpr, 0x1000, registers.get("rflags", 2))
    return state_behind(
        kind, given(raw, kind), before, decode(bytes.fromhex(code), 0x1000, Mode.LONG)
    )


@pytest.mark.parametrize(
    ("width", "left"), [(1, ONES - 0xFF + 0x5A), (2, ONES - 0xFFFF + 0x5A), (4, 0x5A)]
)
def test_pitfall_87_what_is_read_from_a_port_takes_as_much_of_rax(width: int, left: int) -> None:
    cpu = behind(row(Input.PORT, 0x60, 0x5A, width=width), Input.PORT, rax=ONES)
    assert cpu.gpr[RAX] == left and cpu.rip == 0x1002


@pytest.mark.parametrize(
    ("code", "access", "left", "mode", "behind"),
    [
        ("6c", In(0x511, 1), 0, 64, 0x1001), ("f36c", In(0x511, 1), 2, 64, 0x1000),
        ("f36c", In(0x511, 1), 1, 64, 0x1002), ("666f", Out(0x604, 2, 0x2000), 0, 64, 0x1002),
        ("f36f", Out(0xCF8, 4, 0x8000_0000), 5, 32, 0x1000),
        ("f36f", Out(0x604, 2, 0x2000), 0x1_0001, 16, 0x1002),
    ],
)  # fmt: skip
def test_what_is_made_at_a_stop_has_the_record_that_the_monitor_leaves(
    code: str, access: PortAccess, left: int, mode: int, behind: int
) -> None:
    gpr = tuple(left if number == RCX else number for number in range(16))
    before = CpuState(gpr, 0x1000, 0x246, mode=Mode(mode))
    insn = decode(bytes.fromhex(code), 0x1000, Mode(mode))
    value = access.value if isinstance(access, Out) else ord("Q")
    registers = dict(zip(GPR, gpr, strict=True))
    assert port_row(access, value, insn, before, 0x5000, 1, 7) == row(
        Input.PORT, access.port, value, write=isinstance(access, Out), width=access.width,
        mode=mode, following=behind, vcpu=1, rflags=0x246, **registers,
    )  # fmt: skip


def test_a_write_changes_rip_alone_and_an_exception_nothing() -> None:
    cpu = behind(row(Input.PORT, 0x60, 0x5A, write=True), Input.PORT, rax=1)
    assert cpu.gpr[RAX] == 1 and cpu.rip == 0x1002
    cpu = behind(row(Input.MSR, 0x10, raised=True, following=0x1000), Input.MSR, "0f32", rax=1)
    assert cpu.gpr[RAX] == 1 and cpu.rip == 0x1000


def test_an_msr_is_in_two_registers_and_a_leaf_in_four() -> None:
    cpu = behind(row(Input.MSR, 0x10, 0xA_0000_000B), Input.MSR, "0f32", rax=ONES, rdx=ONES)
    assert (cpu.gpr[RAX], cpu.gpr[RDX]) == (0xB, 0xA)
    cpu = behind(row(Input.CPUID, 0, 1, 2, 3, 4), Input.CPUID, "0fa2", rbx=ONES)
    assert cpu.gpr[:4] == (1, 3, 4, 2)  # RAX, RCX, RDX, RBX


@pytest.mark.parametrize(
    ("code", "write", "flags", "registers", "after", "rip"),
    [
        ("6c", False, 2, {"rdi": 8}, {RDI: 9}, 0x1001),
        ("6d", False, 2, {"rdi": 8}, {RDI: 9}, 0x1001),
        ("6e", True, 2, {"rsi": 8}, {RSI: 9}, 0x1001),
        ("f36c", False, 2, {"rdi": 8, "rcx": 2}, {RDI: 9, RCX: 1}, 0x1000),
        ("f36c", False, 2, {"rdi": 8, "rcx": 1}, {RDI: 9, RCX: 0}, 0x1002),
        ("f36c", False, Flag.DF, {"rdi": 0, "rcx": 1}, {RDI: ONES, RCX: 0}, 0x1002),
        # with 32-bit addresses, the upper half is gone, and the count has 32 bits
        ("67f36c", False, 2, {"rdi": ONES, "rcx": ONES << 32 & ONES | 1}, {RDI: 0, RCX: 0}, 0x1003),
    ],
)
def test_a_string_instruction_has_moved_one_element(
    code: str, write: bool, flags: int, registers: dict[str, int], after: dict[int, int], rip: int
) -> None:
    record = row(Input.PORT, 0x60, write=write)
    cpu = behind(record, Input.PORT, code, rflags=flags, **registers)
    assert {number: cpu.gpr[number] for number in after} == after and cpu.rip == rip
