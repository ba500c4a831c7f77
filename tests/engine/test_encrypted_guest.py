"""Whatever order an SEV-ES guest faults and calls in, on whichever stack."""

from __future__ import annotations

import pytest
from calling import ASKING, CALLER, INNER, OUTER
from encrypted_guest import IDT_29, MMIO_READ, NUMBER, TASK_AT, TOP, Encrypted
from scene import AT, CODE, CS, DEVICE, LAPIC, LAPIC_AT, SS, WRITE
from trust_domain import READS, REG, WRITES

from tracer.access.decision import Give, Go, Postpone, Refuse, Skip
from tracer.access.want import (
    AskBefore,
    AskCalled,
    AskCompleted,
    ReadPhysical,
    RunAlone,
    WritePhysical,
)
from tracer.confidential.sev_exit import Ask, Event
from tracer.errors import GuestError, InterceptError
from tracer.intercept.entry.spill import SPILL_SIZE, VALUE_OFFSET
from tracer.trace.call import VmgexitRecord
from tracer.trace.record import Intercept, Mark
from tracer.x86.tss import stack_offset


def test_a_read_goes_from_fault_to_record_by_the_guests_own_handler() -> None:
    scene = Encrypted()
    scene.faults(READS, AT + 0x1C, rcx=AT, rax=0x1111_1111_1111_1111)
    assert scene.asks((ReadPhysical(REG, 4), 0x8001), physical=REG) == 0x8001
    assert (scene.field("sw_exit_info_1"), scene.field("sw_exit_info_2")) == (0, 0)
    (record,) = scene.of(Intercept)
    assert (record.via, record.agrees, record.rip, record.cr2) == ("guest", True, CODE, AT + 0x1C)
    assert record.after == {"rip": CODE + 3, "rax": 0x8001}
    # The fields are told as the guest would have filled them in by itself.
    assert record.asked.given["sw_exit_info_1"] == REG
    assert record.asked.given["sw_exit_code"] == MMIO_READ
    assert record.asked.returned["shared_buffer"] == 0x8001
    counts = scene.journal.counts
    assert counts["vc"] == counts["mmio_calls"] == counts["agreed"] == 1
    assert not scene.of(VmgexitRecord)
    scene.guest.conclude()


def test_a_write_reaches_the_device_as_the_guest_asks() -> None:
    scene = Encrypted()
    scene.faults(WRITES, AT + 0x14, WRITE, rcx=AT, rax=0x460001)
    made = (WritePhysical(DEVICE + 0x14, 4, 0x460001), None)
    scene.asks(made, physical=DEVICE + 0x14, write=0x460001)
    (record,) = scene.of(Intercept)
    assert record.agrees and record.asked.given["shared_buffer"] == 0x460001
    assert record.after == {"rip": CODE + 3}


def test_the_frame_is_on_the_interrupt_stack_that_the_gate_names() -> None:
    scene = Encrypted()
    there, *frame = scene.faults(READS, AT + 0x1C, rcx=AT)
    assert there == TOP - 48
    assert frame == [0x400, CODE, CS, 0x202, OUTER + SPILL_SIZE, SS]
    # The kernel moves it while an NMI is handled.
    scene.ram.write(TASK_AT + stack_offset(NUMBER), (TOP - 0x48).to_bytes(8, "little"))
    there, *_ = scene.faults(READS, AT + 0x20, stack=INNER, rcx=AT + 4)
    assert there == TOP - 0x50 - 48  # aligned, as by the CPU


def test_without_an_interrupt_stack_the_frame_is_below_where_it_faulted() -> None:
    scene = Encrypted(ist=0)
    there, *frame = scene.faults(READS, AT + 0x1C, rcx=AT)
    assert there % 16 == OUTER % 16 and there + 48 <= OUTER
    assert frame == [0x400, CODE, CS, 0x202, OUTER + SPILL_SIZE, SS]
    scene.asks((ReadPhysical(REG, 4), 1), physical=REG)
    assert scene.of(Intercept)[0].agrees


def test_a_task_state_that_cannot_be_read_ends_the_run() -> None:
    scene = Encrypted()
    scene.unmap(0xFFFF_FE00_0000_3000)
    with pytest.raises(InterceptError, match="TSS at linear 0xfffffe0000003000 cannot be read"):
        scene.faults(READS, AT + 0x1C, rcx=AT)


