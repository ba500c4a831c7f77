"""A recorded device: what a trace tells of some regions answers a live guest.

A device's registers are played back region by region, in the order of the recording. What a guest
asks for must be what was asked for then; the device itself is never touched.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tracer.access.region import LAPIC, Region
from tracer.errors import Diverged
from tracer.text.amount import counted
from tracer.trace.mask import Mask, kept_bits
from tracer.trace.name import names_region
from tracer.trace.record import Intercept, MemoryAccess, Record, RegionInfo, RegionRecord
from tracer.trace.varying import PASSING, VARYING
from tracer.x86.bus import Direction

VARYING_WRITES = (*VARYING, *PASSING)
"""Bytes that two runs of the same guest write differently: where its RAM is, what time it is."""


@dataclass(frozen=True, slots=True)
class Request:
    """Hold one access as a device sees it; ``value`` is what is written, None for a read.

    ``offset`` is in the region, ``width`` in bytes.
    """

    region: str
    direction: Direction
    offset: int
    width: int
    value: int | None

    def __str__(self) -> str:
        letter = "R" if self.direction == "read" else "W"
        value = "" if self.value is None else f" {self.value:#0{2 + 2 * self.width}x}"
        return f"{letter}{self.width} {self.region}+{self.offset:#x}{value}"


@dataclass(frozen=True, slots=True)
class RecordedAccess:
    """Hold one access of a recording: its number, what was asked, and by which code.

    ``value`` is what was read or written, None where a native step hid it.
    """

    seq: int
    request: Request
    value: int | None
    site: str

    def __str__(self) -> str:
        return f"{self.request} at {self.site}"


@dataclass(frozen=True, slots=True)
class Replayed:
    """Say which regions are answered: by name, device, QEMU's name or glob."""

    wanted: tuple[str, ...]
    bypassed: tuple[str, ...] = ()

    def has(self, name: str, owners: Collection[str], qemu_name: str) -> bool:
        """Tell whether the region of a name, of a device with several, is answered."""

        def named(specs: Iterable[str]) -> bool:
            return any(names_region(s, name, owners) or s == qemu_name for s in specs)

        return named(self.wanted) and not named(self.bypassed)


class RecordedDevice:
    """Answer requests from a recording. Make one with :func:`recorded_device`.

    ``name`` is what the recording is called in messages.
    """

    def __init__(
        self,
        name: str,
        replayed: Replayed,
        accesses: Iterable[RecordedAccess],
        masks: Sequence[Mask] = VARYING_WRITES,
    ) -> None:
        self.name = name
        self.replayed = replayed
        self._masks = tuple(masks)
        self._ahead: defaultdict[str, deque[RecordedAccess]] = defaultdict(deque)
        self._last: dict[str, int] = {}
        self.answered = 0
        for access in accesses:
            self._ahead[access.request.region].append(access)
        self.recorded = sum(map(len, self._ahead.values()))

    @property
    def regions(self) -> frozenset[str]:
        """Return the names of the regions that the recording has accesses to."""
        return frozenset(self._ahead)

    def covers(self, region: Region) -> bool:
        """Tell whether the recording answers in place of a region's device."""
        return self.replayed.has(region.name, region.owners, region.qemu_name)

    def answer(self, request: Request) -> RecordedAccess:
        """Return the recorded access that a request repeats, whose ``value`` a read gets.

        Raises Diverged when the request is not the next one recorded for its region.
        """
        ahead = self._ahead[request.region]
        if not ahead:
            last = self._last.get(request.region)
            where = "has none" if last is None else f"ends with #{last}"
            raise Diverged(
                f"{request.region} is not in the recording any further: {self.name} {where}, the "
                f"guest went on with {request}",
                "its device saw nothing before and cannot take over",
            )
        due = ahead[0]
        if not self._same(due.request, request):
            raise Diverged(
                f"{request.region} diverges from access #{due.seq} of {self.name}: recorded {due}, "
                f"the guest made {request}",
                _advice(due.request, request),
            )
        if request.direction == "read" and due.value is None:
            raise Diverged(
                f"access #{due.seq} of {self.name} has no value to answer {request}",
                "it was natively stepped; record again with an emulated instruction",
            )
        ahead.popleft()
        self._last[request.region] = due.seq
        self.answered += 1
        return due

    def finish(self) -> None:
        """Raise Diverged when the guest ended before the recording did."""
        left = [ahead[0] for ahead in self._ahead.values() if ahead]
        if left:
            due = min(left, key=lambda access: access.seq)
            count = self.recorded - self.answered
            raise Diverged(
                f"the guest ended {counted(count, 'access')} before {self.name} did: the next "
                f"recorded is #{due.seq}, {due}, the guest made none",
                "record again if that is meant",
            )

    def _same(self, due: Request, request: Request) -> bool:
        place = (due.direction, due.offset, due.width)
        if place != (request.direction, request.offset, request.width):
            return False
        if due.value is None or request.value is None or due.value == request.value:
            return True
        kept = kept_bits(self._masks, request.region, request.offset, request.width)
        return due.value & kept == request.value & kept


def _advice(due: Request, request: Request) -> str:
    if (due.direction, due.offset, due.width) == (
        request.direction, request.offset, request.width,
    ):  # fmt: skip
        end = request.offset + request.width - 1
        return f"if the value may vary: --mask {request.region}+{request.offset:#x}-{end:#x}"
    return "record again if that is meant"


def recorded_device(
    name: str,
    records: Iterable[Record],
    replayed: Replayed,
    masks: Sequence[Mask] = VARYING_WRITES,
) -> RecordedDevice:
    """Return the device that a trace's records tell of.

    Raises ValueError, saying what is wrong, when the trace has no access to what is wanted, or
    when that cannot be answered from a recording.
    """
    known: dict[str, RegionInfo] = {}
    seen: set[str] = set()
    accesses: list[RecordedAccess] = []
    shared: dict[Any, Any] = {}
    for record in records:
        if isinstance(record, RegionRecord):
            known[record.region.name] = record.region
        elif isinstance(record, Intercept):
            for seq, access in record.device_accesses():
                region = access.region or ""
                seen.add(region)
                if _answered(replayed, region, known):
                    accesses.append(_recorded(record, seq, access, region, shared))
    if any(access.request.region == LAPIC for access in accesses):
        raise ValueError("interrupts come from the lapic, not from a recording; --bypass lapic")
    for spec in replayed.wanted:
        one = Replayed((spec,), replayed.bypassed)
        if not any(_answered(one, region, known) for region in seen):
            have = ", ".join(sorted(seen)) or "none at all"
            raise ValueError(f"{name} has no access to {spec}; it has accesses to: {have}")
    return RecordedDevice(name, replayed, accesses, masks)


def _answered(replayed: Replayed, region: str, known: dict[str, RegionInfo]) -> bool:
    info = known.get(region)
    if info is None:
        return replayed.has(region, (), region)
    return replayed.has(info.name, info.owners, info.qemu_name)


# Values that many accesses have alike are held once: `shared` gives the first that was equal.
def _recorded(
    record: Intercept, seq: int, access: MemoryAccess, region: str, shared: dict[Any, Any]
) -> RecordedAccess:
    request = Request(
        region=region,
        direction=access.direction,
        offset=access.offset or 0,
        width=access.width,
        value=access.value if access.direction == "write" else None,
    )
    request, site = shared.setdefault(request, request), shared.setdefault(record.site, record.site)
    return RecordedAccess(seq, request, access.value, site)
