"""A guest of SEV-ES that speaks to its host by an MSR alone, in the monitor."""

from __future__ import annotations

from typing import Any

import pytest
from encrypted_guest import Encrypted
from monitored import Run
from playbook import play
from scene import CODE, registers

from tracer.access.stop import Stopped
from tracer.access.vcpu import SetRegister
from tracer.access.want import GuestTime, Registers, SetBreakpoint, Vcpu
from tracer.confidential.sev_exit import Ask
from tracer.errors import GuestError
from tracer.intercept.below.protocol_bell import ProtocolBell
from tracer.intercept.trap import GoOn
from tracer.trace.call import VmgexitRecord

STOP = Stopped()
RIP = 0x578
"""Where a VMCB has it (AMD APM vol. 2, appendix B)."""


class Asks:
    """A guest in the monitor, and its host."""

    def __init__(self) -> None:
        run, scene = Run(), Encrypted()
        self.inside, self.records, self.root = run.monitor, scene.of, run.root
        loop = run.loop
        self.bell = ProtocolBell(
            scene.guest, self.inside, loop.view, loop.journal, loop.system.names
        )
        run.scene.ram.write(run.vmcb() + RIP, CODE.to_bytes(8, "little"))

    def handle(self, request: int) -> Any:
        there = registers(cr3=self.root, rax=request, rip=self.inside.label("requested"))
        return play(self.bell.handle(STOP), (Registers(), there), (Vcpu(), 0), (GuestTime(), 5_000))


def test_a_vcpu_stops_where_it_asks() -> None:
    asks = Asks()
    play(asks.bell.begin(), (SetBreakpoint(asks.inside.label("requested")), 7))
    assert asks.bell.claims(Stopped(breakpoint=7))
    assert asks.inside.label("requested") in asks.inside.stands


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (Ask.SEV_INFORMATION, 2 << 48 | 1 << 32 | 38 << 24 | 1),
        (0x1234_5000 | Ask.REGISTRATION, 0x1234_5000 | Ask.REGISTRATION + 1),
        (Ask.RESET_HOLD, Ask.RESET_HOLD),  # refused: the MSR stays as it is
        (7 << 32 | Ask.CPUID, 7 << 32 | Ask.CPUID),  # no instruction has raised #VC for it
    ],
)
def test_the_answer_is_where_the_vcpu_goes_on(request_: int, answer: int) -> None:
    asks = Asks()
    done = asks.handle(request_)
    behind = SetRegister("rip", asks.inside.label("responded"))
    assert done == GoOn((SetRegister("rax", answer), behind))
    (record,) = asks.records(VmgexitRecord)
    assert record.protocol and record.rip == CODE and record.returned == {"msr": answer}


def test_a_guest_that_asks_for_its_end_has_it() -> None:
    asks = Asks()
    with pytest.raises(GuestError, match="cannot go on: the host's version of the protocol"):
        asks.handle(1 << 16 | Ask.TERMINATION)
    (record,) = asks.records(VmgexitRecord)
    assert record.name == "termination"


def test_a_program_that_has_code_at_that_address_goes_on() -> None:
    asks = Asks()
    elsewhere = registers(cr3=asks.root + 0x1000)
    assert play(asks.bell.handle(STOP), (Registers(), elsewhere)) == GoOn()
