"""The filters that every command over a trace's accesses has in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from tracer.cli.parser import argument
from tracer.devices import library
from tracer.devices.map import RegisterMap, RegisterMaps, fits_register
from tracer.errors import UsageError, advice, suggestion
from tracer.text.number import ends, nanoseconds, open_ends, whole
from tracer.text.printable import printable
from tracer.trace.marker import Stretch
from tracer.trace.mask import Mask
from tracer.trace.phase import PHASES
from tracer.trace.record import Intercept, Record, RegionRecord
from tracer.trace.selection import Match, RegionNamed, Selection, Span, names_symbol


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Declare the filters; :func:`selection` reads them."""
    group = parser.add_argument_group(
        "filters", "only accesses that meet all of these; numbers may be hexadecimal (0x10)"
    )
    group.add_argument("--region", metavar="R", help="its name, its device's name, or a glob")
    group.add_argument(
        "--offset", metavar="O[-O]", type=_offsets, help="touching these bytes of the region"
    )
    group.add_argument(
        "--register", metavar="NAME", help="its name, as in CC or nvme.CC, or a glob: TIMER*"
    )
    direction = group.add_mutually_exclusive_group()
    direction.add_argument(
        "--read", dest="direction", action="store_const", const="read", help="reads"
    )
    direction.add_argument(
        "--write", dest="direction", action="store_const", const="write", help="writes"
    )
    group.add_argument(
        "--value", metavar="V[/MASK]", type=_match, help="having V in the bits of MASK"
    )
    group.add_argument(
        "--changes", action="store_true", help="with another value than the one before it there"
    )
    group.add_argument("--symbol", metavar="S", help="from this function or call site, or a glob")
    group.add_argument("--vcpu", metavar="N", type=_vcpu, help="by this vCPU")
    group.add_argument(
        "--time", metavar="[S]-[S]", type=_seconds, help="in these seconds of guest time"
    )
    group.add_argument(
        "--phase", metavar="P", help="in this phase: `vetrace stats` lists them; or a glob"
    )
    group.add_argument(
        "--from-mark", metavar="TEXT",
        help="after the first mark that has TEXT in it (or fits it as a glob)",
    )  # fmt: skip
    group.add_argument("--to-mark", metavar="TEXT", help="before the first such mark after that")
    add_register_files(parser)


def add_register_files(parser: argparse.ArgumentParser) -> None:
    """Declare the files that describe registers; :func:`register_maps` reads them."""
    parser.add_argument(
        "--registers", metavar="FILE", type=Path, action="append", default=[],
        help="name a device's registers as this file says (docs/registers.md); again for more",
    )  # fmt: skip


def register_maps(args: argparse.Namespace) -> RegisterMaps:
    """Return the maps that name registers: the files asked for, then vetrace's own."""
    return library.load(args.registers)


def selection(args: argparse.Namespace) -> Selection:
    """Return what the filters on the command line say."""
    return Selection(
        region=args.region,
        register=args.register,
        symbol=args.symbol,
        direction=args.direction,
        offset=args.offset,
        value=args.value,
        vcpu=args.vcpu,
        time=args.time,
        phase=args.phase,
        changes=args.changes,
        from_mark=args.from_mark,
        to_mark=args.to_mark,
    )


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


@argument
def _vcpu(text: str) -> int:
    return whole(text, "vCPU")


@argument
def _offsets(text: str) -> Span:
    return Span(*ends(text, partial(whole, what="offset", bits=64)))


@argument
def _seconds(text: str) -> Span:
    if "-" not in text:
        raise UsageError(f"{text} is no span: 0.5-2, 0.5- and -2 are")
    return Span(*open_ends(text, nanoseconds))


@argument
def _match(text: str) -> Match:
    value, slash, mask = text.partition("/")
    match = Match(whole(value), whole(mask)) if slash else Match(whole(value))
    if match.value & ~match.mask:
        raise UsageError(f"{text} has bits outside its mask: nothing can fit")
    return match
