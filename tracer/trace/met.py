"""What a trace has that filters can name, and whether it has what is asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from tracer.devices.map import RegisterMap, fits_register
from tracer.errors import UsageError, advice, suggestion
from tracer.text.printable import printable
from tracer.trace.marker import Stretch
from tracer.trace.mask import Mask
from tracer.trace.phase import PHASES
from tracer.trace.record import Intercept, Record, RegionRecord
from tracer.trace.selection import RegionNamed, Selection, Span, names_symbol


@dataclass(slots=True)
class Met:
    """Collect what a trace has that filters can name.

    ``regions`` have the lowest and the highest physical address that can be theirs, as far as it
    is told. ``functions`` are those that made accesses.
    """

    regions: dict[str, Span] = field(default_factory=dict)
    functions: set[str] = field(default_factory=set)
    phases: set[str] = field(default_factory=set)

    def add(self, record: Record, phase: str | None) -> None:
        """Take the next record, made in this phase."""
        if isinstance(record, RegionRecord):
            region = record.region
            self._extend(region.name, int(region.start, 16), int(region.end, 16))
        elif isinstance(record, Intercept):
            for access in record.accesses:
                if access.region is not None:
                    # An access that covers its beginning hides where that is.
                    base = int(access.physical, 16) - int(access.offset or access.physical, 16)
                    self._extend(access.region, base if access.offset else None, None)
            if record.symbol is not None:
                self.functions.add(record.symbol.partition("+")[0])
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
            self.functions | other.functions,
            self.phases | other.phases,
        )


def check_names(
    chosen: Selection,
    met: Met,
    map_of: Callable[[str], RegisterMap | None],
    named: RegionNamed,
    trace: str,
) -> None:
    """Raise :exc:`UsageError` when nothing has what is asked for by its name, or the offset.

    ``map_of`` returns the map of a region's registers if it has one; ``named`` tells whether a
    pattern names a region.
    """
    pattern, regions = chosen.region, met.regions
    if pattern is not None and not any(named(pattern, name) for name in regions):
        raise UsageError(f"no region of {trace} is called {pattern}{advice(pattern, regions)}")
    lasts = {
        name: met.last_offset(name) for name in regions if pattern is None or named(pattern, name)
    }
    _check_offset(chosen.offset, lasts, trace)
    _check_function(chosen.symbol, met.functions, trace)
    phases = {*met.phases, *PHASES}
    if chosen.phase is not None and not any(fnmatchcase(name, chosen.phase) for name in phases):
        raise UsageError(f"{trace} has no phase {chosen.phase}{advice(chosen.phase, phases)}")
    if chosen.register is not None:
        inside = [region for region in regions if pattern is None or named(pattern, region)]
        _check_register(chosen.register, inside, map_of, trace)


def check_rules(rules: Iterable[Mask], met: Met, trace: str) -> None:
    """Raise :exc:`UsageError` when a rule names bytes that no region of the trace has."""
    for rule in rules:
        named = [name for name in met.regions if fnmatchcase(name, rule.region)]
        if not named:
            hint = advice(rule.region, met.regions)
            raise UsageError(f"no region of {trace} is called {rule.region}{hint}")
        _check_offset(Span(rule.first, rule.last), {n: met.last_offset(n) for n in named}, trace)


def _check_offset(wanted: Span | None, lasts: Mapping[str, int | None], trace: str) -> None:
    ends = {name: last for name, last in lasts.items() if last is not None}
    if wanted is None or wanted.first is None or not ends or len(ends) < len(lasts):
        return
    name = max(ends, key=lambda name: ends[name])
    if wanted.first > ends[name]:
        raise UsageError(f"{name} of {trace} ends at offset {ends[name]:#x}")


def _check_function(pattern: str | None, functions: Collection[str], trace: str) -> None:
    if pattern is None:
        return
    name = pattern.partition("+")[0]
    if not any(names_symbol(name, function) for function in functions):
        hint = suggestion(name, functions)
        raise UsageError(f"no access of {trace} is by a function called {name}{hint}")


def _check_register(
    pattern: str, regions: Iterable[str], map_of: Callable[[str], RegisterMap | None], trace: str
) -> None:
    maps: list[RegisterMap] = []
    for region in regions:
        found = map_of(region)
        if found is None:
            continue
        if _has_register(pattern, region, found):
            return
        maps.append(found)
    hint = advice(pattern, {name for found in maps for name in found.names()})
    raise UsageError(f"no register of {trace} is called {pattern}{hint}")


def check_marks(stretch: Stretch, trace: str) -> None:
    """Raise :exc:`UsageError` when the trace, read to its end, has not the marks asked for."""
    if stretch.missing:
        known = ", ".join(printable(text[:40]) for text in stretch.known) or "none at all"
        after = " after the other" if stretch.open and stretch.bounded else ""
        raise UsageError(
            f"no mark of {trace}{after} has {stretch.missing[0]!r} in it; its marks: {known}"
        )


def _has_register(pattern: str, region: str, found: RegisterMap) -> bool:
    bare = pattern.removeprefix(f"{region}.").partition("+")[0]
    return bool(found.find(bare)) or any(
        fits_register(pattern, region, name) for name in found.names()
    )
