"""A fault of a confidential guest that waits until the guest's handler asks for its access."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tracer.access.decision import Decision, Go
from tracer.access.execution import CarryOut, Foretold
from tracer.access.transfer import Transfer
from tracer.intercept.entry.spill import frame_at
from tracer.intercept.fault import Fault

STACK = 1 << 14
"""Bytes of a stack of Linux on x86-64 at most (arch/x86/include/asm/page_64_types.h)."""


@dataclass(slots=True)
class Inquiry:
    """Hold a fault whose handler has not asked yet, and what its instruction makes, if known.

    ``physical`` is where the access goes. ``known`` tells that guest code knows of it too, and may
    answer. ``passed_on`` tells that the handler makes the access itself, by an instruction that
    faults in turn: then it asks nothing.
    """

    fault: Fault
    physical: int
    foretold: Foretold | None = None
    carry: CarryOut | None = None
    expected: Transfer | None = None
    decision: Decision = field(default_factory=Go)
    known: bool = False
    passed_on: bool = False

    @property
    def frame(self) -> int:
        """Return the address of the CPU's own frame, from RIP on."""
        return frame_at(self.fault.stack)

    def may_be(self, stack: int) -> bool:
        """Tell whether a vCPU whose RSP is there may be in the handler of this fault."""
        return 0 <= self.fault.stack - stack < STACK

    def is_over(self, stack: int) -> bool:
        """Tell whether the handler has returned: something else uses its part of the stack."""
        begun = self.fault.stack
        return stack > begun and stack // STACK == begun // STACK


def nearest(waiting: Sequence[Inquiry], physical: int, fault: Fault) -> Inquiry | None:
    """Return the fault that a call is for.

    That is the nearest one up the stack of those at its address, or else the newest one of the
    vCPU.
    """
    found = [it for it in waiting if it.physical == physical and not it.passed_on]
    near = [it for it in found if it.may_be(fault.stack)]
    mine = [it for it in found if it.fault.vcpu == fault.vcpu]
    if near:
        return min(near, key=lambda it: it.fault.stack)
    return mine[-1] if mine else None
