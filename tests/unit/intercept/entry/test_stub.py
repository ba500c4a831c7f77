"""The fault stub, run by an independent CPU."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
import unicorn
from unicorn import x86_const as regs

from tracer.intercept.entry.door import NOTE_MSR
from tracer.intercept.entry.spill import (
    CONTROL_SIZE,
    SPILL_SIZE,
    VALUE_OFFSET,
    Spill,
    cr2_at,
    error_at,
    pack_frame,
    pack_request,
    pack_return,
    patch_spill,
    unpack_spill,
)
from tracer.intercept.entry.stub import CALLED, Fast, assemble
from tracer.x86.state import GPR

BASE, STACK, DATA, CODE = 0x10_0000, 0x20_0000, 0x30_0000, 0x40_0000
HANDLER = 0x1000_0000_0000  # beyond the reach of a relative jump
STUB = assemble(BASE)
DOOR, SHUT = STUB.doors[2], STUB.doors[3]
RSVD = 8
FRAME = STACK + 0x800
INTERRUPTED = {name: 0x1111_0000_0000_0000 + number for number, name in enumerate(GPR)}


def register(name: str) -> int:
    return int(getattr(regs, f"UC_X86_REG_{name.upper()}"))


@pytest.fixture
def cpu() -> unicorn.Uc:
    """A CPU that has just taken a page fault at CODE, its handler being the stub."""
    machine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    for address in (BASE, HANDLER, STACK, DATA, CODE):
        machine.mem_map(address, 0x1000)
    machine.mem_write(BASE, STUB.code)
    machine.mem_write(DOOR, STUB.door(DOOR, HANDLER))
    machine.mem_write(HANDLER, b"\x90" * 16)
    machine.mem_write(CODE, b"\x90" * 64)
    for name, value in INTERRUPTED.items():
        machine.reg_write(register(name), value)
    return machine


def fault(machine: unicorn.Uc, error_code: int, until: int, door: int = DOOR) -> None:
    cs, ss = machine.reg_read(regs.UC_X86_REG_CS), machine.reg_read(regs.UC_X86_REG_SS)
    frame = struct.pack("<6Q", error_code, CODE, cs, 0x246, STACK + 0xF00, ss)
    machine.mem_write(FRAME, frame)
    machine.reg_write(regs.UC_X86_REG_RSP, FRAME)
    machine.emu_start(door, until, count=1000)
    assert machine.reg_read(regs.UC_X86_REG_RIP) == until


def spilled(machine: unicorn.Uc) -> tuple[int, Spill]:
    stack = machine.reg_read(regs.UC_X86_REG_RSP)
    return stack, unpack_spill(bytes(machine.mem_read(stack, SPILL_SIZE)))


@pytest.mark.parametrize("error_code", [0, 1, 2, 7, 0x11, 0x27])
def test_other_faults_go_to_the_guests_handler(cpu: unicorn.Uc, error_code: int) -> None:
    fault(cpu, error_code, HANDLER)
    assert cpu.reg_read(regs.UC_X86_REG_RSP) == FRAME
    for name in set(GPR) - {"rsp"}:
        assert cpu.reg_read(register(name)) == INTERRUPTED[name]


@pytest.mark.parametrize("error_code", [0, 2, RSVD])
def test_through_a_shut_door_nobody_gets_to_a_handler(cpu: unicorn.Uc, error_code: int) -> None:
    fault(cpu, error_code, STUB.stop, SHUT)
    assert spilled(cpu)[1].frame.error_code == error_code


def test_every_door_fits() -> None:
    for notes in (True, False):
        stub = assemble(BASE, notes=notes)
        assert len({door % 64 for door in stub.doors} | {DOOR % 64}) == 1 and DOOR % 16
        for door in stub.doors:
            assert len(stub.door(door, HANDLER)) <= stub.doors.step
            assert stub.covers(door) and not stub.covers(door + len(stub.code))
    assert STUB.code[-1] == 0 and STUB.bell % 8 == 0


@pytest.mark.parametrize("error_code", [RSVD, RSVD | 2, RSVD | 1, RSVD | 7])
def test_ours_spills_everything(cpu: unicorn.Uc, error_code: int) -> None:
    cpu.reg_write(regs.UC_X86_REG_CR2, 0xABCD_1234)
    fault(cpu, error_code, STUB.stop)
    stack, spill = spilled(cpu)
    assert stack + SPILL_SIZE == FRAME + 6 * 8
    expected = {**INTERRUPTED, "rsp": STACK + 0xF00}
    assert dict(zip(GPR, spill.gpr, strict=True)) == expected
    assert (spill.frame.error_code, spill.frame.rip) == (error_code, CODE)
    assert spill.frame.rflags == 0x246
    assert spill.cr2 == 0xABCD_1234
    assert spill.cr0 == cpu.reg_read(regs.UC_X86_REG_CR0)
    assert spill.cr4 == cpu.reg_read(regs.UC_X86_REG_CR4)


FAST = Fast(CODE + 0x800, range(CODE, CODE + 0x1000))


@pytest.mark.parametrize(("ring_of_privilege", "error_code"), [(0, RSVD), (3, RSVD), (0, 0)])
def test_with_compiled_sites_poison_leads_to_them_in_the_kernel_alone(
    cpu: unicorn.Uc, ring_of_privilege: int, error_code: int
) -> None:
    stub = assemble(BASE, fast=FAST)
    door = stub.doors[0]
    cpu.mem_write(BASE, stub.code)
    cpu.mem_write(door, stub.door(door, HANDLER))
    cs, ss = cpu.reg_read(regs.UC_X86_REG_CS) | ring_of_privilege, cpu.reg_read(regs.UC_X86_REG_SS)
    cpu.mem_write(FRAME, struct.pack("<6Q", error_code, CODE, cs, 0x246, STACK + 0xF00, ss))
    cpu.reg_write(regs.UC_X86_REG_RSP, FRAME)
    until = HANDLER if not error_code else stub.stop if ring_of_privilege else FAST.linear
    cpu.emu_start(door, until, count=1000)
    assert cpu.reg_read(regs.UC_X86_REG_RIP) == until
    if until == FAST.linear:
        assert cpu.reg_read(regs.UC_X86_REG_RSP) == FRAME
        values = {name: cpu.reg_read(register(name)) for name in set(GPR) - {"rsp"}}
        assert all(value == INTERRUPTED[name] for name, value in values.items())


def test_a_vcpu_that_is_at_a_compiled_site_is_in_the_stub() -> None:
    stub = assemble(BASE, fast=FAST)
    assert stub.covers(FAST.linear + 5) and stub.covers(BASE) and not stub.covers(CODE + 0x1000)
    leading = [FAST.linear + 5, stub.entry, *stub.doors]
    assert all(stub.leads_to_sites(place) for place in leading)
    assert not any(stub.leads_to_sites(place) for place in (stub.stop, stub.leave, HANDLER))
    assert not STUB.leads_to_sites(STUB.entry)
    # Whoever sends a vCPU into the stub has it stop, whatever sites there are.
    assert stub.entry != stub.spill and assemble(BASE).entry == assemble(BASE).spill


def test_changes_reach_the_interrupted_code(cpu: unicorn.Uc) -> None:
    fault(cpu, RSVD, STUB.stop)
    stack, spill = spilled(cpu)
    gpr = list(spill.gpr)
    gpr[GPR.index("rax")] = 0x55
    gpr[GPR.index("r15")] = 0x66
    patch = patch_spill(spill, tuple(gpr), CODE + 3, 0x8D7)
    assert patch is not None
    cpu.mem_write(stack + patch[0], patch[1])
    cpu.emu_start(STUB.stop, STUB.leave, count=1000)
    values = {name: cpu.reg_read(register(name)) for name in set(GPR) - {"rsp"}}
    changed = {name: value for name, value in values.items() if value != INTERRUPTED[name]}
    assert changed == {"rax": 0x55, "r15": 0x66}
    rsp = cpu.reg_read(regs.UC_X86_REG_RSP)
    rip, _, rflags, interrupted_rsp, _ = struct.unpack("<5Q", cpu.mem_read(rsp, 40))
    assert (rip, rflags, interrupted_rsp) == (CODE + 3, 0x8D7, STACK + 0xF00)
    assert bytes(cpu.mem_read(STUB.leave, 2)) == b"\x48\xcf"  # iretq


def test_cr2_is_noted_and_given_back(cpu: unicorn.Uc) -> None:
    def note() -> int:
        return int(cpu.msr_read(NOTE_MSR))

    if not keeps_a_note(cpu):
        pytest.skip("this unicorn has no machine-check banks")
    cpu.reg_write(regs.UC_X86_REG_CR2, 0xFFFF_8880_1234_5678)
    fault(cpu, 0, HANDLER)
    assert note() == 0xFFFF_8880_1234_5678
    assert cpu.reg_read(regs.UC_X86_REG_CR2) == 0xFFFF_8880_1234_5678
    cpu.reg_write(regs.UC_X86_REG_CR2, DATA)
    fault(cpu, RSVD, STUB.stop)
    assert spilled(cpu)[1].cr2 == DATA
    cpu.emu_start(STUB.stop, STUB.leave, count=1000)
    assert cpu.reg_read(regs.UC_X86_REG_CR2) == 0xFFFF_8880_1234_5678
    cpu.reg_write(regs.UC_X86_REG_CR2, CODE)
    cpu.emu_start(STUB.noting, STUB.noted, count=100)
    assert note() == CODE


@pytest.mark.parametrize("rounds", [1, 1000])
def test_a_vcpu_is_kept_busy_and_rings_again(cpu: unicorn.Uc, rounds: int) -> None:
    fault(cpu, RSVD, STUB.stop)
    before = cpu.reg_read(regs.UC_X86_REG_RSP)
    made: list[int] = []
    cpu.hook_add(unicorn.UC_HOOK_CODE, lambda _, linear, *__: made.append(linear))
    cpu.reg_write(regs.UC_X86_REG_RCX, rounds)
    cpu.emu_start(STUB.waiting, STUB.stop, count=10_000)
    assert cpu.reg_read(regs.UC_X86_REG_RIP) == STUB.stop
    assert cpu.reg_read(regs.UC_X86_REG_RSP) == before
    assert made.count(STUB.waiting) == rounds and len(made) == 2 * rounds + 2


def keeps_a_note(cpu: unicorn.Uc) -> bool:
    cpu.msr_write(NOTE_MSR, 0x1234)
    return int(cpu.msr_read(NOTE_MSR)) == 0x1234


def test_a_stub_without_a_note(cpu: unicorn.Uc) -> None:
    plain = assemble(BASE, notes=False)
    door = plain.door(plain.doors[0], HANDLER)
    assert len(door) < len(STUB.door(DOOR, HANDLER))
    cpu.mem_write(BASE, plain.code)
    cpu.mem_write(plain.doors[0], door)
    cs, ss = cpu.reg_read(regs.UC_X86_REG_CS), cpu.reg_read(regs.UC_X86_REG_SS)
    cpu.mem_write(FRAME, struct.pack("<6Q", 0, CODE, cs, 0x246, STACK + 0xF00, ss))
    cpu.reg_write(regs.UC_X86_REG_RSP, FRAME)
    cpu.emu_start(plain.doors[0], HANDLER, count=2 + 1)
    assert cpu.reg_read(regs.UC_X86_REG_RIP) == HANDLER


def test_nothing_to_write_back(cpu: unicorn.Uc) -> None:
    fault(cpu, RSVD, STUB.stop)
    _, spill = spilled(cpu)
    assert patch_spill(spill, spill.gpr, CODE, 0x246) is None


@pytest.mark.parametrize("width", [1, 2, 4])
def test_ports_on_request(cpu: unicorn.Uc, width: int) -> None:
    fault(cpu, RSVD, STUB.stop)
    stack, spill = spilled(cpu)
    value = 0x8877_6655_4433_2211
    cut = value & (1 << 8 * width) - 1
    ports: list[tuple[int, ...]] = []

    def read(_: object, port: int, size: int, __: object) -> int:
        ports.append((port, size))
        return cut

    def written(_: object, port: int, size: int, given: int, __: object) -> None:
        ports.append((port, size, given))

    cpu.hook_add(unicorn.UC_HOOK_INSN, read, aux1=regs.UC_X86_INS_IN)
    cpu.hook_add(unicorn.UC_HOOK_INSN, written, aux1=regs.UC_X86_INS_OUT)
    cpu.reg_write(regs.UC_X86_REG_RDX, 0x71)
    cpu.reg_write(regs.UC_X86_REG_RAX, value)
    cpu.emu_start(STUB.outputs[width], STUB.done, count=100)
    cpu.reg_write(regs.UC_X86_REG_RDX, 0x72)
    cpu.emu_start(STUB.inputs[width], STUB.done, count=100)
    assert ports == [(0x71, width, cut), (0x72, width)]
    assert int.from_bytes(cpu.mem_read(stack + VALUE_OFFSET, width), "little") == cut
    # From there it leaves as from a stop.
    cpu.emu_start(STUB.done, STUB.leave, count=100)
    for name in ("rax", "rdx"):
        assert cpu.reg_read(register(name)) == spill.gpr[GPR.index(name)]


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_loads_and_stores_on_request(cpu: unicorn.Uc, width: int) -> None:
    fault(cpu, RSVD, STUB.stop)
    stack, spill = spilled(cpu)
    value = 0x8877_6655_4433_2211
    accesses: list[tuple[int, int, int]] = []

    def note(uc: object, access: int, address: int, size: int, data: int, _: object) -> None:
        if DATA <= address < DATA + 0x1000:
            accesses.append((access, address, size))

    cpu.hook_add(unicorn.UC_HOOK_MEM_READ | unicorn.UC_HOOK_MEM_WRITE, note)
    cpu.mem_write(stack, pack_request(DATA + 0x10, value))
    cpu.emu_start(STUB.stores[width], STUB.done, count=100)
    assert cpu.mem_read(DATA + 0x10, 8) == value.to_bytes(8, "little")[:width] + bytes(8 - width)
    cpu.mem_write(stack, pack_request(DATA + 0x10, 0))
    cpu.emu_start(STUB.loads[width], STUB.done, count=100)
    read = int.from_bytes(cpu.mem_read(stack + VALUE_OFFSET, width), "little")
    assert read == value & (1 << 8 * width) - 1
    assert accesses == [
        (unicorn.UC_MEM_WRITE, DATA + 0x10, width),
        (unicorn.UC_MEM_READ, DATA + 0x10, width),
    ]
    # From there it leaves as from a stop.
    cpu.emu_start(STUB.done, STUB.leave, count=100)
    assert cpu.reg_read(regs.UC_X86_REG_RAX) == spill.gpr[GPR.index("rax")]


# ---- calls of a confidential guest

CALL = b"\x66\x0f\x01\xcc"  # tdcall


def called(machine: unicorn.Uc, code: bytes, until: int, ring_of_privilege: int = 0) -> None:
    door = STUB.doors[4]
    machine.mem_write(door, STUB.call_door(door, HANDLER, CALL))
    machine.mem_write(CODE, code)
    cs, ss = machine.reg_read(regs.UC_X86_REG_CS), machine.reg_read(regs.UC_X86_REG_SS)
    frame = struct.pack("<5Q", CODE, cs | ring_of_privilege, 0x46, STACK + 0xF00, ss)
    machine.mem_write(FRAME + 8, frame)
    machine.reg_write(regs.UC_X86_REG_RSP, FRAME + 8)
    machine.emu_start(door, until, count=1000)
    assert machine.reg_read(regs.UC_X86_REG_RIP) == until


def test_a_call_spills_with_an_error_code_of_its_own(cpu: unicorn.Uc) -> None:
    called(cpu, CALL, STUB.stop)
    stack, spill = spilled(cpu)
    assert stack + SPILL_SIZE == FRAME + 6 * 8
    expected = {**INTERRUPTED, "rsp": STACK + 0xF00}
    assert dict(zip(GPR, spill.gpr, strict=True)) == expected
    assert (spill.frame.error_code, spill.frame.rip) == (CALLED, CODE)


OTHERS = [
    b"\x0f\x0b\x90\x90", b"\x66\x0f\x0b\xcc", b"\x66\x0f\x01\xcd", b"\x66\x0f\x00\xcc",
    b"\x67\x0f\x01\xcc", b"\xcc\x01\x0f\x66",
]  # fmt: skip


@pytest.mark.parametrize("code", OTHERS)
def test_any_other_invalid_instruction_goes_to_the_guests_handler(
    cpu: unicorn.Uc, code: bytes
) -> None:
    called(cpu, code, HANDLER)
    assert cpu.reg_read(regs.UC_X86_REG_RSP) == FRAME + 8
    for name in set(GPR) - {"rsp"}:
        assert cpu.reg_read(register(name)) == INTERRUPTED[name]


def test_a_program_that_calls_is_the_guests_to_judge(cpu: unicorn.Uc) -> None:
    called(cpu, CALL, HANDLER, 3)


@pytest.mark.parametrize("code", [b"\x0f\x0b", b"\x66\x0f\x0b"])
def test_what_lies_behind_a_short_instruction_is_not_read(cpu: unicorn.Uc, code: bytes) -> None:
    end = CODE + 0x1000 - len(code)  # and no page behind
    door = STUB.doors[4]
    cpu.mem_write(door, STUB.call_door(door, HANDLER, CALL))
    cpu.mem_write(end, code)
    cpu.mem_write(FRAME + 8, struct.pack("<5Q", end, 8, 0x46, STACK + 0xF00, 0))
    cpu.reg_write(regs.UC_X86_REG_RSP, FRAME + 8)
    cpu.emu_start(door, HANDLER, count=1000)
    assert cpu.reg_read(regs.UC_X86_REG_RIP) == HANDLER


def test_a_door_for_calls_fits() -> None:
    for door in STUB.doors:
        assert len(STUB.call_door(door, HANDLER, CALL)) <= STUB.doors.step - door % 64


def test_an_exception_is_raised_as_if_it_had_come_in_place_of_the_fault(cpu: unicorn.Uc) -> None:
    fault(cpu, RSVD, STUB.stop)
    cpu.mem_write(STUB.raised, HANDLER.to_bytes(8, "little"))
    cpu.emu_start(STUB.raising, HANDLER, count=1000)
    assert cpu.reg_read(regs.UC_X86_REG_RIP) == HANDLER
    assert cpu.reg_read(regs.UC_X86_REG_RSP) == FRAME + 8
    for name in set(GPR) - {"rsp"}:
        assert cpu.reg_read(register(name)) == INTERRUPTED[name]


def test_an_exception_with_an_error_code_is_raised_on_another_stack(cpu: unicorn.Uc) -> None:
    fault(cpu, RSVD, STUB.stop)
    stack, spill = spilled(cpu)
    there = STACK + 0x100
    cpu.mem_write(there, pack_frame(replace(spill.frame, error_code=0x400)))
    cpu.mem_write(error_at(stack), there.to_bytes(8, "little"))
    cpu.mem_write(STUB.raised, HANDLER.to_bytes(8, "little"))
    cpu.emu_start(STUB.switching, HANDLER, count=1000)
    assert cpu.reg_read(regs.UC_X86_REG_RIP) == HANDLER
    assert cpu.reg_read(regs.UC_X86_REG_RSP) == there
    frame = struct.unpack("<6Q", cpu.mem_read(there, 48))
    assert frame == (0x400, CODE, spill.frame.cs, 0x246, STACK + 0xF00, spill.frame.ss)
    for name in set(GPR) - {"rsp"}:
        assert cpu.reg_read(register(name)) == INTERRUPTED[name]


MSR = 0x427
ABOUT = assemble(BASE, msr=MSR)


def about_an_msr(machine: unicorn.Uc, value: int) -> None:
    """Let a guest whose calls are about an MSR call."""
    machine.mem_write(BASE, ABOUT.code)
    machine.msr_write(MSR, value)
    door = ABOUT.doors[4]
    machine.mem_write(door, ABOUT.call_door(door, HANDLER, CALL))
    machine.mem_write(CODE, CALL)
    machine.mem_write(FRAME + 8, struct.pack("<5Q", CODE, 8, 0x46, STACK + 0xF00, 0))
    machine.reg_write(regs.UC_X86_REG_RSP, FRAME + 8)
    machine.emu_start(door, ABOUT.stop, count=1000)
    assert machine.reg_read(regs.UC_X86_REG_RIP) == ABOUT.stop


@pytest.mark.parametrize("value", [2, 0x1FC7_C000, 0x8000_0008_4000_0004])
def test_a_call_has_what_the_msr_holds_in_the_place_of_cr2(cpu: unicorn.Uc, value: int) -> None:
    noted = 0x1234_5678_9ABC
    cpu.msr_write(NOTE_MSR, noted)
    about_an_msr(cpu, value)
    _, spill = spilled(cpu)
    assert (spill.cr2, spill.frame.error_code, spill.frame.rip) == (value, CALLED, CODE)
    expected = {**INTERRUPTED, "rsp": STACK + 0xF00}
    assert dict(zip(GPR, spill.gpr, strict=True)) == expected
    cpu.emu_start(ABOUT.stop, ABOUT.leave, count=1000)
    assert cpu.reg_read(regs.UC_X86_REG_CR2) == noted


def test_the_msr_is_given_what_lies_in_the_place_of_cr2(cpu: unicorn.Uc) -> None:
    about_an_msr(cpu, 2)
    stack, _ = spilled(cpu)
    answer = 0x0002_0001_2600_0001
    cpu.mem_write(cr2_at(stack), answer.to_bytes(8, "little"))
    assert ABOUT.telling is not None and STUB.telling is None
    cpu.emu_start(ABOUT.telling, ABOUT.leave, count=1000)
    assert cpu.reg_read(regs.UC_X86_REG_RIP) == ABOUT.leave
    assert cpu.msr_read(MSR) == answer
    for name in set(GPR) - {"rsp"}:
        assert cpu.reg_read(register(name)) == INTERRUPTED[name]


@pytest.mark.parametrize("lets_in", [True, False])
def test_a_vcpu_sleeps_and_goes_on_behind_its_call(cpu: unicorn.Uc, lets_in: bool) -> None:
    called(cpu, CALL, STUB.stop)
    stack, spill = spilled(cpu)
    frame = pack_return(spill, CODE + 4)
    place = STUB.halts[lets_in]
    assert place in STUB.asleep and not STUB.covers(place) and len(frame) == CONTROL_SIZE
    gpr = list(spill.gpr)
    gpr[GPR.index("rsp")] = stack
    patch = patch_spill(spill, tuple(gpr), place, spill.frame.rflags)
    assert patch is not None
    cpu.mem_write(stack + patch[0], patch[1])
    cpu.mem_write(stack, frame)
    cpu.emu_start(STUB.stop, STUB.leave, count=1000)
    rip, _, rflags, rsp, _ = struct.unpack("<5Q", cpu.mem_read(FRAME + 8, 40))
    assert (rip, rflags, rsp) == (place, 0x46, stack)
    # IRETQ would do this; the simulated CPU has no descriptor tables for it.
    cpu.reg_write(regs.UC_X86_REG_RSP, rsp)
    cpu.emu_start(place, STUB.asleep.stop - 2, count=10)
    assert cpu.reg_read(regs.UC_X86_REG_RIP) == STUB.asleep.stop - 2  # behind HLT
    assert bytes(cpu.mem_read(STUB.asleep.stop - 2, 2)) == b"\x48\xcf"  # iretq
    back = struct.unpack("<5Q", cpu.mem_read(cpu.reg_read(regs.UC_X86_REG_RSP), 40))
    assert (back[0], back[2], back[3]) == (CODE + 4, 0x46, STACK + 0xF00)
    assert bool(cpu.reg_read(regs.UC_X86_REG_EFLAGS) & 0x200) == lets_in


# ---- guest code that comes later


LATE = assemble(BASE, late=True)


@pytest.mark.parametrize("ring_of_privilege", [0, 3])
@pytest.mark.parametrize("there", [False, True])
def test_a_fault_goes_to_code_that_came_late(
    cpu: unicorn.Uc, there: bool, ring_of_privilege: int
) -> None:
    cpu.mem_write(BASE, LATE.code)
    door = LATE.doors[0]
    cpu.mem_write(door, LATE.door(door, HANDLER))
    if there:
        cpu.mem_write(LATE.ways[0], FAST.linear.to_bytes(8, "little"))
    cs, ss = cpu.reg_read(regs.UC_X86_REG_CS) | ring_of_privilege, cpu.reg_read(regs.UC_X86_REG_SS)
    cpu.mem_write(FRAME, struct.pack("<6Q", RSVD, CODE, cs, 0x246, STACK + 0xF00, ss))
    cpu.reg_write(regs.UC_X86_REG_RSP, FRAME)
    until = FAST.linear if there and not ring_of_privilege else LATE.stop
    cpu.emu_start(door, until, count=1000)
    assert cpu.reg_read(regs.UC_X86_REG_RIP) == until
    if until == FAST.linear:
        assert cpu.reg_read(regs.UC_X86_REG_RSP) == FRAME
        values = {name: cpu.reg_read(register(name)) for name in set(GPR) - {"rsp"}}
        assert all(value == INTERRUPTED[name] for name, value in values.items())


@pytest.mark.parametrize("there", [False, True])
def test_a_call_goes_to_code_that_came_late(cpu: unicorn.Uc, there: bool) -> None:
    cpu.mem_write(BASE, LATE.code)
    door = LATE.doors[4]
    cpu.mem_write(door, LATE.call_door(door, HANDLER, CALL))
    if there:
        cpu.mem_write(LATE.ways[1], FAST.linear.to_bytes(8, "little"))
    cpu.mem_write(CODE, CALL)
    cpu.mem_write(FRAME + 8, struct.pack("<5Q", CODE, 8, 0x46, STACK + 0xF00, 0))
    cpu.reg_write(regs.UC_X86_REG_RSP, FRAME + 8)
    until = FAST.linear if there else LATE.stop
    cpu.emu_start(door, until, count=1000)
    assert cpu.reg_read(regs.UC_X86_REG_RIP) == until
    if there:  # it pushes an error code by itself
        assert cpu.reg_read(regs.UC_X86_REG_RSP) == FRAME + 8
        values = {name: cpu.reg_read(register(name)) for name in set(GPR) - {"rsp"}}
        assert all(value == INTERRUPTED[name] for name, value in values.items())
    else:
        assert spilled(cpu)[1].frame.error_code == CALLED
