"""Whatever order a TDX guest faults and calls in: handlers that nest, calls out of the blue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from calling import ASKING, CALLER, INNER, OUTER
from playbook import play
from ram import POISON
from scene import (
    AT,
    CODE,
    DEVICE,
    LAPIC,
    LAPIC_AT,
    READ,
    ROOT,
    STACK,
    WRITE,
    registers,
    set_rip,
)  # fmt: skip
from trust_domain import MMIO, RAM, RAM_AT, READS, REG, SHARED, WRITES, Domain

from tracer.access.decision import Called, Delay, Give, Go, Postpone, Refuse, Retry, Skip
from tracer.access.want import (
    AskAnswered,
    AskBefore,
    AskCalled,
    AskCompleted,
    ReadPhysical,
    Registers,
    RunAlone,
    StackAndTables,
    Turn,
    WriteCode,
    WritePhysical,
)
from tracer.confidential.request import MapGpa
from tracer.confidential.tdx_status import HostStatus
from tracer.errors import DebuggerError, GuestError, InterceptError
from tracer.intercept.below.firmware import Intercepted
from tracer.intercept.below.trust_domain import CALL
from tracer.intercept.entry.spill import VALUE_OFFSET
from tracer.trace.call import SharedRecord, TdcallRecord
from tracer.trace.record import Intercept, Mark


def test_a_read_goes_from_fault_to_record_by_the_guests_own_handler() -> None:
    scene = Domain()
    scene.faults(READS, AT + 0x1C, rcx=AT, rax=0x1111_1111_1111_1111)
    told = scene.fetches()
    assert (told["rax"], told["rcx"], told["rdx"]) == (0, 48, 1)
    assert (told["r8"], told["r9"], told["rip"]) == (AT + 0x1C, REG | SHARED, CALLER + 4)
    got = scene.asks((ReadPhysical(REG, 4), 0x8001), physical=REG)
    assert (got["rax"], got["r10"], got["r11"], got["rip"]) == (0, 0, 0x8001, CALLER + 4)
    (record,) = scene.of(Intercept)
    assert (record.via, record.agrees, record.rip, record.cr2) == ("guest", True, CODE, AT + 0x1C)
    assert record.before["rcx"] == AT
    assert record.after == {"rip": CODE + 3, "rax": 0x8001}
    assert scene.accesses_of(record) == [("read", REG, 4, 0x8001)]
    assert record.asked.given["r14"] == REG | SHARED and record.asked.returned["r11"] == 0x8001
    counts = scene.counts_of_all
    assert counts["ve"] == counts["ve_info"] == counts["mmio_calls"] == counts["agreed"] == 1
    assert not scene.of(TdcallRecord)
    scene.domain.conclude()


def test_a_write_reaches_the_device_as_the_guest_asks() -> None:
    scene = Domain()
    scene.faults(WRITES, AT + 0x14, WRITE, rcx=AT, rax=0x460001)
    assert scene.fetches()["rdx"] == 2
    made = (WritePhysical(DEVICE + 0x14, 4, 0x460001), None)
    scene.asks(made, physical=DEVICE + 0x14, write=0x460001)
    (record,) = scene.of(Intercept)
    assert record.agrees and record.after == {"rip": CODE + 3}


def test_an_interrupts_access_comes_between_a_fault_and_its_hypercall() -> None:
    scene = Domain()
    scene.faults(READS, AT + 0x1C, rcx=AT)
    scene.fetches()
    scene.faults(WRITES, AT + 0x14, WRITE, stack=INNER, rip=CODE + 0x40, rcx=AT, rax=7)
    scene.fetches(stack=INNER)
    made = (WritePhysical(DEVICE + 0x14, 4, 7), None)
    scene.asks(made, physical=DEVICE + 0x14, write=7, stack=INNER)
    scene.asks((ReadPhysical(REG, 4), 1), physical=REG)
    inner, outer = scene.of(Intercept)
    assert (inner.rip, outer.rip) == (CODE + 0x40, CODE) and inner.agrees and outer.agrees


def test_of_two_faults_at_one_address_the_inner_one_is_asked_for_first() -> None:
    scene = Domain()
    scene.faults(READS, AT + 0x1C, rcx=AT)
    scene.fetches()
    scene.faults(READS, AT + 0x1C, stack=INNER, rip=CODE + 0x40, rcx=AT)
    scene.fetches(stack=INNER)
    scene.asks((ReadPhysical(REG, 4), 1), physical=REG, stack=INNER)
    scene.asks((ReadPhysical(REG, 4), 2), physical=REG)
    inner, outer = scene.of(Intercept)
    assert (inner.rip, inner.after["rax"]) == (CODE + 0x40, 1)
    assert (outer.rip, outer.after["rax"]) == (CODE, 2)
    assert "given_up" not in scene.counts_of_all


def test_two_vcpus_ask_in_another_order_than_they_faulted() -> None:
    scene = Domain()
    other = STACK + 0xC00
    scene.faults(READS, AT + 0x1C, rcx=AT)
    scene.faults(READS, AT + 0x1C, stack=other, vcpu=1, rip=CODE + 0x40, rcx=AT)
    assert scene.fetches()["r8"] == AT + 0x1C
    assert scene.fetches(stack=other, vcpu=1)["r8"] == AT + 0x1C
    scene.asks((ReadPhysical(REG, 4), 1), physical=REG)
    scene.asks((ReadPhysical(REG, 4), 2), physical=REG, stack=other, vcpu=1)
    assert [(record.rip, record.vcpu) for record in scene.of(Intercept)] == [
        (CODE, 0), (CODE + 0x40, 1),
    ]  # fmt: skip


def test_a_fault_before_the_last_one_was_fetched_ends_the_run() -> None:
    scene = Domain()
    scene.faults(READS, AT + 0x1C, rcx=AT)
    scene.fault(READS, AT + 0x20, stack=INNER, tsc=99, rcx=AT + 4)
    with pytest.raises(InterceptError, match="before the guest has fetched"):
        scene.play(stack=INNER)


def test_what_no_fault_is_about_cannot_be_fetched_and_is_told() -> None:
    scene = Domain()
    assert scene.fetches()["rax"] >> 63
    (record,) = scene.of(TdcallRecord)
    assert record.name == "TDG.VP.VEINFO.GET" and record.note and record.rip == CALLER
    assert "ve_info" not in scene.counts_of_all


def test_a_hypercall_for_an_address_never_faulted_on_is_made_and_told() -> None:
    scene = Domain()
    got = scene.asks((ReadPhysical(REG, 4), 5), physical=REG)
    assert got["r11"] == 5
    (record,) = scene.of(Intercept)
    assert record.agrees is False and record.rip == CALLER and record.code == CALL
    assert scene.accesses_of(record) == [("read", REG, 4, 5)]
    assert any("has not faulted" in mark.text for mark in scene.of(Mark))


def test_what_is_asked_is_made_where_the_instruction_says_otherwise() -> None:
    scene = Domain()
    scene.faults(READS, AT + 0x1C, rcx=AT)
    scene.fetches()
    assert scene.asks((ReadPhysical(REG, 2), 0x8001), physical=REG, width=2)["r11"] == 0x8001
    (record,) = scene.of(Intercept)
    assert record.agrees is False and record.rip == CODE and record.after == {}
    assert scene.accesses_of(record) == [("read", REG, 2, 0x8001)]
    assert scene.counts_of_all["disagreed"] == 1


@pytest.mark.parametrize(
    "asked", [{"width": 3}, {"width": 16}, {"physical": REG & ~SHARED, "r13": 2}]
)
def test_what_no_host_makes_is_refused(asked: dict[str, int]) -> None:
    scene = Domain()
    scene.faults(READS, AT + 0x1C, rcx=AT)
    scene.fetches()
    made = {"r12": asked.get("width", 4), "r13": asked.get("r13", 0), "r14": REG | SHARED}
    assert scene.calls(**MMIO, **made)["r10"] >> 63
    assert not scene.of(Intercept)
    assert any("which no host makes" in mark.text for mark in scene.of(Mark))


def test_a_private_address_is_refused_and_one_of_ram_is_told() -> None:
    scene = Domain()
    assert scene.calls(**MMIO, r12=4, r13=0, r14=REG)["r10"] >> 63
    scene.ram.write(RAM_AT, b"\x2a\0\0\0")
    assert scene.calls(**MMIO, r12=4, r13=0, r14=RAM_AT | SHARED)["r11"] == 0x2A
    assert any("where RAM is, and no device" in mark.text for mark in scene.of(Mark))
    assert not scene.of(Intercept)


@pytest.mark.parametrize("asked_for", [True, False])
def test_shared_ram_is_the_same_page_without_the_bit(asked_for: bool) -> None:
    scene = Domain()
    if asked_for:
        scene.calls(rax=0, rcx=0xFFCC, r10=0, r11=0x10001, r12=RAM_AT | SHARED, r13=0x1000)
        (mapped,) = scene.of(SharedRecord)
        assert (mapped.what, mapped.physical, mapped.size, mapped.shared) == (
            "map", RAM_AT, 0x1000, True,
        )  # fmt: skip
        (call,) = scene.of(TdcallRecord)
        assert call.name == "TDG.VP.VMCALL<MapGPA>" and call.returned["r10"] == 0
    entry = scene.entry(RAM)
    scene.fault("8b 01", RAM, READ, stack=OUTER, tsc=50, rcx=RAM)
    assert scene.play(stack=OUTER) == Intercepted()
    assert scene.entry(RAM) == entry & ~SHARED
    touched = scene.of(SharedRecord)[-1]
    assert (touched.what, touched.linear, touched.converted) == ("touch", RAM, asked_for)


@pytest.mark.parametrize(
    ("rflags", "blocked", "lets_in"), [(0x46, 0, True), (0x46, 1, False), (0x246, 0, False)]
)
def test_a_vcpu_that_asks_to_sleep_does(rflags: int, blocked: int, lets_in: bool) -> None:
    scene = Domain()
    stack = OUTER - ASKING
    spill = scene.calls(rax=0, rcx=0xFFCC, r10=0, r11=12, r12=blocked, rflags=rflags)
    assert spill["rip"] == scene.stub.halts[lets_in] and spill["rsp"] == stack
    frame = scene.space.read(stack, 40)
    assert int.from_bytes(frame[:8], "little") == CALLER + 4
    assert int.from_bytes(frame[16:24], "little") == rflags


def test_a_leaf_that_no_module_has_gets_its_error_and_a_record() -> None:
    scene = Domain()
    assert scene.calls(rax=0x4321)["rax"] >> 63
    (record,) = scene.of(TdcallRecord)
    assert record.leaf == 0x4321 and record.returned["rax"] >> 63


def test_a_guest_that_cannot_go_on_ends_the_run_with_its_own_words() -> None:
    scene = Domain()
    words = {"r14": int.from_bytes(b"bad news", "little"), "r15": 0}
    with pytest.raises(GuestError, match="cannot go on: bad news"):
        scene.calls(rax=0, rcx=0xFFCC, r10=0, r11=0x10003, **words)


def test_a_handler_that_does_not_ask_is_told_with_what_was_foretold() -> None:
    scene = Domain()
    scene.faults("03 41 1c", AT + 0x1C, stack=INNER, rcx=AT)  # add eax, [rcx + 0x1c]
    scene.fetches(stack=INNER)
    scene.faults(READS, AT + 0x1C, rip=CODE + 0x40, rcx=AT)  # from further up the stack
    (mark,) = scene.of(Mark)
    assert "add eax" in mark.text and "oops" in mark.text and "driver+0x0" in mark.text
    scene.domain.conclude()
    assert scene.counts_of_all["given_up"] == 2


def test_a_guest_without_one_fault_was_none_of_tdx() -> None:
    with pytest.raises(GuestError, match="without one #VE"):
        Domain().domain.conclude()


def test_a_private_mapping_of_a_device_is_vetraces_own_to_answer() -> None:
    scene = Domain()
    scene.ram.map(LAPIC_AT, LAPIC | POISON)
    scene.fault("8b 01", LAPIC_AT, 0, stack=OUTER, tsc=7, rcx=LAPIC_AT)
    assert play(scene.domain.take(scene_fault(scene), scene.gate)) is None


def scene_fault(scene: Domain) -> Any:
    return play(scene.interceptor.faults.read(0), (StackAndTables(), (OUTER, ROOT)))


# ---- a person, or rules, decide


class Asking(Domain):
    """A scene in which somebody is asked about each access."""

    def __init__(self) -> None:
        super().__init__()
        self.interceptor.asks = True

    def decides(self, decision: Any, code: str = READS, at: int = AT + 0x1C, **how: Any) -> None:
        """Let an instruction fault, somebody decide, and the handler fetch what it is about."""
        self.moment += 1
        self.fault(code, at, how.pop("error", READ), stack=OUTER, tsc=self.moment, rcx=AT, **how)
        seen: list[Any] = []

        def asked(wanted: Any) -> Any:
            seen.append(wanted.pending)
            return decision

        first = () if self.entered else ((WriteCode, self.write_code),)
        self.entered = True
        done = self.play((AskBefore, asked), *first, stack=OUTER)
        assert done.changes == (set_rip(self.stub.raising),)
        assert seen[0].via == "guest" and seen[0].transfer.region is not None
        self.fetches()


BEHIND = (AskCompleted, lambda wanted: wanted.cpu)


def test_a_value_that_is_given_is_what_the_guest_gets_for_its_hypercall() -> None:
    scene = Asking()
    scene.decides(Give(0xFFFF_FFFF))
    got = scene.asks((ReadPhysical(REG, 4), 1), BEHIND, physical=REG)
    assert got["r11"] == 0xFFFF_FFFF
    (record,) = scene.of(Intercept)
    (access,) = record.accesses
    assert (access.value, access.device) == (0xFFFF_FFFF, 1)
    assert record.agrees and record.after["rax"] == 0xFFFF_FFFF


def test_what_a_device_has_answered_may_be_given_otherwise_with_what_was_asked_in_view() -> None:
    scene = Asking()
    scene.decides(Go())
    pendings: list[Any] = []

    def answers(wanted: Any) -> Any:
        pendings.append(wanted.pending)
        return Give(7, "rule 1")

    got = scene.asks((ReadPhysical(REG, 4), 1), (AskAnswered, answers), BEHIND, physical=REG)
    assert got["r11"] == 7
    assert pendings[0].transfer.value == 1 and pendings[0].asked["r14"] == REG | SHARED
    assert scene.of(Intercept)[0].note == "by rule 1"


def test_a_device_gets_another_value_and_nothing_at_all() -> None:
    scene = Asking()
    write = DEVICE + 0x14
    for decision, made in ((Give(5), ((WritePhysical(write, 4, 5), None),)), (Skip(), ())):
        scene.decides(decision, WRITES, AT + 0x14, error=WRITE, rax=3)
        scene.asks(*made, BEHIND, physical=write, write=3)
    given, skipped = (record.accesses[0] for record in scene.of(Intercept))
    assert (given.value, given.device) == (3, 5) and skipped.skipped


@pytest.mark.parametrize(("ruling", "r10"), [(Refuse("rule 2"), 1 << 63), (Postpone(), 1)])
def test_a_guest_hears_that_its_access_cannot_be_made(ruling: Any, r10: int) -> None:
    scene = Asking()
    scene.decides(ruling)
    assert scene.asks(physical=REG)["r10"] == r10
    (record,) = scene.of(Intercept)
    assert record.accesses[0].skipped and record.accesses[0].value is None
    assert record.agrees and record.after == {} and record.asked.returned["r10"] == r10
    # A device may have answered before.
    scene.decides(Go())
    answer = (ReadPhysical(REG, 4), 9), (AskAnswered, ruling)
    assert scene.asks(*answer, physical=REG)["r10"] == r10
    assert scene.of(Intercept)[1].accesses[0].device == 9


def test_an_instruction_that_is_to_start_over_does_before_any_exception() -> None:
    scene = Asking()
    scene.fault(READS, AT + 0x1C, stack=OUTER, tsc=1, rcx=AT)
    before = scene.play((AskBefore, lambda wanted: Retry(replaced(wanted, 0x77))), stack=OUTER)
    after = scene.after(before, OUTER)
    assert after["rax"] == 0x77 and after["rip"] == CODE
    assert scene.domain.state.pending[0] is None and not scene.counts_of_all.get("ve")


def replaced(wanted: Any, rax: int) -> Any:
    cpu = wanted.pending.cpu
    return replace(cpu, gpr=(rax, *cpu.gpr[1:]))


def test_somebody_is_asked_about_what_the_guests_handler_will_reject() -> None:
    scene = Asking()
    scene.fault("66 0f 7f 01", AT, WRITE, stack=OUTER, tsc=1, rcx=AT)  # movdqa [rcx], xmm0
    pendings: list[Any] = []

    def asked(wanted: Any) -> Any:
        pendings.append(wanted.pending)
        return Go()

    steps = (Registers(), registers(rip=CODE, rcx=AT)), (AskBefore, asked)
    scene.play(*steps, (WriteCode, scene.write_code), stack=OUTER)
    (pending,) = pendings
    assert pending.via == "stepped" and pending.insn is not None


# ---- calls that are no accesses


MAP_GPA = {"rax": 0, "rcx": 0xFFCC, "r10": 0, "r11": 0x10001, "r13": 0x1000}


@pytest.mark.parametrize(
    ("ruling", "r10", "r11"),
    [
        (Go(), 0, None),
        (Refuse("own.py"), 0x8000000000000000, None),
        (Postpone("own.py"), 1, RAM_AT | SHARED),
        (Give(0, "own.py"), 0, None),
    ],
)
def test_a_host_answers_a_call_that_is_no_access(ruling: Any, r10: int, r11: int | None) -> None:
    scene = Domain()
    scene.interceptor.asks = True
    asked: list[Any] = []

    def called(wanted: AskCalled) -> Any:
        asked.append(wanted.called.request)
        return ruling

    got = scene.calls((AskCalled, called), **MAP_GPA, r12=RAM_AT | SHARED)
    assert asked == [MapGpa(RAM_AT, 0x1000, True)]
    assert got["rax"] == 0 and got["r10"] == r10
    assert r11 is None or got["r11"] == r11


@pytest.mark.parametrize("write", [False, True])
def test_a_port_is_accessed_by_the_vcpu(write: bool) -> None:
    scene = Domain()
    made: list[RunAlone] = []

    def access(wanted: RunAlone) -> None:
        made.append(wanted)
        scene.write(OUTER - ASKING + VALUE_OFFSET, (0x60).to_bytes(8, "little"))

    asked = {"r11": 0x1E, "r12": 1, "r13": int(write), "r14": 0x3FD, "r15": 0x41}
    got = scene.calls((RunAlone, access), **MAP_GPA | asked)
    assert got["rax"] == 0 and got["r10"] == 0 and (write or got["r11"] == 0x60)
    (wanted,) = made
    changes = {change.name: change.value for change in wanted.changes}  # type: ignore[union-attr]
    table = scene.stub.outputs if write else scene.stub.inputs
    assert (changes["rdx"], changes["rip"]) == (0x3FD, table[1])
    assert not write or changes["rax"] == 0x41


def test_a_port_that_ends_the_machine_is_no_answer() -> None:
    scene = Domain()
    asked = {"r11": 0x1E, "r12": 2, "r13": 1, "r14": 0x604, "r15": 0x2000}
    with pytest.raises(DebuggerError, match="gone"):
        scene.calls((RunAlone, DebuggerError("gone")), **MAP_GPA | asked)


def test_a_call_may_be_answered_late() -> None:
    scene = Domain()
    scene.interceptor.asks = True
    late = (AskCalled, Delay(40, "own.py")), (RunAlone, None), (Turn(), None)
    assert scene.calls(*late, **MAP_GPA, r12=RAM_AT | SHARED)["r10"] == 0


def test_a_guest_asks_again_from_where_its_host_has_come_to() -> None:
    scene = Domain()
    scene.interceptor.asks = True
    again = AskCalled, Postpone(physical=RAM_AT + 0x1000)
    got = scene.calls(again, **MAP_GPA | {"r13": 0x2000}, r12=RAM_AT | SHARED)
    assert got["r10"] == 1 and got["r11"] == RAM_AT + 0x1000 | SHARED
    state = scene.domain.state
    assert state.is_shared(RAM_AT) and not state.is_shared(RAM_AT + 0x1000)


def test_somebody_is_asked_about_each_call_with_its_usual_answer() -> None:
    scene = Asking()
    seen: list[Called] = []

    def called(wanted: AskCalled) -> Any:
        seen.append(wanted.called)
        return Go()

    scene.calls((AskCalled, called), rax=1)
    scene.calls((AskCalled, called), **MAP_GPA, r12=RAM_AT | SHARED)
    scene.calls((AskCalled, called), **MAP_GPA, r12=RAM_AT + 1 | SHARED)
    scene.decides(Go())
    answered = (ReadPhysical(REG, 4), 1), (AskAnswered, Go())
    scene.asks((AskCalled, called), *answered, BEHIND, physical=REG)
    info, mapped, odd, access = seen
    assert (info.leaf, info.name, info.hypercall, info.request) == (1, "TDG.VP.INFO", None, None)
    assert info.usual is not None and info.usual["rax"] == 0 and info.cpu.rip == CALLER
    assert (mapped.leaf, mapped.hypercall) == (0, 0x10001)
    assert mapped.name == "TDG.VP.VMCALL<MapGPA>" and mapped.usual == {"rax": 0, "r10": 0}
    assert odd.usual is not None and odd.usual["r10"] == HostStatus.ALIGN_ERROR
    assert access.usual is None and access.access is not None
    assert (access.access.physical, access.access.width) == (REG, 4)


def test_a_call_may_start_over_from_other_registers() -> None:
    scene = Domain()
    scene.interceptor.asks = True

    def other(wanted: AskCalled) -> Any:
        cpu = wanted.called.cpu
        return Retry(replace(cpu, gpr=(7, *cpu.gpr[1:])))

    before = scene.domain.state
    got = scene.calls((AskCalled, other), **MAP_GPA, r12=RAM_AT | SHARED)
    assert (got["rax"], got["rip"]) == (7, CALLER) and scene.domain.state == before
    assert not scene.of(TdcallRecord)


@pytest.mark.parametrize("faulted", [True, False])
def test_what_is_said_to_a_hypercall_for_an_access_goes_before_what_was_said_of_it(
    faulted: bool,
) -> None:
    scene = Asking()
    if faulted:
        scene.decides(Delay(1))
    assert scene.asks((AskCalled, Refuse()), physical=REG)["r10"] == 1 << 63
    (record,) = scene.of(Intercept)
    assert record.accesses[0].skipped and record.agrees is faulted
    if faulted:
        scene.decides(Go())
    steps = (AskCalled, Give(9)), (ReadPhysical(REG, 4), 1)
    assert scene.asks(*steps, *((BEHIND,) if faulted else ()), physical=REG)["r11"] == 9
    made = scene.of(Intercept)[1].accesses[0]
    assert (made.value, made.device) == (9, 1)


def test_a_vcpu_that_is_refused_its_sleep_goes_on() -> None:
    scene = Domain()
    scene.interceptor.asks = True
    got = scene.calls((AskCalled, Refuse()), rax=0, rcx=0xFFCC, r10=0, r11=12, r12=0)
    assert got["rip"] == CALLER + 4 and got["r10"] == 1 << 63