def test_a_guest_without_a_handler_ends_the_run() -> None:
    scene = Encrypted(ist=0)
    scene.entered = True
    scene.ram.write(IDT_29, bytes(16))
    with pytest.raises(InterceptError, match="no handler of its own for vector 29"):
        scene.faults(READS, AT + 0x1C, rcx=AT)


def test_the_inner_one_of_two_faults_is_asked_for_first() -> None:
    scene = Encrypted()
    scene.faults(READS, AT + 0x1C, rcx=AT)
    scene.faults(WRITES, AT + 0x14, WRITE, stack=INNER, rip=CODE + 0x40, rcx=AT, rax=7)
    made = (WritePhysical(DEVICE + 0x14, 4, 7), None)
    scene.asks(made, physical=DEVICE + 0x14, write=7, stack=INNER)
    scene.asks((ReadPhysical(REG, 4), 2), physical=REG)
    assert [(record.rip, record.agrees) for record in scene.of(Intercept)] == [
        (CODE + 0x40, True), (CODE, True),
    ]  # fmt: skip


def test_a_handler_that_accesses_the_device_itself_has_asked_by_that() -> None:
    # It moves a string by reading and writing memory, which faults in turn.
    scene = Encrypted()
    scene.faults(READS, AT + 0x1C, rcx=AT)
    scene.faults(READS, AT + 0x1C, stack=INNER, rip=CODE + 0x40, rcx=AT)
    scene.asks((ReadPhysical(REG, 4), 2), physical=REG, stack=INNER)
    scene.faults(READS, AT + 0x20, stack=OUTER + 0x100, rcx=AT + 4)
    (record,) = scene.of(Intercept)
    assert record.rip == CODE + 0x40 and record.agrees
    assert not scene.journal.counts["given_up"] and not scene.of(Mark)


def test_an_instruction_that_faults_again_is_within_no_other() -> None:
    scene = Encrypted()
    scene.faults("01 41 1c", AT + 0x1C, WRITE, rcx=AT)
    scene.faults("01 41 1c", AT + 0x1C, WRITE, rcx=AT)
    scene.guest.settle()
    assert scene.journal.counts["given_up"] == 2


def test_a_handler_that_asks_for_nothing_is_told_with_what_was_to_be_expected() -> None:
    scene = Encrypted()
    scene.faults("01 41 1c", AT + 0x1C, WRITE, rcx=AT)
    scene.guest.settle()
    (mark,) = scene.of(Mark)
    assert "the guest's #VC handler did not ask for the access of `add" in mark.text
    assert scene.journal.counts["given_up"] == 1


def test_what_is_asked_otherwise_is_made_and_told() -> None:
    scene = Encrypted()
    scene.faults(READS, AT + 0x1C, rcx=AT)
    scene.asks((ReadPhysical(REG, 2), 5), physical=REG, width=2)
    (record,) = scene.of(Intercept)
    assert record.agrees is False and record.after == {}
    assert scene.journal.counts["disagreed"] == 1


def test_what_no_fault_is_about_is_made_and_told() -> None:
    scene = Encrypted()
    scene.asks((ReadPhysical(REG, 4), 5), physical=REG)
    (mark,) = scene.of(Mark)
    assert f"4 bytes at physical {REG:#x}, at which it has not faulted" in mark.text
    assert scene.of(Intercept)[0].agrees is False


def test_a_width_that_no_host_makes_is_refused() -> None:
    scene = Encrypted()
    scene.faults(READS, AT + 0x1C, rcx=AT)
    scene.asks(physical=REG, width=3)
    assert (scene.field("sw_exit_info_1"), scene.field("sw_exit_info_2")) == (2, 5)
    assert "which no host makes" in scene.of(Mark)[0].text
    assert not scene.of(Intercept)
    # The fault still waits.
    scene.asks((ReadPhysical(REG, 4), 5), physical=REG)
    assert scene.of(Intercept)[0].agrees


