"""What the interceptor wants at a stop, in the usual orders and in those that are rare.

Code is given as bytes: 8b06 is ``mov eax, [rsi]``, 8916 ``mov [rsi], edx``, 488b06 ``mov rax,
[rsi]``, 0106 ``add [rsi], eax``, f3a4 ``rep movsb``, f3ab ``rep stosd``.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest
from playbook import Cancelled, play
from ram import POISON, ROOT
from scene import (
    AT,
    CODE,
    CR4,
    DATA,
    DATA_AT,
    DEVICE,
    HANDLER,
    HOLE,
    LAPIC,
    LAPIC_AT,
    NVME,
    READ,
    STACK,
    STATE,
    USERS,
    WRITE,
    Scene,
    registers,
    set_rip,
)  # fmt: skip

from tracer.access.decision import (
    Delay,
    Give,
    Go,
    Inject,
    Postpone,
    Refuse,
    Retry,
    Skip,
)
from tracer.access.region import Region
from tracer.access.transfer import Transfer
from tracer.access.vcpu import SetMemory, SetRegister
from tracer.access.want import (
    AskAnswered,
    AskBefore,
    AskCompleted,
    BreakAlone,
    FlushTlb,
    MakeChanges,
    MapChanged,
    ReadPhysical,
    Registers,
    RunAlone,
    StepAlone,
    Tables,
    Turn,
    VcpuStates,
    WritePhysical,
)
from tracer.errors import Diverged, GuestHung, InterceptError, TargetGone
from tracer.intercept.entry.spill import SPILL_SIZE, VALUE_OFFSET, pack_request
from tracer.intercept.fault import Fault
from tracer.intercept.recording import RecordedAccess, RecordedDevice, Replayed, Request
from tracer.intercept.standin import StandIn
from tracer.linux.mapping import SPARE_LINEAR
from tracer.trace.marker import ruled
from tracer.x86.paging import PRESENT, WRITABLE
from tracer.x86.state import Flag, PageFaultCode

TOP = STACK - 0x400
PORT = 0x71


def asked(scene: Scene) -> Scene:
    scene.interceptor.asks = True
    return scene


def same(wanted: AskCompleted) -> Any:
    return wanted.cpu


# ---- one access


def test_a_read_is_made_once_and_its_value_patched_into_the_spill() -> None:
    scene = Scene()
    scene.fault("8b06", AT + 0x1C, rsi=AT + 0x1C, rax=0xFFFF_FFFF_FFFF_FFFF)
    done = scene.play((ReadPhysical(DEVICE + 0x1C, 4), 0x12345678))
    after = scene.after(done)
    assert (after["rax"], after["rip"], after.others) == (0x12345678, CODE + 2, [])
    assert scene.accesses() == [("read", DEVICE + 0x1C, 4, 0x12345678)]
    assert scene.counts["emulated"] == 1 and not done.delivered


def test_a_device_cannot_answer_with_more_than_was_asked_for() -> None:
    scene = Scene()
    scene.fault("8b06", AT, rsi=AT)
    assert scene.after(scene.play((ReadPhysical(DEVICE, 4), 0xAA_1111_2222)))["rax"] == 0x1111_2222


def test_a_write_is_made_with_its_value() -> None:
    scene = Scene()
    scene.fault("8916", AT + 0x14, WRITE, rsi=AT + 0x14, rdx=0x460001)
    scene.play((WritePhysical(DEVICE + 0x14, 4, 0x460001), None))
    assert scene.accesses() == [("write", DEVICE + 0x14, 4, 0x460001)]


def test_a_read_modify_write_reads_then_writes() -> None:
    scene = Scene()
    scene.fault("0106", AT, WRITE, rsi=AT, rax=1)
    steps = (ReadPhysical(DEVICE, 4), 0xFFFF_FFFF), (WritePhysical(DEVICE, 4, 0), None)
    after = scene.after(scene.play(*steps))
    assert after["rflags"] & Flag.ZF
    assert [access[0] for access in scene.accesses()] == ["read", "write"]


def test_an_instruction_between_device_and_ram_wants_the_device_alone() -> None:
    scene = Scene()
    scene.fault("a4", AT + 3, rsi=AT + 3, rdi=DATA)  # movsb
    # RAM too is written by QEMU, which notices when the bytes are code.
    scene.play((ReadPhysical(DEVICE + 3, 1), 0x5A), (WritePhysical(DATA_AT, 1, 0x5A), None))
    assert scene.accesses()[0] == ("read", DEVICE + 3, 1, 0x5A)


def test_an_access_beside_the_device_in_its_page_is_made_and_not_recorded() -> None:
    scene = Scene(regions=(Region("tpm", DEVICE, DEVICE + 0x7F, DEVICE, "tpm", "tpm"),))
    scene.ram.map(AT, 0x30_0000 | POISON)
    scene.ram.write(0x30_0000, b"\x07")
    scene.fault("8a06", AT, rsi=AT)  # mov al, [rsi]
    assert scene.after(scene.play())["rax"] == 7
    assert scene.records == [] and scene.counts["neighbours"] == 1


@pytest.mark.parametrize("shows", [False, True])
def test_code_in_the_memory_of_a_device_is_fetched_from_it(shows: bool) -> None:
    at = 0xC000_0000
    rom = Region("pci.ram", at, at + 0xFFF, at, "pci", "ram", shows_memory=shows)
    scene = Scene(regions=(rom, NVME))
    ram = [(0, 0x3F_FFFF), *([] if shows else [(at, at + 0xFFF)])]  # flash is none
    scene.view.regions = type(scene.view.regions)([rom, NVME], [(DEVICE, DEVICE + 0x3FFF)], ram)
    linear = 0xFFFF_C900_0003_0000
    scene.ram.map(linear, at)
    scene.fault("", AT, rip=linear, rsi=AT)
    code = int.from_bytes(bytes.fromhex("8b06") + b"\x90" * 13, "little")
    after = scene.after(scene.play((ReadPhysical(at, 15), code), (ReadPhysical(DEVICE, 4), 3)))
    assert (after["rax"], after["rip"]) == (3, linear + 2)


def test_xmm_registers_are_read_where_they_are_needed_and_only_those_changed_are_written() -> None:
    scene = Scene()
    scene.fault("660f6e06", AT, rsi=AT)  # movd xmm0, [rsi]
    done = scene.play((Registers(), registers(rsi=AT)), (ReadPhysical(DEVICE, 4), 0x77))
    assert scene.after(done).others == [SetRegister("xmm0", 0x77)]


# ---- what the vCPU has to do itself


def by_vcpu(scene: Scene, linear: int, width: int, answer: int, value: int = 0) -> Any:
    """A step: the vCPU makes the access in the stub; its page is healed for just as long."""

    def run(wanted: RunAlone) -> None:
        assert not scene.poisoned(linear & -4096) and wanted.linear == scene.stub.done
        request, routine, *_ = wanted.changes
        assert request == SetMemory(TOP, pack_request(linear, value))
        table = scene.stub.stores if value else scene.stub.loads
        assert routine == set_rip(table[width])
        scene.write(TOP + VALUE_OFFSET, struct.pack("<Q", answer))

    return RunAlone, run


def test_eight_bytes_are_loaded_by_the_vcpu() -> None:
    scene = Scene()
    scene.fault("488b06", AT, rsi=AT)
    after = scene.after(scene.play(by_vcpu(scene, AT, 8, 0x1122_3344_5566_7788)))
    assert after["rax"] == 0x1122_3344_5566_7788 and scene.poisoned(AT)


def test_an_unaligned_store_over_a_page_end_is_one_access_of_the_vcpu() -> None:
    scene = Scene()
    scene.fault("8916", AT + 0xFFE, WRITE, rsi=AT + 0xFFE, rdx=0x11223344)
    scene.play(by_vcpu(scene, AT + 0xFFE, 4, 0, value=0x11223344))
    assert scene.poisoned(AT) and scene.poisoned(AT + 0x1000)
    assert [access[1:] for access in scene.accesses()] == [
        (DEVICE + 0xFFE, 2, 0x3344), (DEVICE + 0x1000, 2, 0x1122),
    ]  # fmt: skip


def test_a_users_page_is_reached_with_smap_lifted() -> None:
    scene = Scene()
    found: list[Any] = []
    scene.fault("488b06", USERS, rsi=USERS, cr4=0x20)
    scene.play((RunAlone, lambda wanted: found.extend(wanted.changes)))
    assert found[2:] == [SetRegister("eflags", 2 | Flag.AC)]


def test_the_local_apic_is_reached_through_the_spare_mapping() -> None:
    scene = Scene()
    scene.ram.map(SPARE_LINEAR, LAPIC & -(1 << 21), PRESENT | WRITABLE, level=2)
    scene.fault("8b06", LAPIC_AT + 0x20, rsi=LAPIC_AT + 0x20)
    linear = SPARE_LINEAR + (LAPIC & ((1 << 21) - 1)) + 0x20
    request = SetMemory(TOP, pack_request(linear, 0))
    wanted = RunAlone(scene.stub.done, [request, set_rip(scene.stub.loads[4])])
    scene.play((wanted, lambda _: scene.write(TOP + VALUE_OFFSET, struct.pack("<Q", 1))))
    assert scene.accesses() == [("read", LAPIC + 0x20, 4, 1)] and scene.poisoned(LAPIC_AT)


def test_a_store_to_the_local_apic_is_made_on_the_way_back() -> None:
    scene = Scene()
    scene.ram.map(SPARE_LINEAR, LAPIC & -(1 << 21), PRESENT | WRITABLE, level=2)
    scene.fault("8916", LAPIC_AT + 0xB0, WRITE, rsi=LAPIC_AT + 0xB0, rdx=0)
    done = scene.play()  # nothing is wanted
    linear = SPARE_LINEAR + (LAPIC & ((1 << 21) - 1)) + 0xB0
    assert done.changes[-2:] == (
        SetMemory(TOP, pack_request(linear, 0)), set_rip(scene.stub.departures[4]),
    )  # fmt: skip


def test_a_store_that_may_go_through_the_window_is_made_on_the_way_back() -> None:
    scene = Scene()
    through = 0xFFFF_9000_0000_1000
    meant: list[int] = []

    def window(transfer: Transfer, fault: Fault) -> int | None:
        meant.append(transfer.physical)
        return through

    scene.interceptor.answering.through = window
    before: list[int | None] = []
    scene.interceptor.answering.before = lambda some: before.extend(each.value for each in some)
    scene.fault("8916", AT, WRITE, rsi=AT, rdx=7)
    done = scene.play()  # nothing is wanted
    assert done.changes[-2:] == (
        SetMemory(TOP, pack_request(through, 7)), set_rip(scene.stub.departures[4]),
    )  # fmt: skip
    assert meant == [DEVICE] and before == [7]
    assert scene.accesses() == [("write", DEVICE, 4, 7)] and scene.poisoned(AT)


def test_a_mapping_that_goes_away_between_look_up_and_access_is_told() -> None:
    scene = asked(Scene())
    scene.fault("488b06", AT, rsi=AT)

    def gone(wanted: AskBefore) -> Go:
        scene.unmap(AT)
        return Go()

    with pytest.raises(InterceptError, match="lost its translation"):
        scene.play((AskBefore, gone))
    assert scene.records == []


def test_an_aligned_access_does_not_need_the_mapping_any_more() -> None:
    scene = asked(Scene())
    scene.fault("8b06", AT, rsi=AT)

    def gone(wanted: AskBefore) -> Go:
        scene.unmap(AT)
        return Go()

    scene.play(
        (AskBefore, gone), (ReadPhysical(DEVICE, 4), 1), (AskAnswered, Go()), (AskCompleted, same)
    )
    assert scene.accesses() == [("read", DEVICE, 4, 1)]


@pytest.mark.parametrize("error", [Cancelled(), TargetGone(), InterceptError("it ran away")])
def test_poison_is_back_however_the_vcpus_own_access_ends(error: BaseException) -> None:
    scene = Scene()
    scene.fault("488b06", AT, rsi=AT)
    with pytest.raises(type(error)):
        scene.play((RunAlone, error))
    assert scene.poisoned(AT) and scene.records == []


def test_an_access_that_ends_the_machine_is_not_recorded() -> None:
    scene = Scene()
    scene.fault("8916", AT, WRITE, rsi=AT)
    with pytest.raises(TargetGone):
        scene.play((WritePhysical, TargetGone()))
    assert scene.records == [] and scene.counts["accesses"] == 0


def test_a_device_that_refuses_says_so() -> None:
    scene = Scene()
    scene.fault("8b06", AT, rsi=AT)
    with pytest.raises(InterceptError, match="refused"):
        scene.play((ReadPhysical, InterceptError("the device at physical 0 refused a read")))
    assert scene.records == []


# ---- stops that are told twice, or make no sense


def test_a_stop_told_twice_is_acted_on_once() -> None:
    scene = Scene()
    scene.fault("8b06", AT, rsi=AT)
    scene.play((ReadPhysical(DEVICE, 4), 1))
    assert scene.play().changes == () and scene.counts["strays"] == 1
    assert len(scene.records) == 1


def test_a_stop_told_twice_with_another_vcpus_in_between() -> None:
    scene = Scene()
    other = STACK - 0xA00
    scene.fault("8b06", AT, rsi=AT)
    scene.fault("8b06", AT + 4, rsi=AT + 4, stack=other, tsc=1000)
    scene.play((ReadPhysical(DEVICE, 4), 1), vcpu=0)
    scene.play((ReadPhysical(DEVICE + 4, 4), 2), vcpu=1, stack=other)
    assert scene.play(vcpu=0).changes == ()
    assert scene.play(vcpu=1, stack=other).changes == ()
    assert scene.counts["strays"] == 2
    assert [access[3] for access in scene.accesses()] == [1, 2]


def test_two_vcpus_that_share_a_moment_are_two() -> None:
    scene = Scene()
    scene.fault("8b06", AT, rsi=AT)
    scene.play((ReadPhysical(DEVICE, 4), 1), vcpu=0)
    scene.play((ReadPhysical(DEVICE, 4), 2), vcpu=1)
    assert [record.vcpu for record in scene.records] == [0, 1]


def test_the_same_instruction_a_moment_later_is_another_stop() -> None:
    scene = Scene()
    for tsc in (1000, 1001):
        scene.fault("8b06", AT, rsi=AT, tsc=tsc)
        scene.play((ReadPhysical(DEVICE, 4), tsc))
    assert [access[3] for access in scene.accesses()] == [1000, 1001]
    assert [record.seq for record in scene.records] == [0, 1]


def test_a_reserved_bit_fault_of_somebody_else_is_refused() -> None:
    scene = Scene()
    scene.view.vcpus = 1
    scene.fault("8b06", DATA, rsi=DATA)
    with pytest.raises(InterceptError, match="vetrace did not cause"):
        scene.play()


def test_a_mapping_that_is_gone_when_the_fault_is_told_is_refused() -> None:
    scene = Scene()
    scene.view.vcpus = 1
    scene.fault("8b06", AT, rsi=AT)
    scene.unmap(AT)
    with pytest.raises(InterceptError, match="vetrace did not cause"):
        scene.play()


@pytest.mark.parametrize("unmapped", [False, True])
def test_poison_that_another_vcpus_stop_has_taken_away_starts_the_instruction_over(
    unmapped: bool,
) -> None:
    scene = Scene()
    scene.view.vcpus = 2
    scene.fault("8b06", AT, rsi=AT)
    if unmapped:
        scene.unmap(AT)
    else:
        scene.heal(AT)
    assert scene.play(vcpu=1).changes == ()
    assert scene.counts["healed"] == 1 and not scene.records
    # The same fault once more is no longer explained by it.
    scene.fault("8b06", AT, rsi=AT, tsc=2000)
    with pytest.raises(InterceptError, match="vetrace did not cause"):
        scene.play(vcpu=1)
    # Nor is another one held against it.
    scene.fault("8b06", AT, rsi=AT, tsc=3000, rax=7)
    assert scene.play(vcpu=1).changes == ()


def test_a_frame_that_cannot_be_read_is_refused() -> None:
    scene = Scene()
    with pytest.raises(InterceptError, match="cannot be read"):
        scene.play((Registers(), registers()), stack=HOLE)


def test_a_guest_of_another_depth_of_tables_is_asked_for_cr4() -> None:
    scene = Scene()
    scene.fault("8b06", AT, rsi=AT, cr3=ROOT | 0x18)
    scene.play((Registers(), registers()), (ReadPhysical(DEVICE, 4), 1))
    assert len(scene.records) == 1


# ---- REP


def test_a_repeated_instruction_is_carried_out_in_one_stop() -> None:
    scene = Scene()
    scene.fault("f3ab", AT, WRITE, rdi=AT, rcx=3, rax=7)
    steps: list[Any] = []
    for number in range(3):
        steps.append((WritePhysical(DEVICE + 4 * number, 4, 7), None))
        if number < 2:
            steps.append((MapChanged(), False))
    after = scene.after(scene.play(*steps))
    assert (after["rcx"], after["rdi"], after["rip"]) == (0, AT + 12, CODE + 2)


def test_a_repeated_instruction_stops_where_its_poison_ends() -> None:
    scene = Scene()
    scene.ram.map(AT + 0x2000, DATA_AT)
    last = AT + 0x1FFC
    scene.fault("f3ab", last, WRITE, rdi=last, rcx=3, rax=7)
    after = scene.after(
        scene.play((WritePhysical(DEVICE + 0x1FFC, 4, 7), None), (MapChanged(), False))
    )
    assert (after["rcx"], after["rip"]) == (2, CODE)


def test_a_repeated_instruction_stops_when_devices_have_moved() -> None:
    scene = Scene()
    scene.fault("f3ab", AT, WRITE, rdi=AT, rcx=3, rax=7)
    after = scene.after(scene.play((WritePhysical(DEVICE, 4, 7), None), (MapChanged(), True)))
    assert (after["rcx"], after["rip"]) == (2, CODE)


def test_a_repeated_instruction_leaves_the_guest_interruptible() -> None:
    scene = Scene()
    scene.fault("f3ab", AT, WRITE, rdi=AT, rcx=300, rax=7)
    steps: list[Any] = []
    for number in range(256):
        steps += [(WritePhysical(DEVICE + 4 * number, 4, 7), None), (MapChanged(), False)]
    after = scene.after(scene.play(*steps))
    assert (after["rcx"], after["rip"]) == (44, CODE)


def test_an_exception_in_the_middle_of_a_repeated_instruction_keeps_what_was_done() -> None:
    scene = Scene()
    end = DATA + 0xFFF
    scene.fault("f3a4", AT, rsi=AT, rdi=end, rcx=4)  # rep movsb, from the device over a hole
    written: list[Any] = []
    done = scene.play(
        (ReadPhysical(DEVICE, 1), 0x5A),
        (WritePhysical(DATA_AT + 0xFFF, 1, 0x5A), None),
        (MapChanged(), False),
        # The second byte has nowhere to go: the guest's own page fault.
        (MakeChanges, lambda wanted: written.extend(wanted.changes)),
        (BreakAlone(scene.stub.leave), None),
    )
    assert done.delivered and scene.counts["delivered"] == 1
    frame = TOP + SPILL_SIZE - 40 - 8
    assert done.changes == (
        SetMemory(frame, (int(PageFaultCode.W)).to_bytes(8, "little")), SetRegister("rsp", frame),
        SetRegister("cr2", HOLE), set_rip(HANDLER),
    )  # fmt: skip
    after = scene.after(replace(done, changes=tuple(written)))
    assert (after["rcx"], after["rsi"], after["rdi"], after["rip"]) == (3, AT + 1, HOLE, CODE)
    assert scene.accesses()[0] == ("read", DEVICE, 1, 0x5A)


def test_the_rest_of_a_repeated_instruction_is_left_to_the_next_fault() -> None:
    scene = Scene()
    scene.fault("f3ab", AT, WRITE, rdi=AT, rcx=3, rax=7)

    def rewritten(wanted: WritePhysical) -> None:
        scene.write(CODE, b"\x0f\x0b")  # ud2, by another vCPU

    after = scene.after(scene.play((WritePhysical, rewritten), (MapChanged(), False)))
    assert (after["rcx"], after["rip"]) == (2, CODE)


# ---- ports: the vCPU makes that side itself


def port_read(scene: Scene, width: int, value: int, port: int = PORT) -> Any:
    routine = scene.stub.inputs[width]

    def read(wanted: RunAlone) -> None:
        scene.write(TOP + VALUE_OFFSET, value.to_bytes(width, "little"))

    return RunAlone(scene.stub.done, [SetRegister("rdx", port), set_rip(routine)]), read


def port_write(scene: Scene, width: int, value: int) -> Any:
    changes = [
        SetRegister("rdx", PORT), set_rip(scene.stub.outputs[width]), SetRegister("rax", value),
    ]  # fmt: skip
    return RunAlone(scene.stub.done, changes)


@pytest.mark.parametrize(
    ("code", "width", "value"), [("6c", 1, 0x5A), ("666d", 2, 0x5A5B), ("6d", 4, 0x5A5B5C5D)]
)
def test_ins_reads_the_port_then_writes_the_device(code: str, width: int, value: int) -> None:
    scene = Scene()
    scene.fault(code, AT, WRITE, rdi=AT, rdx=0xF_0000 | PORT)
    after = scene.after(
        scene.play(port_read(scene, width, value), (WritePhysical(DEVICE, width, value), None))
    )
    assert (after["rdi"], after["rip"]) == (AT + width, CODE + len(code) // 2)
    assert (after["rax"], after["rdx"]) == (0, 0xF_0000 | PORT)
    assert scene.accesses() == [("write", DEVICE, width, value)]


@pytest.mark.parametrize(
    ("code", "width", "value"), [("6e", 1, 0x5A), ("666f", 2, 0x5A5B), ("6f", 4, 0x5A5B5C5D)]
)
def test_outs_reads_the_device_then_writes_the_port(code: str, width: int, value: int) -> None:
    scene = Scene()
    scene.fault(code, AT, rsi=AT, rdx=PORT, rax=7, rflags=0x202 | Flag.DF)
    after = scene.after(
        scene.play((ReadPhysical(DEVICE, width), value), (port_write(scene, width, value), None))
    )
    assert (after["rsi"], after["rax"]) == (AT - width, 7)
    assert scene.accesses() == [("read", DEVICE, width, value)]


def test_a_repeated_ins_ends_where_its_poison_does_with_the_port_as_far() -> None:
    scene = Scene()
    scene.ram.map(AT + 0x2000, DATA_AT)
    scene.fault("f36c", AT + 0x1FFE, WRITE, rdi=AT + 0x1FFE, rcx=4, rdx=PORT)
    after = scene.after(
        scene.play(
            port_read(scene, 1, 1), (WritePhysical(DEVICE + 0x1FFE, 1, 1), None),
            (MapChanged(), False),
            port_read(scene, 1, 2), (WritePhysical(DEVICE + 0x1FFF, 1, 2), None),
            (MapChanged(), False),
        )
    )  # fmt: skip
    assert (after["rcx"], after["rdi"], after["rip"]) == (2, AT + 0x2000, CODE)
    assert len(scene.records) == 2


def test_a_page_fault_comes_before_the_port() -> None:
    scene = Scene()
    scene.ram.map(AT + 0x1000, DEVICE + 0x1000 | POISON, PRESENT)  # not writable
    scene.fault("6d", AT + 0xFFE, WRITE, rdi=AT + 0xFFE, rdx=PORT)
    done = scene.play((MakeChanges, None), (BreakAlone, None))
    assert done.delivered and scene.records == []


def test_ins_to_what_only_a_vcpu_reaches_is_stored_on_its_way_back() -> None:
    scene = Scene()
    scene.ram.map(SPARE_LINEAR, LAPIC)
    scene.fault("6d", LAPIC_AT + 0xB0, WRITE, rdi=LAPIC_AT + 0xB0, rdx=PORT)
    done = scene.play(port_read(scene, 4, 0x11))
    assert done.changes[-2:] == (
        SetMemory(TOP, pack_request(SPARE_LINEAR + 0xB0, 0x11)),
        set_rip(scene.stub.departures[4]),
    )
    assert scene.accesses() == [("write", LAPIC + 0xB0, 4, 0x11)]


def test_a_port_that_powers_the_guest_off_has_its_outs_recorded() -> None:
    scene = Scene()
    scene.fault("666f", AT, rsi=AT, rdx=PORT)
    with pytest.raises(TargetGone):
        scene.play((ReadPhysical(DEVICE, 2), 0x2000), (port_write(scene, 2, 0x2000), TargetGone()))
    assert scene.records == []
    scene.interceptor.ledger.part()
    assert scene.accesses() == [("read", DEVICE, 2, 0x2000)]


def test_a_port_that_nobody_answers_any_more_ends_ins() -> None:
    scene = Scene()
    scene.fault("6c", AT, WRITE, rdi=AT, rdx=PORT)
    with pytest.raises(TargetGone):
        scene.play((RunAlone, TargetGone()))
    scene.interceptor.ledger.part()
    assert scene.records == []


@pytest.mark.parametrize(("port", "cr4"), [(0x5658, 0), (0xB2, 0), (PORT, 1 << 3)])  # DE
def test_where_more_is_seen_of_the_code_it_makes_the_access_itself(port: int, cr4: int) -> None:
    scene = Scene()
    scene.fault("6d", AT, WRITE, rdi=AT, rdx=port, cr4=CR4 | cr4)
    after = registers(rip=CODE + 1, rdi=AT + 4, rdx=port)
    scene.play(*stepping(scene, after), (FlushTlb(ROOT), None))
    assert scene.records[0].via == "stepped"
    assert scene.accesses() == [("write", DEVICE, 4, None)]


def test_a_person_gives_what_outs_reads_and_leaves_out_what_ins_writes() -> None:
    scene = asked(Scene())
    scene.fault("6e", AT, rsi=AT, rdx=PORT)
    scene.play(
        (AskBefore, Give(9)), (ReadPhysical(DEVICE, 1), 1), (port_write(scene, 1, 9), None),
        (AskCompleted, same),
    )  # fmt: skip
    scene.fault("6e", AT, rsi=AT, rdx=PORT, tsc=2000)
    scene.play((AskBefore, Skip(8)), (port_write(scene, 1, 8), None), (AskCompleted, same))
    scene.fault("6c", AT, WRITE, rdi=AT, rdx=PORT, tsc=3000)
    after = scene.after(
        scene.play(port_read(scene, 1, 7), (AskBefore, Skip()), (AskCompleted, same))
    )
    assert after["rdi"] == AT + 1
    scene.fault("6c", AT, WRITE, rdi=AT, rdx=PORT, tsc=4000)
    scene.play(
        port_read(scene, 1, 7), (AskBefore, Give(6)), (WritePhysical(DEVICE, 1, 6), None),
        (AskCompleted, same),
    )  # fmt: skip
    told = [(a.value, a.device, a.skipped) for r in scene.records for a in r.accesses]
    assert told == [
        (9, 1, False), (8, None, True), (7, None, True), (7, 6, False),
    ]  # fmt: skip


def test_an_ins_that_is_started_over_has_what_the_port_gave() -> None:
    scene = asked(Scene())
    scene.fault("6c", AT, WRITE, rdi=AT, rdx=PORT)

    def elsewhere(wanted: AskBefore) -> Retry:
        assert wanted.pending.transfer.value == 7
        gpr = list(wanted.pending.cpu.gpr)
        gpr[7] = AT + 0x10  # RDI
        return Retry(replace(wanted.pending.cpu, gpr=tuple(gpr)))

    scene.play(
        port_read(scene, 1, 7), (AskBefore, elsewhere),
        (AskBefore, Go()), (WritePhysical(DEVICE + 0x10, 1, 7), None), (AskCompleted, same),
    )  # fmt: skip
    assert scene.accesses() == [("write", DEVICE + 0x10, 1, 7)]


def test_the_next_iteration_reads_the_port_again() -> None:
    scene = asked(Scene())
    scene.fault("f36c", AT, WRITE, rdi=AT, rcx=2, rdx=PORT)
    scene.play(
        port_read(scene, 1, 7), (AskBefore, Go()), (WritePhysical(DEVICE, 1, 7), None),
        (AskCompleted, same), (MapChanged(), False),
        port_read(scene, 1, 8), (AskBefore, Go()), (WritePhysical(DEVICE + 1, 1, 8), None),
        (AskCompleted, same),
    )  # fmt: skip


def test_a_stand_in_answers_outs_and_the_port_is_real() -> None:
    scene = Scene()
    standing_in(scene, ("read", 0, 1, 0x33), ("write", 4, 4, 0x44))
    scene.fault("6e", AT, rsi=AT, rdx=PORT)
    scene.play((port_write(scene, 1, 0x33), None))
    scene.fault("6d", AT + 4, WRITE, rdi=AT + 4, rdx=PORT, tsc=2000)
    scene.play(port_read(scene, 4, 0x44))
    assert scene.counts["replayed"] == 2


# ---- exceptions


def test_a_page_fault_of_the_guests_own_is_noted_where_cr2_is() -> None:
    scene = Scene(notes=True)
    scene.fault("a4", AT, rsi=AT, rdi=HOLE)
    changes: list[Any] = []
    done = scene.play(
        (MakeChanges, None), (BreakAlone(scene.stub.leave), None),
        (BreakAlone, lambda wanted: changes.extend([wanted.linear, *wanted.changes])),
    )  # fmt: skip
    assert done.changes == (set_rip(HANDLER),) and done.delivered
    assert changes[0] == scene.stub.noted and changes[-1] == set_rip(scene.stub.noting)
    assert scene.records == []


def test_no_device_is_read_before_all_operands_are_known() -> None:
    scene = Scene()
    scene.fault("a4", AT, rsi=AT, rdi=HOLE)
    scene.play((MakeChanges, None), (BreakAlone, None))  # and no ReadPhysical
    assert scene.accesses() == []


def test_an_exception_without_a_usable_gate_is_left_to_the_vcpu() -> None:
    scene = Scene()
    scene.ram.write(0x9000 + 14 * 16, bytes(16))
    table = next(iter(scene.gate._gates.values()))
    table.own = bytes(16)
    scene.fault("a4", AT, rsi=AT, rdi=HOLE)
    elsewhere = registers(rip=0x1234_5678)
    done = scene.play(
        (MakeChanges, None),
        (BreakAlone(scene.stub.leave), None), (StepAlone(), 0), (StepAlone(), 0),
        (Registers(), elsewhere), (FlushTlb(ROOT), None),
    )  # fmt: skip
    assert done.delivered and done.changes == () and scene.poisoned(AT)


# ---- native steps


def stepping(scene: Scene, after: Any) -> list[Any]:
    def healed(wanted: StepAlone) -> int:
        assert not scene.poisoned(AT)
        return CODE

    return [
        (BreakAlone(scene.stub.leave), None), (StepAlone(), healed), (StepAlone(), healed),
        (Registers(), after),
    ]  # fmt: skip


def test_tf_is_left_to_the_vcpu_which_raises_the_exception_behind() -> None:
    scene = Scene()
    scene.fault("8b06", AT, rsi=AT, rflags=0x202 | Flag.TF)
    after = registers(rip=CODE + 2, rax=5, rsi=AT)
    scene.play(*stepping(scene, after), (FlushTlb(ROOT), None))
    (record,) = scene.records
    assert record.via == "stepped" and scene.poisoned(AT)
    assert scene.accesses() == [("read", DEVICE, 4, 5)]


def test_an_instruction_that_is_not_known_is_stepped_and_hides_its_value() -> None:
    scene = Scene()
    scene.fault("0fae06", AT, WRITE, rsi=AT)  # fxsave [rsi]
    scene.play(*stepping(scene, registers(rip=CODE + 3)), (FlushTlb(ROOT), None))
    (record,) = scene.records
    assert record.via == "stepped" and record.accesses[0].value is None


def test_bytes_that_are_no_instruction_are_stepped_too() -> None:
    scene = Scene()
    scene.fault("0f04", AT, rsi=AT)
    scene.play(*stepping(scene, registers(rip=HANDLER)), (FlushTlb(ROOT), None))
    assert scene.records[0].text == "(bad)"


def test_a_step_that_comes_upon_more_poison_starts_over_with_both_healed() -> None:
    scene = Scene()
    door = scene.stub.doors[0]
    scene.write(STACK - 0x800, struct.pack("<Q", WRITE))
    second = registers(rip=door, rsp=STACK - 0x800, cr2=AT + 0x1000)
    scene.fault("0f04", AT, rsi=AT)

    def both(wanted: BreakAlone) -> None:
        assert scene.poisoned(AT) and scene.poisoned(AT + 0x1000)  # until the step itself

    def healed(wanted: StepAlone) -> int:
        assert not scene.poisoned(AT) and not scene.poisoned(AT + 0x1000)
        return CODE

    scene.play(
        *stepping(scene, second),
        (RunAlone(scene.stub.stop, [set_rip(scene.stub.spill)]), None),
        (BreakAlone(scene.stub.leave), both), (StepAlone(), healed), (StepAlone(), healed),
        (Registers(), registers(rip=CODE + 2)), (FlushTlb(ROOT), None),
    )  # fmt: skip
    assert scene.poisoned(AT) and scene.poisoned(AT + 0x1000)
    assert {access[1] & -0x1000 for access in scene.accesses()} == {DEVICE, DEVICE + 0x1000}


def test_a_step_that_faults_again_and_again_is_given_up() -> None:
    scene = Scene()
    scene.write(STACK - 0x800, struct.pack("<Q", READ))
    again = registers(rip=scene.stub.doors[0], rsp=STACK - 0x800, cr2=AT)
    scene.fault("0f04", AT, rsi=AT)
    with pytest.raises(InterceptError, match="faults again"):
        scene.play(
            *stepping(scene, again),
            (RunAlone(scene.stub.stop, [set_rip(scene.stub.spill)]), None),
            (FlushTlb(ROOT), None),
        )
    assert scene.poisoned(AT)


def test_a_step_into_a_page_fault_of_the_guests_own_is_not_recorded() -> None:
    scene = Scene()
    scene.write(STACK - 0x800, struct.pack("<Q", 2))
    own = registers(rip=scene.stub.doors[0], rsp=STACK - 0x800, cr2=HOLE)
    scene.fault("0f04", AT, rsi=AT)
    scene.play(*stepping(scene, own), (FlushTlb(ROOT), None))
    assert scene.records == [] and scene.counts["faulted"] == 1


@pytest.mark.parametrize("place", range(4))
def test_a_step_that_is_cancelled_leaves_poison_and_no_translation(place: int) -> None:
    scene = Scene()
    scene.fault("0f04", AT, rsi=AT)
    steps = stepping(scene, registers())
    steps[place] = steps[place][0], Cancelled()
    with pytest.raises(Cancelled):
        scene.play(*steps[: place + 1], (FlushTlb(ROOT), None))
    assert scene.poisoned(AT) and scene.records == []


def test_code_that_does_not_access_where_the_cpu_faulted_is_left_to_the_vcpu() -> None:
    scene = Scene()
    scene.fault("8b06", AT + 0x800, rsi=AT)
    scene.play(*stepping(scene, registers(rip=CODE + 2, rsi=AT)), (FlushTlb(ROOT), None))
    assert "does not access" in scene.records[0].note


def test_a_push_over_the_frame_of_the_fault_is_left_to_the_vcpu() -> None:
    scene = Scene()
    scene.fault("ff36", AT, rsi=AT)  # push [rsi], to where the frame lies
    scene.play(*stepping(scene, registers(rip=CODE + 2)), (FlushTlb(ROOT), None))
    assert scene.records[0].via == "stepped"


# ---- the guest's own faults that end in the stub


def retaken(scene: Scene, after: Any) -> list[Any]:
    return [
        (BreakAlone(scene.stub.leave), None), (StepAlone(), CODE), (StepAlone(), CODE),
        (Registers(), after),
    ]  # fmt: skip


def test_a_fault_through_a_shut_door_is_taken_by_the_vcpu_with_its_own_gate() -> None:
    scene = Scene()
    scene.fault("8b06", HOLE, 0, rsi=HOLE)
    gates: list[bytes] = []

    def lent(wanted: StepAlone) -> int:
        gates.append(scene.ram.read(0x9000 + 14 * 16, 16))
        return CODE

    steps = retaken(scene, registers(rip=HANDLER, rsp=STACK - 0x600))
    steps[1] = StepAlone(), lent
    done = scene.play(*steps)
    assert done.delivered and gates == [scene.own]
    assert scene.ram.read(0x9000 + 14 * 16, 16) != scene.own
    assert scene.counts["delivered"] == 1


def test_an_exception_whose_frame_goes_to_a_device_is_recorded() -> None:
    scene = Scene(stack=1)
    top = AT + 0x100
    scene.fault("90", top - 8, WRITE, rsp=top)  # nop: it is no access of its own
    done = scene.play(*retaken(scene, registers(rip=HANDLER, rsp=top - 40)), (FlushTlb(ROOT), None))
    assert done.delivered
    assert {access[:3] for access in scene.accesses()} == {
        ("write", DEVICE + offset, 8) for offset in range(0x100 - 40, 0x100, 8)
    }


def test_an_interrupts_frame_in_a_device_cannot_be_had_again() -> None:
    scene = Scene(stack=1)
    top = AT + 0x100
    scene.fault("90", top - 8, WRITE, rsp=top)
    with pytest.raises(InterceptError, match="an interrupt came"):
        scene.play(*retaken(scene, registers(rip=CODE + 1, rsp=top)), (FlushTlb(ROOT), None))
    assert scene.poisoned(AT)


def test_a_retaken_instruction_that_meets_poison_has_it_healed_and_goes_again() -> None:
    scene = Scene()
    scene.fault("90", HOLE, 0)
    scene.write(STACK - 0x800, struct.pack("<Q", READ))
    met = registers(rip=HANDLER, rsp=STACK - 0x800, cr2=AT)
    again = (RunAlone(scene.stub.stop, [set_rip(scene.stub.spill)]), None)
    scene.play(
        *retaken(scene, met), again,
        *retaken(scene, registers(rip=HANDLER, rsp=STACK - 0x600)), (FlushTlb(ROOT), None),
    )  # fmt: skip
    assert scene.poisoned(AT)
    scene.fault("90", HOLE, 0, tsc=2000)
    with pytest.raises(InterceptError, match="comes again"):
        scene.play(*retaken(scene, met), again, *retaken(scene, met), (FlushTlb(ROOT), None), again)


# ---- a person


def test_a_person_is_asked_before_and_behind() -> None:
    scene = asked(Scene())
    scene.fault("8b06", AT, rsi=AT)
    pending: list[Any] = []

    def before(wanted: AskBefore) -> Go:
        pending.append(wanted.pending)
        return Go()

    def answered(wanted: AskAnswered) -> Go:
        pending.append(wanted.pending)
        return Go()

    scene.play(
        (AskBefore, before), (ReadPhysical(DEVICE, 4), 9), (AskAnswered, answered),
        (AskCompleted, same),
    )  # fmt: skip
    assert [one.transfer.value for one in pending] == [None, 9]
    assert pending[0].symbol == "driver+0x0" and pending[0].foretold


@pytest.mark.parametrize(
    ("code", "error", "decision", "made", "value", "device", "skipped"),
    [
        ("8b06", READ, Skip(7), [], 7, None, True),
        ("8916", WRITE, Skip(), [], 3, None, True),
        ("8916", WRITE, Give(8), [(WritePhysical(DEVICE, 4, 8), None)], 3, 8, False),
        ("8b06", READ, Give(8), [(ReadPhysical(DEVICE, 4), 1)], 8, 1, False),
    ],
)
def test_a_person_decides(
    code: str, error: int, decision: Any, made: list[Any], value: int, device: Any, skipped: bool
) -> None:
    scene = asked(Scene())
    scene.fault(code, AT, error, rsi=AT, rdx=3)
    after = scene.after(scene.play((AskBefore, decision), *made, (AskCompleted, same)))
    (record,) = scene.records
    (access,) = record.accesses
    assert (access.value, access.device, access.skipped) == (value, device, skipped)
    if error == READ:
        assert after["rax"] == value


def test_the_value_a_device_gave_is_replaced() -> None:
    scene = asked(Scene())
    scene.fault("8b06", AT, rsi=AT)
    after = scene.after(
        scene.play(
            (AskBefore, Go()), (ReadPhysical(DEVICE, 4), 1), (AskAnswered, Give(2)),
            (AskCompleted, same),
        )
    )  # fmt: skip
    assert after["rax"] == 2 and scene.records[0].accesses[0].device == 1


def test_a_retry_in_the_second_transfer_starts_the_instruction_over() -> None:
    scene = asked(Scene())
    scene.fault("0106", AT, WRITE, rsi=AT, rax=1)

    def elsewhere(wanted: AskBefore) -> Retry:
        assert [one.value for one in wanted.pending.done] == [5]
        gpr = list(wanted.pending.cpu.gpr)
        gpr[6] = AT + 0x10  # RSI
        return Retry(replace(wanted.pending.cpu, gpr=tuple(gpr)))

    scene.play(
        (AskBefore, Go()), (ReadPhysical(DEVICE, 4), 5), (AskAnswered, Go()),
        (AskBefore, elsewhere),
        (AskBefore, Go()), (ReadPhysical(DEVICE + 0x10, 4), 6), (AskAnswered, Go()),
        (AskBefore, Go()), (WritePhysical(DEVICE + 0x10, 4, 7), None), (AskCompleted, same),
    )  # fmt: skip
    # Only what was carried to its end is recorded.
    assert scene.accesses() == [("read", DEVICE + 0x10, 4, 6), ("write", DEVICE + 0x10, 4, 7)]


def test_a_retry_that_reaches_no_device_goes_back_to_the_guest() -> None:
    scene = asked(Scene())
    scene.fault("8b06", AT, rsi=AT)

    def elsewhere(wanted: AskBefore) -> Retry:
        gpr = list(wanted.pending.cpu.gpr)
        gpr[6] = DATA
        return Retry(replace(wanted.pending.cpu, gpr=tuple(gpr)))

    after = scene.after(scene.play((AskBefore, elsewhere), (AskCompleted, same)))
    assert (after["rsi"], after["rip"]) == (DATA, CODE) and scene.records == []


def test_a_retry_of_a_step_changes_what_is_stepped_next() -> None:
    scene = asked(Scene())
    scene.fault("0fae06", AT, WRITE, rsi=AT)
    after = scene.after(
        scene.play((AskBefore, lambda w: Retry(replace(w.pending.cpu, rip=CODE + 0x40))))
    )
    assert after["rip"] == CODE + 0x40 and scene.records == []


def test_a_step_is_skipped_as_a_whole() -> None:
    scene = asked(Scene())
    scene.fault("0fae06", AT, WRITE, rsi=AT)
    after = scene.after(scene.play((AskBefore, Skip()), (AskCompleted, same)))
    assert after["rip"] == CODE + 3
    assert all(access.skipped for access in scene.records[0].accesses)


def test_what_lies_around_a_transfer_that_is_left_out_is_made_piece_by_piece() -> None:
    scene = asked(Scene())
    scene.fault("f30f6f06", AT + 0xFFC, rsi=AT + 0xFFC)  # movdqu xmm0, [rsi]: 4, 8 and 4 bytes
    widths: list[int] = []

    def run(wanted: RunAlone) -> None:
        routine = wanted.changes[1].value
        widths.extend(w for w, at in scene.stub.loads.items() if at == routine)

    def second(wanted: AskBefore) -> Any:
        return Skip(0) if wanted.pending.transfer.linear == AT + 0x1000 else Go()

    scene.play(
        (Registers(), registers(rsi=AT + 0xFFC)), *3 * [(AskBefore, second)],
        (RunAlone, run), (RunAlone, run), *2 * [(AskAnswered, Go())], (AskCompleted, same),
    )  # fmt: skip
    assert widths == [4, 4]


def test_an_exception_wanted_by_a_person_is_raised() -> None:
    scene = asked(Scene())
    scene.fault("8b06", AT, rsi=AT)
    gate = (VcpuStates(), (STATE, STATE))
    scene.ram.write(0x9000 + 13 * 16, scene.own)
    done = scene.play((AskBefore, Inject(13, 0)), gate, (MakeChanges, None), (BreakAlone, None))
    assert done.delivered and done.changes[-1] == set_rip(HANDLER)
    assert scene.accesses() == []


def test_an_exception_that_the_guest_cannot_take_is_refused() -> None:
    scene = asked(Scene())
    scene.fault("8b06", AT, rsi=AT)
    with pytest.raises(InterceptError, match="cannot be raised"):
        scene.play((AskBefore, Inject(13, 0)), (VcpuStates(), (STATE, STATE)), (MakeChanges, None))


def test_a_person_sends_the_guest_elsewhere_behind_an_instruction() -> None:
    scene = asked(Scene())
    scene.fault("8b06", AT, rsi=AT)
    after = scene.after(
        scene.play((AskBefore, Skip(1)), (AskCompleted, lambda w: replace(w.cpu, rip=CODE + 0x80)))
    )
    assert after["rip"] == CODE + 0x80


def test_a_person_who_leaves_while_asked_leaves_the_device_untouched() -> None:
    scene = asked(Scene())
    scene.fault("8916", AT, WRITE, rsi=AT)
    with pytest.raises(Cancelled):
        scene.play((AskBefore, Cancelled()))
    assert scene.records == [] and scene.poisoned(AT)


# ---- a stand-in


def standing_in(scene: Scene, *accesses: tuple[str, int, int, int]) -> None:
    recorded = [
        RecordedAccess(
            seq, Request("nvme", way, offset, width, value if way == "write" else None),  # type: ignore[arg-type]
            value, "driver+0x0",
        )
        for seq, (way, offset, width, value) in enumerate(accesses, 40)
    ]  # fmt: skip
    device = RecordedDevice("old.vtrace", Replayed(("nvme",)), recorded)
    standin = StandIn(device, Names(), scene.counts)  # type: ignore[arg-type]
    scene.interceptor.answers.insert(0, standin)


class Names:
    def lookup(self, linear: int, space: Any) -> str | None:
        return "driver+0x0"


def test_a_stand_in_answers_and_the_device_sees_nothing() -> None:
    scene = Scene()
    standing_in(scene, ("read", 0, 4, 0x33))
    scene.fault("8b06", AT, rsi=AT)
    assert scene.after(scene.play())["rax"] == 0x33
    assert scene.records[0].note == "replayed: #40 of the recording"
    assert scene.counts["replayed"] == 1


def test_a_stand_in_that_was_asked_for_something_else_says_where() -> None:
    scene = Scene()
    standing_in(scene, ("read", 0, 4, 0x33))
    scene.fault("8b06", AT + 4, rsi=AT + 4)
    with pytest.raises(Diverged, match=r"driver\+0x0"):
        scene.play()
    assert scene.records == []


def test_a_stand_in_refuses_what_the_vcpu_would_have_to_do() -> None:
    scene = Scene()
    standing_in(scene, ("read", 0, 4, 0x33))
    scene.fault("0fae06", AT, WRITE, rsi=AT)
    with pytest.raises(InterceptError, match="stands in for"):
        scene.play()
    assert scene.poisoned(AT)


def test_a_stand_in_leaves_other_devices_to_themselves() -> None:
    scene = Scene()
    standing_in(scene, ("read", 0, 4, 0x33))
    scene.fault("a5", AT, rsi=AT, rdi=DATA)  # movsd: from the recording to RAM
    scene.play((WritePhysical(DATA_AT, 4, 0x33), None))
    assert scene.accesses()[0] == ("read", DEVICE, 4, 0x33)


@pytest.mark.parametrize(
    ("descriptor", "mode"),
    [
        (0x00AF_FB00_0000_FFFF, "LONG"),
        (0x00CF_FB00_0000_FFFF, "COMPAT32"),
        (0xFB00_0000_FFFF, "COMPAT16"),
    ],
)
def test_the_mode_of_a_code_segment_is_looked_up_once(descriptor: int, mode: str) -> None:
    scene = Scene()
    scene.ram.write(0xA000 + 24, struct.pack("<Q", descriptor))
    assert play(scene.view.mode(24 | 3, scene.space), (Tables(), STATE.tables)).name == mode
    assert play(scene.view.mode(24 | 3, scene.space)).name == mode


# ---- the guest's end


def test_a_write_that_takes_qemu_along_is_recorded_once_that_is_known_to_be_its_doing() -> None:
    scene = Scene()
    scene.fault("8916", AT, WRITE, rsi=AT, rdx=0x34)
    with pytest.raises(TargetGone):
        scene.play((WritePhysical(DEVICE, 4, 0x34), TargetGone()))
    assert scene.records == []
    scene.interceptor.ledger.part()
    assert scene.accesses() == [("write", DEVICE, 4, 0x34)]


def test_a_read_that_qemu_did_not_answer_may_have_been_made() -> None:
    scene = Scene()
    scene.fault("8b06", AT, rsi=AT)
    with pytest.raises(TargetGone):
        scene.play((ReadPhysical(DEVICE, 4), TargetGone()))
    assert scene.records == []
    scene.interceptor.ledger.part()
    (record,) = scene.records
    (access,) = record.accesses
    assert (access.direction, access.physical, access.value) == ("read", DEVICE, None)
    assert (access.width, access.extent) == (0, 4)
    assert record.via == "emulated" and "before it answered" in (record.note or "")


def test_nothing_comes_behind_a_write_without_an_answer() -> None:
    scene = asked(Scene())
    scene.fault("8916", AT, WRITE, rsi=AT, rdx=0x34)
    with pytest.raises(TargetGone):
        scene.play((AskBefore, Go()), (WritePhysical(DEVICE, 4, 0x34), TargetGone()))
    scene.interceptor.ledger.part()
    assert scene.accesses() == [("write", DEVICE, 4, 0x34)]


def test_a_step_that_takes_qemu_along_is_recorded_as_far_as_it_is_known() -> None:
    scene = Scene()
    scene.fault("0fae06", AT, WRITE, rsi=AT)  # fxsave [rsi]
    left = BreakAlone(scene.stub.leave), None
    with pytest.raises(TargetGone):
        scene.play(left, (StepAlone(), TargetGone()), (FlushTlb(ROOT), TargetGone()))
    assert scene.records == []
    scene.interceptor.ledger.part()
    (record,) = scene.records
    assert record.via == "stepped" and record.accesses[0].direction == "write"


# ---- rules


def turns(count: int) -> tuple[Any, Any]:
    """The vCPU is sent round so many times, where the stub waits."""

    def sent(wanted: RunAlone) -> None:
        assert wanted.changes[1] == SetRegister("rcx", count)

    return RunAlone, sent


@pytest.mark.parametrize(
    ("code", "error", "steps", "device", "note"),
    [
        (
            "8b06", READ,
            [(AskBefore, Go()), (ReadPhysical(DEVICE, 4), 1), (AskAnswered, Give(8, "rule 2"))],
            1, "by rule 2",
        ),
        (
            "8916", WRITE,
            [(AskBefore, Give(8, "rule 1")), (WritePhysical(DEVICE, 4, 8), None)],
            8, "by rule 1",
        ),
        (
            "8916", WRITE,
            [
                (AskBefore, Delay(400, "rule 1")), turns(100), (Turn(), None),
                (WritePhysical(DEVICE, 4, 3), None),
            ],
            None, "by rule 1, 4e-07 s late",
        ),
        (
            "8b06", READ,
            [
                (AskBefore, Go()), (ReadPhysical(DEVICE, 4), 3), (AskAnswered, Delay(1, "own.py")),
                turns(1), (Turn(), None),
            ],
            None, "by own.py, 1e-09 s late",
        ),
        (
            "0106", WRITE,
            [
                (AskBefore, Go()), (ReadPhysical(DEVICE, 4), 3), (AskAnswered, Give(5, "rule 1")),
                (AskBefore, Give(9, "rule 2")), (WritePhysical(DEVICE, 4, 9), None),
            ],
            3, "by rule 1, rule 2",
        ),
        ("8916", WRITE, [(AskBefore, Give(8)), (WritePhysical(DEVICE, 4, 8), None)], 8, None),
    ],
)  # fmt: skip
def test_the_record_says_which_rule_decided(
    code: str, error: int, steps: list[Any], device: int | None, note: str | None
) -> None:
    scene = asked(Scene())
    scene.fault(code, AT, error, rsi=AT, rdx=3)
    scene.play(*steps, (AskCompleted, same))
    (record,) = scene.records
    assert (record.accesses[0].device, record.note, record.via) == (device, note, "emulated")
    assert ruled(record.note) == (note or "")


def test_a_long_delay_is_cut_so_that_a_run_can_be_ended() -> None:
    scene = asked(Scene())
    scene.fault("8916", AT, WRITE, rsi=AT)
    with pytest.raises(GuestHung):
        scene.play(
            (AskBefore, Delay(60_000_000_000, "rule 1")), (RunAlone, None), (Turn(), None),
            (RunAlone, None), (Turn(), GuestHung()),
        )  # fmt: skip
    assert scene.records == []


def test_in_real_time_a_turn_is_taken_for_a_nanosecond() -> None:
    scene = asked(Scene())
    scene.view.realtime = True
    scene.fault("8916", AT, WRITE, rsi=AT)
    scene.play(
        (AskBefore, Delay(400, "rule 1")), turns(400), (Turn(), None),
        (WritePhysical(DEVICE, 4, 0), None), (AskCompleted, same),
    )  # fmt: skip


@pytest.mark.parametrize("ruling", [Refuse("rule 1"), Postpone("rule 1")])
def test_a_guest_that_does_not_ask_cannot_be_refused(ruling: Any) -> None:
    scene = asked(Scene())
    scene.fault("8916", AT, WRITE, rsi=AT)
    with pytest.raises(InterceptError, match="rule 1: a guest that is not confidential"):
        scene.play((AskBefore, ruling))
    scene = asked(Scene())
    scene.fault("8b06", AT, rsi=AT)
    with pytest.raises(InterceptError, match="not confidential"):
        scene.play((AskBefore, Go()), (ReadPhysical(DEVICE, 4), 3), (AskAnswered, ruling))


def test_a_step_may_be_late_and_says_so_beside_why_it_is_one() -> None:
    scene = asked(Scene())
    scene.fault("0fae06", AT, WRITE, rsi=AT)
    delays: list[Delay] = [Delay(4, "rule 1")]

    def before(wanted: AskBefore) -> Any:
        return delays.pop() if delays else Go()

    stop = TargetGone()
    with pytest.raises(TargetGone):
        scene.play(
            (AskBefore, before), turns(1), (Turn(), None), (BreakAlone, stop), (FlushTlb, None)
        )
    scene.interceptor.ledger.part()
    (record,) = scene.records
    assert record.note.startswith("by rule 1, 4e-09 s late; not emulated: ")
    assert record.via == "stepped"
