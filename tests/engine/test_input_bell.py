"""A vCPU that stands in the monitor before an input that somebody is asked about."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from input_row import row
from monitored import Run
from playbook import play
from scene import registers

from tracer.access.decision import Decision, Delay, Give, Go, Inject, Refuse, Retry, Skip
from tracer.access.stop import Stopped
from tracer.access.vcpu import SetRegister
from tracer.access.want import (
    AskAnswered,
    AskBefore,
    AskCompleted,
    AskHold,
    BreakAlone,
    MakeChanges,
    Registers,
    RunAlone,
    StepAlone,
    Turn,
    Vcpu,
)
from tracer.compiled import flagging, monitor
from tracer.compiled.inputs import INPUT_FIELDS, Input
from tracer.intercept.ring.input_bell import InputBell
from tracer.intercept.trap import GoOn, StandStill
from tracer.query.breakpoint import Breaks, parse_break
from tracer.query.condition import parse
from tracer.query.pending import PendingFacts
from tracer.query.place import Known
from tracer.trace.inputs import RAISED
from tracer.trace.record import Intercept, Mark

HERE = 0xFFFF_8000_0000_1000
IN: dict[str, Any] = {"rip": HERE, "following": HERE + 1}
OUT: dict[str, Any] = {**IN, "write": True}
STOP = Stopped()


class Asked:
    """A guest whose first vCPU has rung."""

    def __init__(self, record: bytes, after: bytes | None = None):
        run = self.run = Run()
        traced = run.loop.traced
        self.inside = run.monitor
        self.bell = InputBell(
            run.loop.view, run.loop.journal, run.loop.system.names, traced.callers,
            traced.interceptor.ledger,
        )  # fmt: skip
        self.bell.inside = self.inside
        self.after = after or record
        self.pendings: list[Any] = []
        self._put(record)

    def for_handler(self) -> None:
        """Have a handler of the guest's ask for it, in whose place the vCPU is."""
        self.run.scene.ram.write(self.run.vmcb() + monitor.ASKED, b"\1")

    def _put(self, record: bytes) -> None:
        self.run.scene.ram.write(self.run.vmcb() + monitor.RECORD_PLACE, record)

    def read(self, at: int, size: int) -> bytes:
        return self.run.scene.ram.read(self.run.vmcb() + at, size)

    @property
    def decided(self) -> int:
        return int.from_bytes(self.read(monitor.DECIDED, 8), "little")

    @property
    def value(self) -> int:
        return int.from_bytes(self.read(monitor.RECORD_PLACE + INPUT_FIELDS["VALUE"], 8), "little")

    def told(self, decision: Decision) -> Any:
        """Answer what is asked, and keep it."""

        def answer(wanted: Any) -> Decision:
            self.pendings.append(wanted.pending)
            return decision

        return answer

    def carried(self, wanted: RunAlone) -> None:
        """Have the monitor carry the access out."""
        assert wanted.linear == self.inside.label("told")
        assert wanted.changes == [SetRegister("rip", self.inside.label("decided"))]
        if self.decided == flagging.MADE:
            self._put(self.after)

    def handle(self, *steps: Any) -> Any:
        there = registers(cr3=self.run.root, rip=self.inside.ring)
        return play(self.bell.handle(STOP), (Registers(), there), (Vcpu(), 0), *steps)

    @property
    def record(self) -> Intercept:
        (made,) = self.run.intercepts
        return made


def test_a_read_that_nobody_changes_is_recorded_as_the_monitor_made_it() -> None:
    asked = Asked(row(Input.PORT, 0x64, rdx=0x64, **IN), row(Input.PORT, 0x64, 0x1C, **IN))
    done = asked.handle(
        (AskBefore, asked.told(Go())), (RunAlone, asked.carried),
        (AskAnswered, asked.told(Go())), (RunAlone, None),
        (AskCompleted, lambda wanted: wanted.cpu),
    )  # fmt: skip
    assert done == GoOn()
    before, answered = asked.pendings
    assert (before.transfer.space, before.transfer.physical) == ("port", 0x64)
    assert before.transfer.value is None and answered.transfer.value == 0x1C
    assert before.cpu.rip == HERE and before.via == "monitor"
    (access,) = asked.record.accesses
    assert (access.value, access.device, access.skipped) == (0x1C, None, False)
    assert asked.record.note is None


def test_its_record_tells_the_thread_that_the_monitor_found() -> None:
    asked = Asked(row(Input.PORT, 0x64, thread=0x1FB81, **IN))
    asked.handle(
        (AskBefore, Go()), (RunAlone, asked.carried), (AskAnswered, Go()), (RunAlone, None),
        (AskCompleted, lambda wanted: wanted.cpu),
    )  # fmt: skip
    assert asked.record.thread == 0x1FB81


