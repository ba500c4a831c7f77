"""The port for who answers an access: the first in a list that covers it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from tracer.access.execution import Answers
from tracer.access.transfer import Transfer
from tracer.access.vcpu import Change
from tracer.errors import DebuggerError
from tracer.intercept import carrier
from tracer.intercept.entry.post import Post
from tracer.intercept.fault import Fault

UNANSWERED = "QEMU ended before it answered: whether this was made is not known"
"""The note of an access that was under way when the guest's own power-off, before it, was done."""


class Answer(Protocol):
    """Answer transfers in place of a device, or have the device do it."""

    def covers(self, transfer: Transfer) -> bool:
        """Tell whether this one answers a transfer."""
        ...

    async def carry(self, transfers: Sequence[Transfer], fault: Fault, gate: Post) -> Answers:
        """Carry out one access, or what is wanted of its transfers; return what each read."""
        ...

    def departure(
        self, transfer: Transfer, fault: Fault, gate: Post, through: int | None
    ) -> list[Change] | None:
        """Return the changes that make the vCPU store on its way back, None without such ones.

        ``through`` is a linear address at which it may, None where nobody knows one.
        """
        ...

    def admit_vcpu(self, transfer: Transfer, fault: Fault, why: str) -> None:
        """Raise InterceptError unless the vCPU may reach the device itself, as it has to."""
        ...


class Devices:
    """Have the devices themselves answer, through GDB or by the vCPU."""

    def covers(self, transfer: Transfer) -> bool:
        """Return True: something is always there to be asked."""
        return True

    async def carry(self, transfers: Sequence[Transfer], fault: Fault, gate: Post) -> Answers:
        """Make the access; it reaches the device as the vCPU's own would."""
        return await carrier.perform(transfers, fault.stand(gate))

    def departure(
        self, transfer: Transfer, fault: Fault, gate: Post, through: int | None
    ) -> list[Change] | None:
        """Return how the vCPU stores to what only a vCPU reaches, or what it may store to."""
        return carrier.departure(transfer, fault.stand(gate), through)

    def admit_vcpu(self, transfer: Transfer, fault: Fault, why: str) -> None:
        """Let the vCPU reach the device."""


class Answering:
    """Have the first in an order that covers a transfer answer it.

    ``before`` is called with transfers that are about to be made. ``through`` returns the linear
    address at which a vCPU, which has come by a fault, may make a write on its way back, None
    where the debugger is to.
    """

    def __init__(self, order: Sequence[Answer]) -> None:
        self._order = order
        self.before: Callable[[Sequence[Transfer]], None] = lambda transfers: None
        self.through: Callable[[Transfer, Fault], int | None] = lambda transfer, fault: None

    def to(self, transfer: Transfer) -> Answer:
        """Return who answers a transfer."""
        return next(answer for answer in self._order if answer.covers(transfer))

    async def carry(self, transfers: Sequence[Transfer], fault: Fault, gate: Post) -> Answers:
        """Make what is wanted of one access; return what each transfer read."""
        self.before(transfers)
        try:
            return await self._made(transfers, fault, gate)
        except DebuggerError as error:
            if any(transfer.direction != "write" for transfer in transfers):
                raise
            # A write that powers the guest off takes QEMU along, often before it has answered. The
            # instruction does not need an answer, and comes to its end without.
            fault.silence = error
            return [None] * len(transfers)

    def departs(self, transfer: Transfer, fault: Fault, gate: Post) -> bool:
        """Tell whether the vCPU makes the access on its way back, which is arranged then."""
        through = self.through(transfer, fault)
        departure = self.to(transfer).departure(transfer, fault, gate, through)
        fault.departure = departure or []
        if departure is not None:
            self.before([transfer])
        return departure is not None

    async def _made(self, transfers: Sequence[Transfer], fault: Fault, gate: Post) -> Answers:
        found = [self.to(transfer) for transfer in transfers]
        if found and all(answer is found[0] for answer in found):
            return await found[0].carry(transfers, fault, gate)
        answers: list[int | None] = []
        for answer, transfer in zip(found, transfers, strict=True):
            answers += await answer.carry([transfer], fault, gate)
        return answers
