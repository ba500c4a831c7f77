"""The facts of an access while the guest waits at it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tracer.access.decision import Pending
from tracer.access.recorded import memory_access
from tracer.access.region import UNASSIGNED
from tracer.access.transfer import located
from tracer.compiled.inputs import Input
from tracer.confidential.handler import PROFILES, judge
from tracer.devices.map import Named
from tracer.query.condition.vocabulary import COVERED, MEMORY, OWNERS, Fact
from tracer.query.course import Changes, Marks
from tracer.query.facts import covered, high, low, senders
from tracer.query.waiting import WaitingFacts
from tracer.trace.event import Event
from tracer.trace.inputs import KIND_OF_SPACE, mnemonic_of
from tracer.trace.member import Space
from tracer.trace.record import Intercept
from tracer.trace.summary import mnemonic

RegisterName = Callable[[str, int, int], Named | None]
"""Name what a region has at an offset and a width, both in bytes; None for nothing."""


class PendingFacts(WaitingFacts):
    """Know an access that is about to be made, or was just answered."""

    def __init__(
        self,
        pending: Pending,
        *,
        register: RegisterName | None = None,
        callers: Callable[[], Sequence[str]] = tuple,
        phase: str | None = None,
        marks: Marks | None = None,
        changes: Changes | None = None,
    ) -> None:
        super().__init__(pending, callers=callers, phase=phase, marks=marks)
        self.pending = pending
        self._register = register
        self._changes = changes or Changes()

    def _found(self, name: str) -> Fact:
        find = _OF_PENDING.get(name)
        if find is not None:
            return find(self)
        if name.startswith(MEMORY):
            value = self.pending.transfer.value
            return None if value is None else self._changes.asked(name, self._place, value)
        return super()._found(name)

    @property
    def _place(self) -> tuple[object, ...]:
        transfer, named = self.pending.transfer, self.named
        return (
            *located(transfer), transfer.direction, transfer.width, named and named.text,
        )  # fmt: skip

    @property
    def named(self) -> Named | None:
        """Return the name of the register that is accessed, None where it has none."""
        region, offset = located(self.pending.transfer)
        if self._register is None or offset is None:
            return None
        return self._register(region, offset, self.pending.transfer.width)

    def in_space(self, space: Space) -> int | None:
        """Return the address where it lies in a space, None where it is another one's."""
        transfer = self.pending.transfer
        return transfer.physical if transfer.space == space else None

    def in_message(self, value: int | None) -> int | None:
        """Return a value where it is what a message tells, None where it is another access's."""
        return value if self.pending.transfer.space == "msi" else None

    @property
    def owners(self) -> tuple[str, ...]:
        """Return every name that stands for a device which the region belongs to."""
        return _owners(self.pending)

    @property
    def continues(self) -> bool:
        """Tell whether it is of a CPUID of which another register was asked about before."""
        return self.pending.continues

    def oops(self, profile: str) -> bool:
        """Tell whether the handler of a profile, by its name, would not survive the access."""
        pending = self.pending
        if pending.insn is None:
            return True
        # The operand may begin in RAM, a page before: a part of it is pending.
        direction = pending.transfer.direction
        parts = [part.linear for part in pending.foretold if part.direction == direction]
        linear = parts[0] if parts else pending.transfer.linear
        verdict = judge(PROFILES[profile], pending.insn, cpl=pending.cpu.cpl, linear=linear)
        return verdict.outcome == "oops"


def event_of(pending: Pending, named: Named | None = None, phase: str | None = None) -> Event:
    """Return an access that waits as an event, so that it is shown like one that was made."""
    access = memory_access(pending.transfer)
    record = Intercept(
        seq=pending.seq,
        time_ns=pending.time_ns,
        vcpu=pending.vcpu,
        cpl=pending.cpu.cpl,
        mode=pending.cpu.mode.value,
        rip=pending.cpu.rip,
        symbol=pending.symbol,
        code=pending.code,
        text=_text(pending),
        cr2=pending.transfer.linear,
        error_code=0,
        via=pending.via,
        accesses=[access],
        before={},
        after={},
        cause=pending.cause,
    )
    return Event(pending.seq, record, access, phase, named, device=_owners(pending)[0])


def _owners(pending: Pending) -> tuple[str, ...]:
    transfer = pending.transfer
    if transfer.region is None:
        return (UNASSIGNED,) if transfer.place is None else (transfer.place[0],)
    return transfer.region.owners


def _text(pending: Pending) -> str:
    if pending.insn is not None:
        return pending.insn.text
    space = pending.transfer.space
    kind = Input.IRQ if space == "msi" else KIND_OF_SPACE.get(space)
    if kind is None:
        return "(bad)" if pending.code else "(not known)"
    return mnemonic_of(kind, pending.transfer.direction)


_OF_PENDING: Mapping[str, Callable[[PendingFacts], Fact]] = {
    "value": lambda live: live.pending.transfer.value,
    "offset": lambda live: located(live.pending.transfer)[1],
    "width": lambda live: live.pending.transfer.width,
    "extent": lambda live: max(live.pending.transfer.width, 1),
    "address": lambda live: live.pending.transfer.physical,
    "linear": lambda live: live.pending.transfer.linear,
    "space": lambda live: live.pending.transfer.space,
    "port": lambda live: live.in_space("port"),
    "msr": lambda live: live.in_space("msr"),
    "leaf": lambda live: low(live.in_space("cpuid")),
    "subleaf": lambda live: high(live.in_space("cpuid")),
    "region": lambda live: located(live.pending.transfer)[0],
    OWNERS: lambda live: live.owners,
    "device": lambda live: live.owners[0],
    "register": lambda live: "" if live.named is None else live.named.text,
    COVERED: lambda live: covered(live.named),
    "direction": lambda live: live.pending.transfer.direction,
    "seq": lambda live: live.pending.seq,
    "mnemonic": lambda live: mnemonic(live.pending.insn.text) if live.pending.insn else "",
    "via": lambda live: live.pending.via,
    "data": lambda live: live.in_message(live.pending.transfer.value),
    "cause": lambda live: senders(live.pending.cause) if live.in_space("irq") is not None else (),
    "source": lambda live: senders(live.pending.cause) if live.in_space("msi") is not None else (),
}
