"""An access of a trace as if it waited: for what looks at a guest that stands before one.

The trace has the instruction, the registers before it, and every access that it made: so what it
did can be told as what it is about to do. Of RAM there is nothing but what it accessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tracer.access.decision import Pending
from tracer.access.recorded import state_of
from tracer.access.region import Region, RegionMap
from tracer.access.space import AddressSpace
from tracer.access.transfer import Transfer
from tracer.errors import EmulationError
from tracer.trace.event import Event
from tracer.trace.record import Intercept, MemoryAccess, RegionInfo
from tracer.x86.decode import decode
from tracer.x86.instruction import Instruction
from tracer.x86.paging import Leaf, Paging
from tracer.x86.state import GPR, PAGE_SIZE, CpuState, Mode

_POISON = 1 << 51


class _NoRam:
    # The RAM of a guest that is not there.

    def read(self, physical: int, size: int) -> bytes:
        raise LookupError(physical)

    def write(self, physical: int, data: bytes) -> None:
        raise LookupError(physical)


@dataclass(frozen=True, slots=True)
class RecordedSpace(AddressSpace):
    """Know where linear addresses led as far as the accesses of one record show that."""

    accesses: Sequence[MemoryAccess] = ()

    def leaf(self, linear: int) -> Leaf | None:
        """Return the page of an access that was made there."""
        page = linear & -PAGE_SIZE
        for access in self.accesses:
            if access.space == "memory" and access.linear & -PAGE_SIZE == page:
                return Leaf(
                    linear=page, physical=access.physical & -PAGE_SIZE, size=PAGE_SIZE,
                    entry_address=0, entry=0, poisoned=False, writable=True, user=True,
                )  # fmt: skip
        return None


def region_of(told: RegionInfo) -> Region:
    """Return a region as a guest has it, of what a trace tells of it."""
    return Region(
        name=told.name,
        start=told.start,
        end=told.end,
        base=told.start if told.base is None else told.base,
        device=told.device,
        qemu_name=told.qemu_name,
        within=tuple(told.within),
        types=tuple(told.types),
    )


def pending_of(event: Event, regions: RegionMap) -> Pending:
    """Return a recorded access as one that waits, its value known; ``regions`` are where they were.

    A record without code, as one that was imported, has no ``insn``.
    """
    record = event.record
    insn = _instruction(record)
    cpu = None if insn is None else state_of(record, insn)
    transfers = [_transfer(access, regions) for access in record.accesses]
    at = next(n for n, access in enumerate(record.accesses) if access is event.access)
    space = RecordedSpace(_NoRam(), Paging(0, 4, _POISON), regions, accesses=tuple(record.accesses))
    return Pending(
        seq=event.seq,
        time_ns=record.time_ns,
        vcpu=record.vcpu,
        symbol=record.symbol,
        code=record.code,
        insn=insn,
        cpu=cpu or _rest(record),
        space=space,
        transfer=transfers[at],
        done=tuple(transfers[:at]),
        foretold=tuple(transfers),
        via=record.via,
        why=record.note,
        asked=None if record.asked is None else record.asked.given,
        complete=cpu is not None,
    )


def _instruction(record: Intercept) -> Instruction | None:
    if not record.code:
        return None
    try:
        return decode(record.code, record.rip, Mode(record.mode))
    except EmulationError:
        return None


# The state as far as it is known, where some of its registers are not.
def _rest(record: Intercept) -> CpuState:
    known = record.before
    gpr = tuple([known.get(name, 0) for name in GPR])
    rflags = known.get("rflags", 0)
    return CpuState(gpr, record.rip, rflags, cpl=record.cpl, mode=Mode(record.mode))


def _transfer(access: MemoryAccess, regions: RegionMap) -> Transfer:
    region = regions.find(access.physical) if access.space == "memory" else None
    if region is not None and region.name != access.region:
        region = None
    place = None
    if region is None and access.region is not None and access.offset is not None:
        place = access.region, access.offset
    return Transfer(
        direction=access.direction,
        linear=access.linear,
        physical=access.physical,
        width=access.width,
        value=access.value,
        region=region,
        traced=access.region is not None,
        ram=access.space == "memory" and access.region is None,
        extent=access.extent,
        space=access.space,
        place=place,
    )