def test_the_guest_reads_what_is_given_and_the_device_is_asked_all_the_same() -> None:
    asked = Asked(row(Input.PORT, 0x64, **IN), row(Input.PORT, 0x64, 0x1C, **IN))
    asked.handle(
        (AskBefore, Give(0xFF, "rule 1")), (RunAlone, asked.carried), (RunAlone, None),
        (AskCompleted, lambda wanted: wanted.cpu),
    )  # fmt: skip
    (access,) = asked.record.accesses
    assert asked.decided == flagging.MADE and asked.value == 0xFF
    assert (access.value, access.device) == (0xFF, 0x1C)
    assert (asked.record.note or "").startswith("by rule 1; ")


def test_the_device_gets_what_is_given_in_place_of_a_write() -> None:
    asked = Asked(row(Input.PORT, 0x80, 5, **OUT), row(Input.PORT, 0x80, 7, **OUT))
    asked.handle(
        (AskBefore, Give(7)), (RunAlone, asked.carried), (RunAlone, None),
        (AskCompleted, lambda wanted: wanted.cpu),
    )  # fmt: skip
    (access,) = asked.record.accesses
    assert (access.value, access.device) == (5, 7)


def test_what_is_skipped_reaches_no_device() -> None:
    asked = Asked(row(Input.PORT, 0x64, **IN))
    asked.handle(
        (AskBefore, Skip(0xAB)), (RunAlone, asked.carried), (RunAlone, None),
        (AskCompleted, lambda wanted: wanted.cpu),
    )  # fmt: skip
    (access,) = asked.record.accesses
    assert asked.decided == flagging.NOT_MADE and asked.value == 0xAB
    assert access.skipped and access.value == 0xAB


def test_cpuid_is_asked_about_by_its_registers_and_given_several_at_once() -> None:
    asked = Asked(row(Input.CPUID, 1, **IN), row(Input.CPUID, 1, 1, 2, 3, 4, **IN))
    asked.handle(
        (AskBefore, asked.told(Go())), (AskBefore, asked.told(Give(9, rest=(8,)))),
        (AskBefore, asked.told(Go())), (RunAlone, asked.carried),
        (AskAnswered, asked.told(Go())), (AskAnswered, asked.told(Give(7))), (RunAlone, None),
        (AskCompleted, lambda wanted: wanted.cpu),
    )  # fmt: skip
    assert [pending.transfer.place[1] for pending in asked.pendings] == [16, 20, 28, 16, 28]
    assert [pending.continues for pending in asked.pendings[:3]] == [False, True, True]
    assert [access.value for access in asked.record.accesses] == [1, 9, 8, 7]
    assert [access.device for access in asked.record.accesses] == [None, 2, 3, 4]


def test_an_exception_takes_the_place_of_the_instruction() -> None:
    asked = Asked(row(Input.MSR, 0x10, **IN))
    instead = asked.inside.label("instead")
    done = asked.handle(
        (AskBefore, Inject(13, 0)), (Vcpu(), 0),
        (MakeChanges([SetRegister("rip", instead)]), None), (StepAlone(), HERE), (AskHold(), True),
    )  # fmt: skip
    assert done == StandStill("fault", STOP.vcpu)
    assert int.from_bytes(asked.read(0xA8, 8), "little") == 0x8000_0B0D
    assert not asked.run.intercepts


def test_other_registers_start_the_instruction_over() -> None:
    asked = Asked(row(Input.PORT, 0x64, rdx=0x64, **IN))

    def changed(wanted: Any) -> Retry:
        gpr = (1, 2, *wanted.pending.cpu.gpr[2:])
        return Retry(type(wanted.pending.cpu)(gpr, HERE + 8, 0x202))

    done = asked.handle((AskBefore, changed))
    assert done == GoOn((SetRegister("rip", asked.inside.label("instead")),))
    assert int.from_bytes(asked.read(0x578, 8), "little") == HERE + 8
    assert asked.inside.of_guest(0)["rcx"] == 2


def test_what_a_handler_has_asked_for_leaves_the_registers_of_the_instruction() -> None:
    record = {**IN, "rdx": 0x64}
    asked = Asked(row(Input.PORT, 0x64, **record), row(Input.PORT, 0x64, 0x1C, **record))
    asked.for_handler()
    asked.handle(
        (AskBefore, Go()), (RunAlone, asked.carried), (AskAnswered, Give(0xFE)),
        (RunAlone, None),
        (AskCompleted, lambda wanted: replace(wanted.cpu, rip=0x666)),  # it is not there
    )  # fmt: skip
    assert asked.value == 0xFE and asked.record.after == {"rip": HERE + 1, "rax": 0xFE}
    assert int.from_bytes(asked.read(0x578, 8), "little") != 0x666


