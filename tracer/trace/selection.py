"""Choose among the device accesses of a trace."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tracer.devices.map import Named, RegisterMap, RegisterMaps, names_register
from tracer.trace.marker import Stretch, is_marker
from tracer.trace.naming import Naming
from tracer.trace.phase import PhaseTracker
from tracer.trace.record import (
    Intercept,
    LostRecord,
    Mark,
    MemoryAccess,
    Record,
    RegionRecord,
    UserRecord,
)
from tracer.x86.bus import Direction

RegionNamed = Callable[[str, str], bool]
"""Tell whether a pattern names a region of a name."""


@dataclass(frozen=True, slots=True)
class Span:
    """Hold a range of numbers, both ends included; an end that is None is open."""

    first: int | None = None
    last: int | None = None

    def __contains__(self, number: int) -> bool:
        return (self.first is None or self.first <= number) and (
            self.last is None or number <= self.last
        )

    def meets(self, start: int, size: int) -> bool:
        """Tell whether any of ``size`` numbers from ``start`` on lies in the range."""
        return (self.first is None or self.first < start + size) and (
            self.last is None or start <= self.last
        )


@dataclass(frozen=True, slots=True)
class Match:
    """Say which values are wanted: those that have ``value`` in the bits of ``mask``."""

    value: int
    mask: int = (1 << 64) - 1

    def fits(self, value: int) -> bool:
        """Tell whether a value is wanted."""
        return not (value ^ self.value) & self.mask


@dataclass(frozen=True, slots=True)
class Selection:
    """Say which device accesses are wanted; a criterion that is None lets all of them pass.

    ``offset`` is in bytes from the region's start and fits an access that touches any byte of it;
    ``time`` is in nanoseconds of guest time. ``changes`` wants an access only when its value is
    not that of the one before it to the same place in the same direction; it is applied last.
    An access whose value is not known has no value that could be wanted, and is always a change.
    ``register`` is a register's name or a glob: see :func:`tracer.devices.map.names_register`.
    ``from_mark`` and ``to_mark`` bound a stretch of the trace: see
    :class:`tracer.trace.marker.Stretch`.
    """

    region: str | None = None
    register: str | None = None
    symbol: str | None = None
    direction: Direction | None = None
    offset: Span | None = None
    value: Match | None = None
    vcpu: int | None = None
    time: Span | None = None
    phase: str | None = None
    changes: bool = False
    from_mark: str | None = None
    to_mark: str | None = None

    def wants(
        self, record: Intercept, access: MemoryAccess, named: RegionNamed | None = None
    ) -> bool:
        """Tell whether a device access meets each criterion that needs no access but this one.

        Not ``phase``, ``register``, ``changes`` and the marks. ``named`` tells whether a pattern
        names a region, by default from the region's own name.
        """
        return (
            self._wants_moment(record)
            and self._wants_access(access, named)
            and (self.symbol is None or names_symbol(self.symbol, record.symbol))
        )

    def wants_user(self, record: UserRecord, named: RegionNamed | None = None) -> bool:
        """Tell whether what a person did is wanted: its moment, and its accesses if it made some.

        Not ``phase``, ``register`` and the marks.
        """
        made = record.accesses
        return self._wants_moment(record) and (
            not made or any(self._wants_access(access, named) for access in made)
        )

    def _wants_moment(self, record: Intercept | UserRecord) -> bool:
        return (self.vcpu is None or record.vcpu == self.vcpu) and (
            self.time is None or record.time_ns in self.time
        )

    def _wants_access(self, access: MemoryAccess, named: RegionNamed | None) -> bool:
        named = named or names_region
        return (
            (self.direction is None or access.direction == self.direction)
            and (self.region is None or named(self.region, access.region or ""))
            and (self.offset is None or _touches(self.offset, access))
            and (self.value is None or _has(self.value, access))
        )


class RegionNames:
    """Learn from a trace which devices its regions belong to, for patterns that name these."""

    def __init__(self) -> None:
        self._owners: dict[str, tuple[str, ...]] = {}
        self._found: dict[tuple[str, str], bool] = {}

    def learn(self, record: Record) -> None:
        """Take the names of its devices from the record that announces a region."""
        if isinstance(record, RegionRecord):
            self._owners[record.region.name] = record.region.owners
            self._found.clear()

    def named(self, pattern: str, region: str) -> bool:
        """Tell whether a pattern names a region: see :func:`names_region`."""
        key = pattern, region
        if key not in self._found:
            owners = self._owners.get(region, ())
            self._found[key] = names_region(pattern, region, owners)
        return self._found[key]


class Sieve:
    """Apply a selection to the records of a trace as they come.

    ``phase`` is the phase of the last record, ``named`` has the registers of those of its accesses
    that are wanted, in their order; without ``maps`` none has a name. ``regions`` tells which
    region a pattern names, ``stretch`` how far the trace has come between its marks. Memory grows
    with the places accessed, not with the accesses.
    """

    def __init__(self, selection: Selection, maps: RegisterMaps | None = None) -> None:
        self.selection = selection
        self.named: list[Named | None] = []
        self.regions = RegionNames()
        self.stretch = Stretch(selection.from_mark, selection.to_mark)
        self._phases = PhaseTracker()
        self._naming = Naming(maps or RegisterMaps())
        self._fits: dict[tuple[str | None, Named | None], bool] = {}
        self._last: dict[tuple[str | None, str | None, str, int, str | None], str] = {}

    @property
    def phase(self) -> str | None:
        """Return the phase of the last record, None while it is unknown."""
        return self._phases.phase

    def wanted(self, record: Record) -> list[tuple[int, MemoryAccess]]:
        """Return the device accesses of the next record that are wanted, with their numbers."""
        self._phases.add(record)
        self.stretch.add(record)
        self.named = []
        if not isinstance(record, Intercept):
            self._naming.learn(record)
            self.regions.learn(record)
            return []
        fits = self.stretch.open and self._in_phase()
        found = []
        for item in record.device_accesses():
            access = item[1]
            if not self._in_region(access):
                continue
            # Every access of a region is named: what a window shows depends on those before.
            named = self._naming.add(access)
            if (
                fits
                and self.selection.wants(record, access, self.regions.named)
                and self._is_register(access, named)
                and not (self.selection.changes and self._again(access, named))
            ):
                found.append(item)
                self.named.append(named)
        return found

    def wanted_user(self, record: UserRecord) -> bool:
        """Tell whether what a person did is wanted, once :meth:`wanted` has had the record."""
        pattern, chosen = self.selection.register, self.selection
        named = [(access, self._naming.add(access)) for access in record.accesses]
        return (
            self.stretch.open
            and self._in_phase()
            and chosen.wants_user(record, self.regions.named)
            and (pattern is None or not named or any(self._is_register(*pair) for pair in named))
        )

    def wanted_note(self, record: Mark | LostRecord) -> bool:
        """Tell whether a mark or a loss is wanted, once :meth:`wanted` has had the record.

        Of marks only markers are ever left out.
        """
        if isinstance(record, Mark) and not is_marker(record):
            return True
        chosen = self.selection
        return (
            self.stretch.open
            and (chosen.time is None or record.time_ns in chosen.time)
            and (self._in_phase() or (isinstance(record, Mark) and self._opens_phase(record)))
        )

    # A marker of an imported trace is in the phase that it names.
    def _opens_phase(self, mark: Mark) -> bool:
        return fnmatchcase(mark.text, self.selection.phase or "")

    def _in_phase(self) -> bool:
        pattern, phase = self.selection.phase, self.phase
        return pattern is None or (phase is not None and fnmatchcase(phase, pattern))

    def map_of(self, region: str) -> RegisterMap | None:
        """Return the map that a region's registers have their names from, or None."""
        return self._naming.map_of(region)

    def _in_region(self, access: MemoryAccess) -> bool:
        pattern = self.selection.region
        return pattern is None or self.regions.named(pattern, access.region or "")

    def _is_register(self, access: MemoryAccess, named: Named | None) -> bool:
        pattern = self.selection.register
        if pattern is None:
            return True
        key = access.region, named
        if key not in self._fits:
            self._fits[key] = names_register(pattern, access.region or "", named)
        return self._fits[key]

    def _again(self, access: MemoryAccess, named: Named | None) -> bool:
        if access.value is None:
            return False
        shown = None if named is None else named.text
        place = access.region, access.offset, access.direction, access.width, shown
        last, self._last[place] = self._last.get(place), access.value
        return last == access.value


