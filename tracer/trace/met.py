"""Collect the names in a trace that filters can have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from tracer.errors import UsageError, advice
from tracer.text.printable import printable
from tracer.text.span import Span
from tracer.trace.marker import Stretch, is_marker
from tracer.trace.mask import Mask
from tracer.trace.record import Intercept, Mark, Record, RegionRecord


@dataclass(slots=True)
class Met:
    """Collect what a trace has that filters can name.

    ``regions`` have the lowest and the highest physical address that can be theirs, as far as it
    is told. ``sites`` are those that made accesses, ``markers`` what markers say; ``registers``
    tells that some accesses have those of the CPU.
    """

    regions: dict[str, Span] = field(default_factory=dict)
    sites: set[str] = field(default_factory=set)
    phases: set[str] = field(default_factory=set)
    markers: set[str] = field(default_factory=set)
    registers: bool = False
    # Beginnings of regions that were met: a trace tells each again and again.
    _seen: set[tuple[str, int | None]] = field(default_factory=set, repr=False, compare=False)

    def add(self, record: Record, phase: str | None) -> None:
        """Take the next record, made in this phase."""
        if isinstance(record, Intercept):
            for access in record.accesses:
                if access.region is not None:
                    # An access that covers its beginning hides where that is.
                    offset = access.offset
                    base = None if offset is None else access.physical - offset
                    if access.space not in ("memory", "port"):
                        base = None  # offsets are no bytes from an address there
                    if (access.region, base) not in self._seen:
                        self._seen.add((access.region, base))
                        self._extend(access.region, base, None)
            if record.symbol is not None:
                self.sites.add(record.symbol)
            if not self.registers and record.before:
                self.registers = True
        elif isinstance(record, RegionRecord):
            region = record.region
            self._extend(region.name, region.start, region.end)
        elif isinstance(record, Mark) and is_marker(record):
            self.markers.add(record.text)
        if phase is not None:
            self.phases.add(phase)

    def _extend(self, region: str, first: int | None, last: int | None) -> None:
        known = self.regions.get(region, Span())
        firsts = [end for end in (known.first, first) if end is not None]
        lasts = [end for end in (known.last, last) if end is not None]
        self.regions[region] = Span(min(firsts, default=None), max(lasts, default=None))

    def last_offset(self, region: str) -> int | None:
        """Return the offset of a region's last byte, None where it is not told."""
        span = self.regions.get(region, Span())
        return None if span.first is None or span.last is None else span.last - span.first

    def joined(self, other: Met) -> Met:
        """Return what two traces have."""
        regions = {
            name: span
            for name, span in (self.regions | other.regions).items()
            if name not in self.regions or other.regions.get(name, span) == self.regions[name]
        }
        unlike = dict.fromkeys((*self.regions, *other.regions), Span())
        return Met(
            unlike | regions,
            self.sites | other.sites,
            self.phases | other.phases,
            self.markers | other.markers,
            self.registers or other.registers,
        )


def check_rules(rules: Iterable[Mask], met: Met, trace: str) -> None:
    """Raise :exc:`UsageError` when a rule names bytes that no region of the trace has."""
    for rule in rules:
        named = [name for name in met.regions if fnmatchcase(name, rule.region)]
        if not named:
            hint = advice(rule.region, met.regions)
            raise UsageError(f"no region of {trace} is called {rule.region}{hint}")
        wrong = check_offset(rule.first, {n: met.last_offset(n) for n in named}, trace)
        if wrong:
            raise UsageError(wrong)


def check_offset(first: int | None, lasts: Mapping[str, int | None], trace: str) -> str:
    """Return what is wrong with an offset, or an empty text where a region may have it.

    ``lasts`` are the offsets of the regions' last bytes.
    """
    ends = {name: last for name, last in lasts.items() if last is not None}
    if first is None or not ends or len(ends) < len(lasts):
        return ""
    name = max(ends, key=lambda name: ends[name])
    return f"{name} of {trace} ends at offset {ends[name]:#x}" if first > ends[name] else ""


def check_marks(stretch: Stretch, trace: str) -> None:
    """Raise :exc:`UsageError` when the trace, read to its end, has not the marks asked for."""
    if stretch.missing:
        known = ", ".join(printable(text[:40]) for text in stretch.known) or "none at all"
        after = " after the other" if stretch.open and stretch.bounded else ""
        raise UsageError(
            f"no mark of {trace}{after} has {stretch.missing[0]!r} in it; its marks: {known}"
        )