def test_the_interrupt_controller_is_asked_for_as_all_else() -> None:
    scene = Encrypted()
    scene.faults(READS, LAPIC_AT + 0x1C, rcx=LAPIC_AT)

    def read(wanted: RunAlone) -> None:
        scene.write(OUTER - ASKING + VALUE_OFFSET, (9).to_bytes(8, "little"))

    assert scene.asks((RunAlone, read), physical=LAPIC + 0x1C) == 9
    (record,) = scene.of(Intercept)
    assert record.via == "guest" and record.accesses[0].region == "lapic"


def test_other_calls_have_records_of_their_own() -> None:
    scene = Encrypted()
    scene.page(sw_exit_code=Event.JUMP_TABLE, sw_exit_info_1=1, sw_exit_info_2=0)
    scene.calls()
    scene.page(sw_exit_code=0x1234, sw_exit_info_1=0, sw_exit_info_2=0)
    scene.calls()
    table, unknown = scene.of(VmgexitRecord)
    assert (table.name, table.protocol, table.rip) == ("AP jump table", False, CALLER)
    assert table.returned == {"sw_exit_info_1": 0, "sw_exit_info_2": 0}
    assert unknown.returned == {"sw_exit_info_1": 2, "sw_exit_info_2": 6}
    assert unknown.note == "no such event" and unknown.code == 0x1234
    assert scene.journal.counts["vmgexits"] == 2


class Inside:
    """A monitor that has done something, and has left a call to the host."""

    def count(self, name: str) -> int:
        return {"RAISED": 9, "ANSWERED": 7, "UNASKED": 1}[name]


def test_what_the_monitor_has_left_is_told_as_a_disagreement() -> None:
    scene = Encrypted()
    scene.guest.monitor = Inside()  # type: ignore[assignment]
    scene.page(sw_exit_code=Event.CPUID, sw_exit_info_1=0, sw_exit_info_2=0, rax=1, rcx=0)
    scene.calls()
    assert scene.field("sw_exit_info_1") == 2  # it is refused
    assert scene.journal.counts["disagreed"] == 1
    (told,) = scene.of(Mark)
    assert "asks its host for" in told.text and "has raised #VC" in told.text
    # What instructions do is counted beside what devices do.
    scene.guest.conclude()
    counts = scene.journal.counts
    assert (counts["vc"], counts["input_calls"], counts["inputs not asked for"]) == (9, 7, 1)


@pytest.mark.parametrize(("direction", "width"), [("in", 1), ("in", 4), ("out", 2)])
def test_a_port_is_accessed_by_the_vcpu(direction: str, width: int) -> None:
    scene = Encrypted()
    info = 0x3F8 << 16 | width << 4 | (direction == "in")
    rax = {} if direction == "in" else {"rax": 0x5_1234}
    scene.page(sw_exit_code=Event.IOIO, sw_exit_info_1=info, sw_exit_info_2=0, **rax)
    made: list[RunAlone] = []

    def access(wanted: RunAlone) -> None:
        made.append(wanted)
        scene.write(OUTER - ASKING + VALUE_OFFSET, (0xA1B2_C3D4).to_bytes(8, "little"))

    assert scene.calls((RunAlone, access))["rip"] == CALLER + 4
    (wanted,) = made
    changes = {change.name: change.value for change in wanted.changes}  # type: ignore[union-attr]
    table = scene.stub.inputs if direction == "in" else scene.stub.outputs
    assert (changes["rdx"], changes["rip"]) == (0x3F8, table[width])
    assert wanted.linear == scene.stub.done
    assert (scene.field("sw_exit_info_1"), scene.field("sw_exit_info_2")) == (0, 0)
    if direction == "in":
        assert scene.field("rax") == 0xA1B2_C3D4 & (1 << 8 * width) - 1
    else:
        assert changes["rax"] == 0x1234
    (record,) = scene.of(VmgexitRecord)
    assert record.name == "IOIO" and record.returned["sw_exit_info_1"] == 0


@pytest.mark.parametrize("code", [Event.RESET_HOLD, Event.RDTSC])
def test_what_only_another_machine_could_answer_is_refused(code: int) -> None:
    scene = Encrypted()
    scene.page(sw_exit_code=code, sw_exit_info_1=0, sw_exit_info_2=0)
    scene.calls()
    assert (scene.field("sw_exit_info_1"), scene.field("sw_exit_info_2")) == (2, 6)


