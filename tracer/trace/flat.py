"""Device accesses as flat values: numbers as numbers, one value an access, nothing to look up.

They are what Python sees of a run, and the rows of tables.
"""

from __future__ import annotations

from dataclasses import dataclass

from tracer.trace.event import Event
from tracer.trace.member import Space, Via
from tracer.trace.record import Record, StackRecord
from tracer.x86.bus import Direction


@dataclass(frozen=True, slots=True)
class Access:
    """Hold one device access and the instruction that made it.

    ``seq`` is its number in the trace, ``time_ns`` the guest's time. ``rip`` is linear,
    ``physical`` the address on the bus, ``offset`` that within the region; in another ``space``
    than memory ``physical`` is the number of a port, the index of an MSR, or a leaf of CPUID and
    from bit 32 on its subleaf; ``width`` and
    ``extent`` are in bytes. ``code`` are the instruction's bytes, ``text`` is what they mean,
    ``register`` the name of what is accessed, ``device`` that of the device which the region
    belongs to. ``value`` is what the instruction read or wrote; a ``device_value`` is what the
    device had where a person or a script changed it, and an access that is ``skipped`` never
    reached it. ``stack`` has the call sites under way, the innermost first, where stacks were
    recorded. ``mark`` is the last marker before it, ``lost`` how many events a log lost before it.
    ``cause`` is what sent an interrupt, ``source`` what sent a message (MSI), whose ``value`` is
    its data. ``note`` is what else is worth saying, ``agrees`` whether what a confidential guest
    asked for is what its instruction makes. What is not known is None.
    """

    seq: int
    time_ns: int
    phase: str | None
    vcpu: int
    cpl: int
    rip: int
    symbol: str | None
    code: bytes
    text: str
    device: str
    region: str | None
    offset: int | None
    register: str | None
    physical: int
    width: int
    extent: int | None
    direction: Direction
    value: int | None
    via: Via
    device_value: int | None
    skipped: bool
    stack: tuple[str, ...] | None
    mark: str | None
    lost: int | None
    space: Space = "memory"
    cause: str | None = None
    source: str | None = None
    note: str | None = None
    agrees: bool | None = None

    @property
    def function(self) -> str | None:
        """Return the name of the function that made the access."""
        return None if self.symbol is None else self.symbol.partition("+")[0]


class Stacks:
    """Keep the call chains of a run: each is told once, and named by number from there on."""

    def __init__(self) -> None:
        self._chains: dict[int, tuple[str, ...]] = {}

    def learn(self, record: Record) -> None:
        """Take the call chain that a record tells, if it does."""
        if isinstance(record, StackRecord):
            frames = (frame.site for frame in record.frames)
            self._chains[record.id] = tuple(frames)

    def of(self, number: int | None) -> tuple[str, ...] | None:
        """Return the call chain of a number, the innermost call site first."""
        return None if number is None else self._chains.get(number)

    def sites(self) -> frozenset[str]:
        """Return all call sites of all chains."""
        return frozenset(site for chain in self._chains.values() for site in chain)


def flat(event: Event, stacks: Stacks) -> Access:
    """Return one access as a flat value."""
    record, access = event.record, event.access
    return Access(
        seq=event.seq,
        time_ns=record.time_ns,
        phase=event.phase,
        vcpu=record.vcpu,
        cpl=record.cpl,
        rip=record.rip,
        symbol=record.symbol,
        code=record.code,
        text=record.text,
        device=event.device,
        region=access.region,
        offset=access.offset,
        register=event.named.text if event.named is not None else None,
        physical=access.physical,
        width=access.width,
        extent=access.extent,
        direction=access.direction,
        value=access.value,
        via=record.via,
        device_value=access.device,
        skipped=access.skipped,
        stack=stacks.of(record.stack),
        mark=event.mark,
        lost=event.lost,
        space=access.space,
        cause=None if access.space == "msi" else record.cause,
        source=record.cause if access.space == "msi" else None,
        note=record.note,
        agrees=record.agrees,
    )


def check_fits(access: Access) -> None:
    """Raise ValueError at a number of more than 64 bits, which no table's column can hold."""
    numbers = (access.rip, access.offset, access.physical, access.value, access.device_value)
    if any((number or 0) >> 64 for number in numbers) or (access.lost or 0) >> 63:
        raise ValueError(f"access {access.seq}: a number of more than 64 bits fits no column")
