"""What a comparison of a trace with QEMU's own log finds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tracer.check.qemu_log import LogEntry
from tracer.text.amount import counted
from tracer.x86.bus import Direction

Kind = Literal["missing", "extra", "different"]
"""What is wrong: QEMU saw an access that the trace lacks; the trace has one that QEMU did not see;
both have one, and they differ."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Tell where accesses lie that are not known one by one: ``size`` bytes from ``address`` on."""

    direction: Direction
    address: int
    size: int


@dataclass(frozen=True, slots=True)
class TracedAccess:
    """Hold one device access of a trace; ``address`` is physical, ``width`` in bytes.

    Where ``width`` is 0 it is any number of accesses that lie ``within`` some extents: as many
    device accesses of one instruction as there are extents. Where the vCPU's own access goes
    beyond, over the end of a page or of a device, ``whole`` is its physical address as seen from
    here, and its width; ``pieces`` counts the records of what is here. ``cause`` is what sent an
    interrupt, ``message`` the address and data of the message that it came of, an address of 0 and
    None where these are not known.
    """

    seq: int
    site: str
    text: str
    by_vcpu: bool
    direction: Direction
    address: int
    width: int
    value: int | None
    within: tuple[Extent, ...] = ()
    whole: tuple[int, int] | None = None
    pieces: int = 1
    cause: str | None = None
    message: tuple[int, int | None] | None = None

    @property
    def count(self) -> int:
        """Return how many device accesses of the trace this is."""
        return len(self.within) or self.pieces


@dataclass(frozen=True, slots=True)
class Difference:
    """Hold what the trace and the log have in one place, and the last access they agreed on."""

    kind: Kind
    region: str
    traced: TracedAccess | None
    logged: tuple[LogEntry, ...]
    after_seq: int | None


@dataclass(slots=True)
class RegionComparison:
    """Count the accesses of one region: ``traced`` by vetrace, ``witnessed`` by QEMU."""

    traced: int = 0
    witnessed: int = 0
    missing: int = 0
    extra: int = 0
    different: int = 0


@dataclass(frozen=True, slots=True)
class Cut:
    """Tell where a log is cut: the disk was full, or the file is not whole.

    ``line`` is the number of its last line, or of the first one that is not whole. ``accesses``
    counts those at the end of the trace, from number ``seq`` on, that come after all that the log
    tells: they are counted as extra, and say nothing.
    """

    line: int
    accesses: int
    seq: int | None = None

    def __str__(self) -> str:
        if not self.line:
            return "the log is cut: it is empty"
        return (
            f"the log is cut at its line {self.line:,}, {counted(self.accesses, 'access')} before "
            "the trace ends: was the disk full?"
        )


@dataclass(slots=True)
class Comparison:
    """Hold the counts per traced region and the first differences.

    ``messages`` counts the MSI writes that were left out, ``sources`` whose they were, with None
    for those that nobody was told to send, ``firmware`` what vCPUs did for it after
    the kernel's entry, ``entries`` all entries of the log that
    were read, whatever their region. ``marked`` tells that the trace said where in the log to
    begin. ``switched`` names the regions that were traced for a part of the run only: nothing of
    them is compared. ``overlooked`` counts what QEMU saw vCPUs access in memory beside the traced
    regions, by region, and ``unwitnessed`` the records of which QEMU logs nothing, by space.
    ``attributed`` counts the interrupts whose cause is what the log's messages tell,
    ``misattributed`` those that have another one; neither has those of unknown cause.
    ``unrecorded`` counts the log's messages that no record of the trace stands for.
    ``absent`` counts what QEMU saw of PCI configuration space where no function is, and ``late``
    the interrupts that QEMU gave the guest further on than where they came. Where the log is
    ``cut`` the counts tell of what comes before.
    """

    regions: dict[str, RegionComparison] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    messages: int = 0
    sources: dict[str | None, int] = field(default_factory=dict)
    firmware: int = 0
    entries: int = 0
    marked: bool = False
    switched: list[str] = field(default_factory=list)
    overlooked: dict[str, int] = field(default_factory=dict)
    unwitnessed: dict[str, int] = field(default_factory=dict)
    attributed: int = 0
    misattributed: int = 0
    unrecorded: int = 0
    absent: int = 0
    late: int = 0
    cut: Cut | None = None

    @property
    def traced(self) -> int:
        """Return how many device accesses of the trace were compared."""
        return sum(region.traced for region in self.regions.values())

    @property
    def compared_regions(self) -> int:
        """Return how many regions had an access on either side."""
        return sum(bool(region.traced or region.witnessed) for region in self.regions.values())

    @property
    def missing(self) -> int:
        """Return how many accesses QEMU saw that the trace lacks."""
        return sum(region.missing for region in self.regions.values())

    @property
    def extra(self) -> int:
        """Return how many accesses the trace has that QEMU did not see."""
        return sum(region.extra for region in self.regions.values())

    @property
    def different(self) -> int:
        """Return how many accesses are told differently."""
        return sum(region.different for region in self.regions.values())

    @property
    def telling(self) -> list[Difference]:
        """Return the differences that were kept, but for what comes after the end of the log."""
        end = None if self.cut is None else self.cut.seq
        if end is None:
            return self.differences
        return [d for d in self.differences if d.traced is None or d.traced.seq < end]

    @property
    def agrees(self) -> bool:
        """Tell whether both sides agree; a comparison of nothing, or with half a log, does not."""
        faults = self.missing or self.extra or self.different
        return self.traced > 0 and self.cut is None and not faults


_LATE = 100
"""One of so many interrupts may come late."""


def excuse_late(comparison: Comparison, region: str, disputed: Sequence[Difference]) -> None:
    """Take interrupts for late ones that QEMU has given a guest at another place; few can be that.

    In a machine of several vCPUs a vCPU's thread and others change what is due to it at once,
    without a lock, so that a virtual interrupt may be forgotten until the guest leaves again (QEMU
    7.2, helper_vmrun and cpu_interrupt: ``interrupt_request``). It is the same one, elsewhere.
    """
    counts = comparison.regions.get(region)
    late = list(_late(disputed))
    if counts is None or _LATE * len(late) > counts.traced:
        return
    for parts in late:
        for each in parts:
            setattr(counts, each.kind, getattr(counts, each.kind) - 1)
            if each in comparison.differences:
                comparison.differences.remove(each)
    comparison.late = len(late)


def _late(disputed: Sequence[Difference]) -> Iterator[tuple[Difference, ...]]:
    # Yields what tells of one late interrupt: a difference, or one too many on both sides.
    halves: dict[tuple[str, int | None], list[Difference]] = {}
    for each in disputed:
        traced = None if each.traced is None else each.traced.value
        logged = each.logged[0].value if len(each.logged) == 1 else None
        if each.kind == "different":
            if traced == logged:
                yield (each,)
            continue
        missing = each.kind == "missing"
        vector = logged if missing else traced
        others = halves.get(("extra" if missing else "missing", vector))
        if others:
            yield others.pop(), each
        else:
            halves.setdefault((each.kind, vector), []).append(each)