@pytest.mark.parametrize("ruling", [Inject(13, 0), Inject(6, None), Refuse("rule 3")])
def test_what_a_handler_has_asked_for_can_be_refused(ruling: Inject | Refuse) -> None:
    asked = Asked(row(Input.PORT, 0x64, **IN), row(Input.PORT, 0x64, raised=True, **IN))
    asked.for_handler()

    def refused(wanted: RunAlone) -> None:
        assert wanted.linear == asked.inside.label("told")
        assert wanted.changes == [SetRegister("rip", asked.inside.label("protection"))]
        asked._put(asked.after)

    steps: list[Any] = [(AskBefore, ruling), (RunAlone, refused), (RunAlone, None)]
    if isinstance(ruling, Inject):
        steps += [(AskHold(), True), (StepAlone(), HERE)]
    done = asked.handle(*steps)
    # Who has a fault raised is where the handler goes on.
    stands = StandStill("fault", STOP.vcpu) if isinstance(ruling, Inject) else GoOn()
    assert done == stands and asked.decided == 0
    (access,) = asked.record.accesses
    assert access.skipped and RAISED in (asked.record.note or "")
    marks = [record.text for record in asked.run.records if isinstance(record, Mark)]
    told = any("cannot raise that exception" in text for text in marks)
    assert told == (ruling == Inject(6, None))


def test_its_registers_stay_as_they_were() -> None:
    asked = Asked(row(Input.PORT, 0x64, **IN), row(Input.PORT, 0x64, 0x1C, **IN))
    asked.for_handler()
    asked.handle(
        (AskBefore, lambda wanted: Retry(wanted.pending.cpu)), (RunAlone, asked.carried),
        (AskAnswered, Go()), (RunAlone, None), (AskCompleted, lambda wanted: wanted.cpu),
    )  # fmt: skip
    marks = [record.text for record in asked.run.records if isinstance(record, Mark)]
    assert any("stay as they were" in text for text in marks)
    assert asked.record.accesses[0].value == 0x1C


def test_an_interrupt_is_told_by_its_vector_and_may_be_late() -> None:
    asked = Asked(row(Input.IRQ, 0x30, 0x30, width=1, rip=HERE, following=HERE))
    late, waited = asked.inside.label("late"), asked.inside.label("waited")
    asked.handle(
        (AskBefore, asked.told(Delay(20, "rule 2"))),
        (Registers(), registers(rcx=0x77, rip=asked.inside.ring)),
        (BreakAlone(waited, [SetRegister("rip", late), SetRegister("rcx", 10)]), None),
        (Turn(), None),
        (MakeChanges, None), (RunAlone, asked.carried), (RunAlone, None),
        (AskCompleted, lambda wanted: wanted.cpu),
    )  # fmt: skip
    assert asked.pendings[0].transfer.value == 0x30 and asked.pendings[0].fixed
    assert asked.record.text == "interrupt"
    assert asked.record.note == "by rule 2, 2e-08 s late"


def test_the_message_of_an_interrupt_is_asked_about_before_it() -> None:
    asked = Asked(row(Input.IRQ, 0x30, 0x30, width=1, rip=HERE, following=HERE))
    journal = asked.run.loop.journal
    causes = journal.blocks._antecedents._causes
    for at, value in enumerate((0xFEE0_1004, 0, 0x30, 0)):
        causes.note(0, "memory", 16 + 4 * at, "nvme.msix-table", "write", 4, value)
    seq = asked.run.loop.traced.interceptor.ledger.sequence
    asked.handle(
        (AskBefore, asked.told(Go())), (AskBefore, asked.told(Go())),
        (RunAlone, asked.carried), (RunAlone, None),
        (AskCompleted, lambda wanted: wanted.cpu),
    )  # fmt: skip
    message, interrupt = asked.pendings
    assert (message.transfer.space, message.transfer.value) == ("msi", 0x30)
    assert (message.seq, interrupt.seq) == (seq, seq + 1)
    assert message.fixed and message.cause == interrupt.cause == "nvme[1]"
    assert not message.continues and not interrupt.continues
    breaks = Breaks().added(parse_break("irq 0x30", Known(inputs=("irq", "msi"))))
    assert not breaks.check(PendingFacts(message)).stops
    assert breaks.check(PendingFacts(interrupt)).stops
    facts = PendingFacts(message)
    assert parse('data == 0x30 and source == "nvme[1]" and not cause == "nvme[1]"').test(facts)
    assert parse('cause == "nvme[1]" and space == irq').test(PendingFacts(interrupt))
    first, second = asked.record.accesses
    assert (first.space, first.physical, first.value) == ("msi", 0xFEE0_1004, 0x30)
    assert (second.space, second.value) == ("irq", 0x30) and asked.record.seq == seq
    assert asked.run.loop.traced.interceptor.ledger.sequence == seq + 2


def test_code_of_a_programs_at_that_address_goes_on() -> None:
    asked = Asked(row(Input.PORT, 0x64, **IN))
    assert play(asked.bell.handle(STOP), (Registers(), registers(cr3=0x1234000))) == GoOn()


@pytest.mark.parametrize("since", [None, 1234])
def test_what_is_asked_about_is_told_to_the_monitor(since: int | None) -> None:
    run = Run()
    run.monitor.ask(flagging.flagged([0x64]), since)
    pages = run.scene.ram.read(run.monitor.code.flags, flagging.FLAGS_SIZE)
    assert pages == flagging.pages(1 << 0x64, since)
