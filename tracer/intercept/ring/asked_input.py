"""An input that somebody is asked about, from what the monitor says of it to its record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from tracer.access.decision import Give
from tracer.access.recorded import memory_access
from tracer.access.space import AddressSpace
from tracer.access.transfer import Meddling, Transfer
from tracer.compiled.inputs import Given, Input, state_behind
from tracer.compiled.message import Message
from tracer.compiled.ring import Raw
from tracer.trace.inputs import (
    CHANGED,
    LEFT_OUT,
    RAISED,
    accesses_made,
    message_access,
    mnemonic_of,
)
from tracer.trace.marker import rule_note
from tracer.trace.record import Intercept, MemoryAccess
from tracer.trace.registers import changed_values, register_values
from tracer.x86.bus import Direction
from tracer.x86.instruction import Instruction
from tracer.x86.state import CpuState

Find = Callable[[int, Direction], tuple[str, int] | None]
"""Returns the region that a port is in, and its offset there, None where it is in none."""


@dataclass(slots=True)
class AskedInput:
    """Hold one input under way on a vCPU, and what has become of it so far.

    ``raw`` is the monitor's record, and ``says`` what that says. ``insn`` is None for an interrupt,
    and where the code is another one's by now. It may be ``for_handler``: one of a confidential
    guest has asked for it. An interrupt has a ``cause``, and a ``message`` where one sent it.
    """

    vcpu: int
    kind: Input
    raw: Raw
    says: Given
    cpu: CpuState
    space: AddressSpace
    insn: Instruction | None
    symbol: str | None
    transfers: tuple[Transfer, ...]
    for_handler: bool
    message: Message | None
    cause: str | None
    meddled: dict[int, Meddling] = field(default_factory=dict)
    ruled: list[str] = field(default_factory=list)
    given: dict[int, int] = field(default_factory=dict)
    skipped: bool = False

    @property
    def code(self) -> bytes:
        """Return the instruction's bytes."""
        return b"" if self.insn is None else self.insn.code

    def skip(self) -> None:
        """Have no device be accessed."""
        self.skipped = True
        self.meddled = dict.fromkeys(range(len(self.transfers)), Meddling(skipped=True))

    def take(self, number: int, give: Give) -> None:
        """Have a read be answered; further registers of a CPUID may be told with the first."""
        values = (give.value, *give.rest)
        self.given |= dict(zip(range(number, len(self.transfers)), values, strict=False))
        self.ruled.append(give.by)

    def to_device(self, number: int) -> Transfer:
        """Return a transfer with what its device gets."""
        transfer, meddling = self.transfers[number], self.meddled.get(number)
        if meddling is None or meddling.device is None:
            return transfer
        return replace(transfer, value=meddling.device)

    def left(self) -> CpuState:
        """Return what the instruction leaves, which the vCPU has not come to, or is not at."""
        following = self.says.following if self.for_handler else self.cpu.rip
        if self.insn is not None:
            following = self.insn.next_rip
        says = replace(self.says, following=following)
        left = state_behind(self.kind, says, self.cpu, self.insn)
        return replace(self.cpu, gpr=left.gpr, rip=left.rip)

    def accesses(self, made: Sequence[MemoryAccess]) -> list[MemoryAccess]:
        """Return the accesses that were ``made`` with what was done to them."""
        told = []
        for number, access in enumerate(made):
            transfer = replace(self.transfers[number], value=access.value)
            one = memory_access(transfer, self.meddled.get(number))
            told.append(msgspec.structs.replace(one, skipped=one.skipped or access.skipped))
        return told

    def record(
        self, seq: int, time_ns: int, made: list[MemoryAccess], after: CpuState, stack: int | None
    ) -> Intercept:
        """Return its record, whose first access has the number ``seq``."""
        cpu = self.cpu
        raised = RAISED if self.says.manner.raised else None
        changed = (LEFT_OUT if self.skipped else CHANGED) if self.meddled else None
        return Intercept(
            seq=seq,
            time_ns=time_ns,
            vcpu=self.vcpu,
            cpl=cpu.cpl,
            mode=cpu.mode.value,
            rip=cpu.rip,
            symbol=self.symbol,
            code=self.code,
            text=mnemonic_of(self.kind, self.says.direction)
            if self.insn is None
            else self.insn.text,
            cr2=0,
            error_code=0,
            via="monitor",
            accesses=made,
            before=register_values(cpu, self.insn),
            after=changed_values(cpu, after),
            note="; ".join(filter(None, (rule_note(self.ruled), changed, raised))) or None,
            stack=stack,
            thread=self.raw.thread or None,
        )


def made_by(kind: Input, says: Given, message: Message | None, find: Find) -> list[MemoryAccess]:
    """Return the accesses of an input; the message of an interrupt is told before it."""
    made = accesses_made(kind, says, find)
    return made if message is None else [message_access(message), *made]


def transfers_of(kind: Input, says: Given, made: Sequence[MemoryAccess]) -> tuple[Transfer, ...]:
    """Return them as they are before they are made, when nobody knows what will be read."""
    known = says.manner.write or kind is Input.IRQ
    return tuple(
        Transfer(
            access.direction,
            0,
            access.physical,
            access.width,
            access.value if known else None,
            None,
            traced=True,
            ram=False,
            space=access.space,
            place=(access.region or "", access.offset or 0),
        )
        for access in made
    )
