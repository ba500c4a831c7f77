"""A recording that stands in for devices: it answers, and they see nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tracer.access.execution import Answers
from tracer.access.transfer import Transfer
from tracer.access.vcpu import Change
from tracer.errors import Diverged, InterceptError
from tracer.intercept.entry.post import Post
from tracer.intercept.fault import Fault
from tracer.intercept.names import Names
from tracer.intercept.recording import RecordedDevice, Request


class StandIn:
    """Answer the transfers that a recording has; ``counts`` counts them as ``replayed``.

    It is a :class:`tracer.intercept.answer.Answer`.
    """

    def __init__(self, recorded: RecordedDevice, names: Names, counts: Counter[str]) -> None:
        self._recorded = recorded
        self._names = names
        self._counts = counts

    def covers(self, transfer: Transfer) -> bool:
        """Tell whether the recording answers in place of this transfer's device."""
        region = transfer.region
        return transfer.traced and region is not None and self._recorded.covers(region)

    async def carry(self, transfers: Sequence[Transfer], fault: Fault, gate: Post) -> Answers:
        """Answer from the recording. Raises Diverged where that has something else."""
        return [self._answer(transfer, fault) for transfer in transfers]

    def departure(
        self, transfer: Transfer, fault: Fault, gate: Post, through: int | None
    ) -> list[Change] | None:
        """Return None: the device sees nothing."""
        return None

    def admit_vcpu(self, transfer: Transfer, fault: Fault, why: str) -> None:
        """Raise InterceptError: the vCPU would reach a device that is replaced."""
        raise InterceptError(
            f"{why} at RIP {fault.cpu.rip:#x}: the vCPU would have to reach the device itself, "
            f"which {self._recorded.name} stands in for; --bypass its region"
        )

    def _answer(self, transfer: Transfer, fault: Fault) -> int | None:
        # Returns what a read gives, None after a write.
        region = transfer.region
        assert region is not None  # or the recording would not cover it
        request = Request(
            region=region.name,
            direction=transfer.direction,
            offset=transfer.physical - region.base,
            width=transfer.width,
            value=transfer.value,
        )
        try:
            access = self._recorded.answer(request)
        except Diverged as error:
            rip = fault.cpu.rip
            raise error.at(self._names.lookup(rip, fault.space) or hex(rip)) from None
        fault.replayed.append(access.seq)
        self._counts["replayed"] += 1
        return access.value if transfer.direction == "read" else None


def replay_note(replayed: Sequence[int]) -> str | None:
    """Return the numbers that the accesses have in the recording, in words, or None."""
    if not replayed:
        return None
    return f"replayed: {', '.join(f'#{seq}' for seq in replayed)} of the recording"