def _touches(span: Span, access: MemoryAccess) -> bool:
    return access.offset is not None and span.meets(int(access.offset, 16), access.span)


def _has(match: Match, access: MemoryAccess) -> bool:
    return access.value is not None and match.fits(int(access.value, 16))


def names_region(pattern: str, region: str, owners: Collection[str] = ()) -> bool:
    """Tell whether ``pattern`` is the region's name, its device's name, or a glob that fits one.

    The device's name is what stands before a dot: ``nvme`` also names ``nvme.msix-table``. Others
    are among the ``owners``: the devices that this one is a part of, and QEMU's types of them.
    """
    return (
        pattern == region
        or region.startswith(f"{pattern}.")
        or fnmatchcase(region, pattern)
        or names_owner(pattern, owners)
    )


def names_owner(pattern: str, owners: Collection[str]) -> bool:
    """Tell whether ``pattern`` is the name of one of the devices, or a glob that fits it."""
    return any(pattern == name or fnmatchcase(name, pattern) for name in owners)


def names_symbol(pattern: str, symbol: str | None) -> bool:
    """Tell whether ``pattern`` is a call site, its function, or a glob that fits either.

    A call site is a function's name and an offset: ``nvme_pci_enable+0x5e``.
    """
    if symbol is None:
        return False
    function = symbol.partition("+")[0]
    return pattern in (symbol, function) or any(
        fnmatchcase(name, pattern) for name in (symbol, function)
    )