def test_the_msr_protocol_is_answered_in_the_msr() -> None:
    scene = Encrypted()
    found = scene.calls(msr=Ask.SEV_INFORMATION)
    assert found["msr"] == 2 << 48 | 1 << 32 | 38 << 24 | 1 and found["rip"] == CALLER + 4
    # It stays as it is where nobody knows what is asked.
    assert scene.calls(msr=0xABC)["msr"] == 0xABC
    known, unknown = scene.of(VmgexitRecord)
    assert known.protocol and known.returned == {"msr": found["msr"]}
    assert unknown.note == "no such request of the MSR protocol"


def test_a_guest_that_asks_for_its_end_has_it() -> None:
    scene = Encrypted()
    with pytest.raises(GuestError, match="cannot go on: general termination request"):
        scene.calls(msr=Ask.TERMINATION)
    scene.page(sw_exit_code=Event.UNSUPPORTED, sw_exit_info_1=0x72, sw_exit_info_2=0)
    with pytest.raises(GuestError, match="knows no #VC of exit code 0x72"):
        scene.calls()
    assert len(scene.of(VmgexitRecord)) == 2


def test_what_a_handler_gave_up_on_is_told_where_the_guest_ends_for_it() -> None:
    scene = Encrypted()
    scene.faults("01 41 1c", AT + 0x1C, WRITE, rcx=AT)
    with pytest.raises(GuestError, match="cannot go on"):
        scene.calls(msr=Ask.TERMINATION)
    (mark,) = scene.of(Mark)
    assert "did not ask for the access of `add" in mark.text and "(oops: " in mark.text


def test_a_page_that_is_no_ram_ends_the_run() -> None:
    scene = Encrypted()
    with pytest.raises(GuestError, match="a GHCB at physical 0xfebf0000, where no RAM is"):
        scene.calls(msr=DEVICE)


def test_a_guest_without_one_fault_was_none() -> None:
    with pytest.raises(GuestError, match="without one #VC"):
        Encrypted().guest.conclude()


# ---- somebody decides


def asked_about(*answers: object, completed: bool = True) -> tuple[Encrypted, int]:
    """Let a read be decided about where it faults, and where it is answered."""
    scene = Encrypted()
    scene.interceptor.asks = True
    decision, *later = answers
    scene.faults(READS, AT + 0x1C, rcx=AT, before=((AskBefore, decision),))
    steps = [*later]
    if completed:
        steps.append((AskCompleted, None))
    return scene, scene.asks(*steps, physical=REG)  # type: ignore[arg-type]


def test_a_value_is_given_in_place_of_the_devices() -> None:
    scene, read = asked_about(Give(0xFFFF_FFFF, "me"), (ReadPhysical(REG, 4), 1))
    assert read == 0xFFFF_FFFF
    (record,) = scene.of(Intercept)
    assert record.accesses[0].device == 1 and record.agrees


def test_an_access_is_skipped() -> None:
    scene, read = asked_about(Skip(7))
    assert read == 7 and scene.of(Intercept)[0].accesses[0].skipped


def test_a_host_that_refuses_says_so_in_the_page() -> None:
    scene, _ = asked_about(Refuse("me"), completed=False)
    assert (scene.field("sw_exit_info_1"), scene.field("sw_exit_info_2")) == (2, 6)
    (record,) = scene.of(Intercept)
    assert record.accesses[0].skipped and record.asked.returned["sw_exit_info_1"] == 2


def test_a_guest_of_this_kind_cannot_be_told_to_ask_again() -> None:
    with pytest.raises(InterceptError, match="cannot be told to ask again"):
        asked_about(Postpone("me"), completed=False)


def test_a_call_that_is_no_access_is_decided_about_too() -> None:
    scene = Encrypted()
    scene.interceptor.asks = True
    for said in (Give(0x1_0000_0002, "me"), Go()):
        scene.page(sw_exit_code=Event.RDTSC, sw_exit_info_1=0, sw_exit_info_2=0)
        scene.calls((AskCalled, said))
    given, usual = scene.of(VmgexitRecord)
    assert (given.returned["rax"], given.returned["rdx"]) == (2, 1)
    assert usual.returned["sw_exit_info_1"] == 2
