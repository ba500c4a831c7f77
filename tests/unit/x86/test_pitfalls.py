"""Known pitfalls of x86 emulators that show between the instruction and the bus.

Numbers in names are those of docs/pitfalls.md. Those of decoding and of results are tested beside
the code they concern: test_decode, test_emulate, test_verdict, test_hypercall.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from ram import PAGING, POISON, Ram

from tracer.access.execution import CarryOut, Outcome, foretell, lost_atomicity
from tracer.access.recorded import memory_access
from tracer.access.region import Region, RegionMap
from tracer.access.space import AddressSpace
from tracer.access.transfer import Transfer
from tracer.confidential.handler import PROFILES, judge
from tracer.confidential.hypercall import hypercalls, tdvmcall
from tracer.errors import EmulationError, GuestException, InterceptError, UnsupportedInstruction
from tracer.intercept.entry.spill import Spill
from tracer.intercept.fault import Fault
from tracer.x86.bus import In, PortAccess
from tracer.x86.decode import decode
from tracer.x86.emulate import execute, plan
from tracer.x86.paging import PRESENT, WRITABLE
from tracer.x86.state import GPR, CpuState, FaultFrame, Flag, Mode

DEVICE = 0xFEBD_0000
# In linear order: a RAM page, the device's two pages in reverse order, a RAM page, and a hole.
AT = 0xFFFF_C900_0000_0000
RAM1, DEV2, DEV1, RAM2, HOLE = (AT + 0x1000 * n for n in range(5))
CODE = 0xFFFF_FFFF_8100_0000


def space(end: int = DEVICE + 0x1FFF) -> AddressSpace:
    """Make the layout above; the device ends at ``end``, physical, inclusive."""
    ram = Ram()
    poisoned = PRESENT | WRITABLE | POISON
    for linear, physical, flags in (
        (RAM1, 0x5000, PRESENT | WRITABLE), (DEV2, DEVICE + 0x1000, poisoned),
        (DEV1, DEVICE, poisoned), (RAM2, 0x9000, PRESENT | WRITABLE),
        (CODE, 0xA000, PRESENT),
    ):  # fmt: skip
        ram.map(linear, physical, flags)
    region = Region("dev", DEVICE, end, DEVICE, "dev", "dev")
    regions = RegionMap([region], [(DEVICE, end)], [(0, len(ram.data) - 1)])
    return AddressSpace(ram, PAGING, regions)


def state(rflags: int = 2, **registers: int) -> CpuState:
    gpr = tuple(registers.get(name, 0) for name in GPR)
    return CpuState(gpr=gpr, rip=CODE, rflags=rflags)


def run(
    code: str, cpu: CpuState, *answers: int, where: AddressSpace | None = None
) -> tuple[list[tuple[str, int, int, int | None]], Outcome]:
    """Carry out an instruction; return its transfers as direction, physical, width, value."""
    insn = decode(bytes.fromhex(code), cpu.rip, cpu.mode)
    execution = CarryOut(foretell(insn, cpu, where or space()))
    left = list(answers)
    for transfers in execution:
        if isinstance(transfers, PortAccess):
            execution.answers = [left.pop(0) if isinstance(transfers, In) else None]
            continue
        execution.answers = [left.pop(0) if t.direction == "read" else None for t in transfers]
    assert not left, "not every answer was asked for"
    outcome = execution.outcome
    return [(t.direction, t.physical, t.width, t.value) for t in outcome.transfers], outcome


def foretold(code: str, cpu: CpuState, where: AddressSpace | None = None) -> tuple[Transfer, ...]:
    insn = decode(bytes.fromhex(code), cpu.rip, cpu.mode)
    return foretell(insn, cpu, where or space()).transfers


# --- fetching


def test_pitfall_16_code_that_ends_with_its_page_is_fetched_short_and_decoded() -> None:
    where = space()
    where.memory.write(0xAFFD, bytes.fromhex("8b401c"))
    fetched = where.read(CODE + 0xFFD, 15)
    assert fetched == bytes.fromhex("8b401c")  # the next page is not mapped
    assert decode(fetched, CODE + 0xFFD, Mode.LONG).length == 3


def test_pitfall_17_a_fetch_over_the_end_of_everything_raises_nothing() -> None:
    assert space().read(HOLE, 15) == b""
    assert space().read(DEV2, 15) == b""  # a device is no code
    with pytest.raises(EmulationError, match="no bytes"):
        decode(space().read(HOLE, 15), HOLE, Mode.LONG)


def test_pitfall_22_evex_is_left_to_the_cpu_displacement_and_all() -> None:
    insn = decode(bytes.fromhex("62f17c48284301"), CODE, Mode.LONG)  # vmovaps zmm0, [rbx + 64]
    assert insn.form is None and insn.length == 7
    with pytest.raises(UnsupportedInstruction):
        foretold("62f17c48284301", state(rbx=DEV1))


# --- one access, whatever happens


def test_pitfall_45_a_device_is_read_once_by_a_read_modify_write() -> None:
    transfers, outcome = run("0103", state(rbx=DEV1, rax=1), 0xFFFF_FFFF)
    assert transfers == [("read", DEVICE, 4, 0xFFFF_FFFF), ("write", DEVICE, 4, 0)]
    assert outcome.cpu.rflags & Flag.ZF


@pytest.mark.parametrize(
    ("code", "registers"),
    [
        ("a5", {"rsi": DEV1, "rdi": HOLE}),
        ("ff33", {"rbx": DEV1, "rsp": HOLE + 8}),
        ("a7", {"rsi": DEV1, "rdi": HOLE}),
        ("488b03", {"rbx": RAM2 + 0xFFC}),
    ],
)
def test_pitfall_46_no_fault_comes_after_a_device_was_read(
    code: str, registers: dict[str, int]
) -> None:
    """`foretell` raises what a later operand deserves, and makes no transfer itself."""
    with pytest.raises(GuestException) as caught:
        foretold(code, state(**registers))
    assert caught.value.vector == 14 and caught.value.linear == HOLE


def test_pitfall_47_gathers_are_left_to_the_cpu() -> None:
    with pytest.raises(UnsupportedInstruction):
        foretold("c4e26990048b", state(rbx=DEV1))  # vpgatherdd


# --- pages


@pytest.mark.parametrize("offset", [0xFFC, 0xFFD, 0xFFE, 0xFFF])
def test_pitfall_48_only_what_crosses_is_split_to_the_last_byte(offset: int) -> None:
    pieces = [
        (t.linear - DEV2 - offset, t.width) for t in foretold("8b03", state(rbx=DEV2 + offset))
    ]
    assert (
        pieces
        == {
            0xFFC: [(0, 4)],
            0xFFD: [(0, 2), (2, 1), (3, 1)],
            0xFFE: [(0, 2), (2, 2)],
            0xFFF: [(0, 1), (1, 2), (3, 1)],
        }[offset]
    )


@pytest.mark.parametrize(
    ("linear", "expected"),
    [
        (RAM1 + 0xFFE, [("read", 0x5FFE, 2, 0x2211), ("read", DEVICE + 0x1000, 2, 0x4433)]),
        (DEV1 + 0xFFE, [("read", DEVICE + 0xFFE, 2, 0x2211), ("read", 0x9000, 2, 0x4433)]),
    ],
)
def test_pitfall_49_ram_on_one_side_a_device_on_the_other(
    linear: int, expected: list[tuple[str, int, int, int | None]]
) -> None:
    transfers, outcome = run("8b03", state(rbx=linear), 0x2211, 0x4433)
    assert transfers == expected
    assert outcome.cpu.gpr[0] == 0x4433_2211


def test_pitfall_49_absent_second_page_faults_there_and_nothing_is_written() -> None:
    cpu = state(rbx=RAM2 + 0xFFE)
    insn = decode(bytes.fromhex("8903"), CODE, Mode.LONG)
    with pytest.raises(GuestException) as caught:
        foretell(insn, cpu, space())
    assert caught.value.linear == HOLE and caught.value.error_code == 2


@pytest.mark.parametrize("offset", range(1, 8))
def test_pitfall_50_pieces_are_powers_of_two_in_ascending_order(offset: int) -> None:
    linear = DEV1 - offset
    pieces = foretold("488903", state(rbx=linear))
    at = linear
    for piece in pieces:
        assert piece.linear == at and piece.width in (1, 2, 4, 8)
        assert (piece.linear & 0xFFF) + piece.width <= 0x1000
        at += piece.width
    assert at == linear + 8


def test_pitfall_50_each_piece_carries_its_part_of_the_value() -> None:
    transfers, _ = run("488903", state(rbx=DEV1 - 3, rax=0x8877_6655_4433_2211))
    assert [(width, value) for _, _, width, value in transfers] == [
        (2, 0x2211), (1, 0x33), (4, 0x7766_5544), (1, 0x88),
    ]  # fmt: skip


def test_pitfall_51_wide_accesses_are_eight_byte_transfers_in_order() -> None:
    cpu = replace(state(rbx=DEV1), xmm=(0x1111 << 64 | 0x2222, *[0] * 15))
    assert run("0f1103", cpu)[0] == [("write", DEVICE, 8, 0x2222), ("write", DEVICE + 8, 8, 0x1111)]


def test_pitfall_54_masked_moves_are_left_to_the_cpu() -> None:
    for code in ("62f17c49284301", "c4e2792c03", "660ff7c1"):
        with pytest.raises((UnsupportedInstruction, EmulationError)):
            foretold(code, state(rbx=DEV1))


def test_pitfall_92_each_page_of_a_split_access_is_translated_by_itself() -> None:
    transfers, _ = run("8b03", state(rbx=DEV2 + 0xFFE), 1, 2)
    assert [physical for _, physical, _, _ in transfers] == [DEVICE + 0x1FFE, DEVICE]


# --- what is a device access


@pytest.mark.parametrize(
    ("code", "lost"),
    [("f00103", True), ("8703", True), ("f00fb10b", True), ("0103", False), ("0fb10b", False)],
)
def test_pitfall_56_lost_atomicity_is_told(code: str, lost: bool) -> None:
    insn = decode(bytes.fromhex(code), CODE, Mode.LONG)
    device = run(code, state(rbx=DEV1), 5)[1].transfers
    assert ("atomicity" in (lost_atomicity(insn, device) or "")) is lost
    assert lost_atomicity(insn, run(code, state(rbx=RAM1), 5)[1].transfers) is None


def test_pitfall_57_a_device_is_asked_in_the_instruction_s_width() -> None:
    for code, width in (("8a03", 1), ("668b03", 2), ("8b03", 4), ("488b03", 8), ("0fb703", 2)):
        assert run(code, state(rbx=DEV1), 0)[0] == [("read", DEVICE, width, 0)]


def test_pitfall_57_a_device_cannot_answer_with_more_bits_than_were_asked_for() -> None:
    _, outcome = run("0fb603", state(rbx=DEV1), 0xFFFF_FF80)
    assert outcome.cpu.gpr[0] == 0x80


def test_pitfall_58_an_access_over_the_end_of_the_address_space_does_not_wrap() -> None:
    with pytest.raises(GuestException) as caught:
        foretold("8b4302", state(rbx=0xFFFF_FFFF_FFFF_FFFB))
    assert caught.value.vector == 13


def test_pitfall_59_either_side_of_a_copy_may_be_the_device() -> None:
    there, _ = run("a5", state(rsi=RAM1, rdi=DEV1), 7)
    back, _ = run("a5", state(rsi=DEV1, rdi=RAM1), 7)
    assert there == [("read", 0x5000, 4, 7), ("write", DEVICE, 4, 7)]
    assert back == [("read", DEVICE, 4, 7), ("write", 0x5000, 4, 7)]


def test_pitfall_62_ram_reached_by_the_same_instruction_is_no_device_access() -> None:
    (read, write) = run("a5", state(rsi=DEV1, rdi=RAM1), 7)[1].transfers
    assert read.traced and not write.traced and write.ram
    recorded = memory_access(write)
    assert recorded.region is None and hypercalls(recorded) is None


def test_pitfall_63_a_user_pointer_in_the_kernels_hands_is_fatal_since_6_12() -> None:
    insn = decode(bytes.fromhex("8b03"), CODE, Mode.LONG)
    assert judge(PROFILES["linux-tdx"], insn, linear=0x7FFF_0000_0000).outcome == "oops"
    assert judge(PROFILES["linux-tdx-5.19"], insn, linear=0x7FFF_0000_0000).outcome == "emulated"


def test_pitfall_88_a_neighbour_in_the_device_s_page_is_not_traced() -> None:
    where = space(end=DEVICE + 0xFF)
    (inside,) = foretold("8b03", state(rbx=DEV1 + 0xFC), where)
    (outside,) = foretold("8b03", state(rbx=DEV1 + 0x100), where)
    assert inside.traced and not outside.traced
    assert memory_access(inside).region == "dev" and memory_access(outside).region is None


def fault(cr2: int, error_code: int) -> Fault:
    frame = FaultFrame(error_code, CODE, cs=0x10, rflags=2, rsp=0, ss=0x18)
    spill = Spill(slots=(), frame=frame, gpr=(0,) * 16, cr0=0, cr2=cr2, cr3=0, cr4=0, tsc=0)
    return Fault(0, 0, 0, spill, space(), CpuState())


@pytest.mark.parametrize(
    ("code", "cr2", "error_code"),
    [
        ("8b03", DEV1 + 4, 9),  # beside the operand
        ("8b03", DEV1 - 1, 9),
        ("8b03", DEV1, 0xB),  # a write, by an instruction that only reads
        ("8d03", DEV1, 9),  # LEA: the fault must have come from elsewhere
    ],
)
def test_pitfall_60_a_fault_that_the_instruction_does_not_explain_is_refused(
    code: str, cr2: int, error_code: int
) -> None:
    insn = decode(bytes.fromhex(code), CODE, Mode.LONG)
    pieces = foretell(insn, state(rbx=DEV1), space()).transfers if insn.form else ()
    with pytest.raises(InterceptError, match="does not access"):
        fault(cr2, error_code).check_address(insn, pieces)


@pytest.mark.parametrize(
    ("code", "cr2", "error_code"),
    [("8b03", DEV1, 9), ("8b03", DEV1 + 3, 9), ("8903", DEV1, 0xB), ("0103", DEV1, 0xB)],
)
def test_pitfall_60_a_fault_that_it_explains_is_not(code: str, cr2: int, error_code: int) -> None:
    insn = decode(bytes.fromhex(code), CODE, Mode.LONG)
    fault(cr2, error_code).check_address(insn, foretell(insn, state(rbx=DEV1), space()).transfers)


def test_pitfall_61_a_fault_of_event_delivery_is_not_taken_for_the_instruction_s() -> None:
    insn = decode(bytes.fromhex("90"), CODE, Mode.LONG)
    with pytest.raises(InterceptError, match="nop"):
        fault(DEV1, 0xB).check_address(insn, ())


# --- REP


def test_pitfall_67_a_fault_in_the_middle_leaves_what_was_done() -> None:
    """Two elements fit; the third faults with registers as after the second."""
    cpu = state(rsi=DEV1, rdi=RAM2 + 0xFF8, rcx=5)
    for answer in (1, 2):
        _, outcome = run("f3a5", cpu, answer)
        cpu = outcome.cpu
        assert cpu.rip == CODE
    assert (cpu.gpr[1], cpu.gpr[6] - DEV1, cpu.gpr[7]) == (3, 8, HOLE)
    with pytest.raises(GuestException) as caught:
        foretold("f3a5", cpu)
    assert caught.value.linear == HOLE and cpu.gpr[1] == 3


def test_pitfall_68_code_that_changed_under_a_rep_is_decoded_anew() -> None:
    first = decode(bytes.fromhex("f3a4"), CODE, Mode.LONG)
    second = decode(bytes.fromhex("f3aa"), CODE, Mode.LONG)
    assert first.form is not second.form


def test_pitfall_73_one_execution_is_one_iteration_however_large_the_count() -> None:
    cpu = state(rdi=DEV1, rcx=1 << 40, rax=0xAA)
    transfers, outcome = run("f3aa", cpu)
    assert transfers == [("write", DEVICE, 1, 0xAA)]
    assert outcome.cpu.gpr[1] == (1 << 40) - 1 and outcome.cpu.rip == CODE


@pytest.mark.parametrize(("code", "width"), [("f36c", 1), ("66f36d", 2), ("f36d", 4)])
def test_pitfall_76_rep_ins_goes_across_pages_an_iteration_at_a_time(code: str, width: int) -> None:
    # From the device's second page, which comes first, over to its first one.
    cpu, value = state(rdi=DEV1 - width // 2, rcx=2, rdx=0x1_0071), 0x4433_2211
    value &= (1 << 8 * width) - 1
    made, after = run(code, cpu, value)
    half = (1 << 4 * width) - 1
    assert made == (
        [("write", DEVICE, 1, value)]
        if width == 1
        else [
            ("write", DEVICE + 0x2000 - width // 2, width // 2, value & half),
            ("write", DEVICE, width // 2, value >> 4 * width),
        ]
    )
    assert (after.cpu.gpr[1], after.cpu.rip) == (1, CODE)
    assert after.cpu.gpr[7] == DEV1 - width // 2 + width


@pytest.mark.parametrize("code", ["f36c", "f36e"])
def test_pitfall_76_a_page_fault_comes_before_the_port(code: str) -> None:
    with pytest.raises(GuestException) as raised:
        foretold(code, state(rdi=HOLE, rsi=HOLE, rcx=4, rdx=0x71))
    assert (raised.value.vector, raised.value.linear) == (14, HOLE)


# --- control and hypercall


def test_pitfall_77_the_length_is_decoded_and_rip_moves_by_it() -> None:
    for code, length in (("8b03", 2), ("8b8300010000", 6), ("48c70300000000", 7)):
        answers = (0,) if code.startswith("8b") else ()
        _, outcome = run(code, state(rbx=DEV1), *answers)
        assert outcome.cpu.rip == CODE + length


@pytest.mark.parametrize("direction", ["read", "write"])
def test_pitfall_80_the_direction_is_0_for_a_read_and_1_for_a_write(direction: str) -> None:
    transfer = (foretold("8b03", state(rbx=DEV1)) + foretold("8903", state(rbx=DEV1)))[
        direction == "write"
    ]
    calls = hypercalls(memory_access(transfer))
    assert calls is not None and calls[0].given["r13"] == (direction == "write")


def test_pitfall_81_a_read_hands_no_stale_register_to_the_host() -> None:
    assert tdvmcall("read", 8, DEVICE, 0x5EC4E7).given["r15"] == 0
    assert tdvmcall("write", 8, DEVICE, 1).returned.keys() == {"rax", "r10"}


def test_pitfall_82_sizes_are_1_2_4_8_and_the_address_is_shared() -> None:
    for code in ("8a03", "668b03", "8b03", "488b03"):
        (piece,) = foretold(code, state(rbx=DEV1))
        calls = hypercalls(memory_access(piece))
        assert calls is not None
        assert calls[0].given["r12"] == piece.width
        assert calls[0].given["r14"] == DEVICE | 1 << 51
        assert calls[0].returned["r10"] == 0
    wide = Transfer("read", DEV1, DEVICE, 16, None, piece.region, traced=True, ram=False)
    assert hypercalls(memory_access(wide)) is None


@pytest.mark.parametrize("code", ["f00fb10b", "0fb10b"])
def test_pitfall_91_a_failed_compare_writes_back_what_it_read(code: str) -> None:
    transfers, outcome = run(code, state(rbx=DEV1, rax=1, rcx=9), 5)
    assert transfers == [("read", DEVICE, 4, 5), ("write", DEVICE, 4, 5)]
    assert outcome.cpu.gpr[0] == 5
    assert run(code, state(rbx=DEV1, rax=5, rcx=9), 5)[0][1] == ("write", DEVICE, 4, 9)


def test_pitfall_91_the_pair_is_known_to_be_locked() -> None:
    cpu = state(rbx=DEV1)
    for code, locked in (("f00fb10b", True), ("870b", True), ("0fb10b", False)):
        (operand,) = plan(decode(bytes.fromhex(code), CODE, Mode.LONG), cpu)
        assert operand.locked is locked


def test_pitfall_32_a_refused_write_leaves_no_trace_in_the_state() -> None:
    cpu = state(rbx=DEV1, rax=1)
    emulation = execute(decode(bytes.fromhex("0fc103"), CODE, Mode.LONG), cpu)
    next(emulation)
    emulation.answer = 5
    next(emulation)
    assert cpu == state(rbx=DEV1, rax=1)
