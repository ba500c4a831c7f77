"""Check the names in a condition against those that a trace has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from tracer.devices.map import RegisterMap, fits_register
from tracer.errors import ConditionError, UsageError
from tracer.query.condition import Condition, Expression
from tracer.query.condition.lexicon import Lexicon
from tracer.query.facts import function, module
from tracer.query.words import Selection
from tracer.trace.flat import Stacks
from tracer.trace.marker import Stretch
from tracer.trace.met import Met, check_marks, check_offset
from tracer.trace.name import RegionNames, device_of
from tracer.trace.phase import PHASES

REGISTER_END = re.compile(r"[,+]|\.\.")
"""The end of the first register's name in that of an access."""


@dataclass(frozen=True, slots=True)
class Roster:
    """Hold what traces have.

    ``stretches`` are those between the marks that were asked for, with the trace of each;
    ``can_be_in`` tells whether an access to a region can be wanted.
    """

    met: Met
    trace: str
    regions: tuple[RegionNames, ...]
    stacks: tuple[Stacks, ...]
    stretches: tuple[tuple[str, Stretch], ...]
    map_of: Callable[[str], RegisterMap | None]
    can_be_in: Callable[[str], bool]

    def joined(self, other: Roster) -> Roster:
        """Return what two traces have."""
        return Roster(
            self.met.joined(other.met),
            f"{self.trace} and {other.trace}",
            self.regions + other.regions,
            self.stacks + other.stacks,
            self.stretches + other.stretches,
            lambda region: self.map_of(region) or other.map_of(region),
            lambda region: self.can_be_in(region) or other.can_be_in(region),
        )

    def named(self, pattern: str, region: str) -> bool:
        """Tell whether a pattern names a region."""
        return any(names.named(pattern, region) for names in self.regions)

    def maps(self) -> Iterator[tuple[str, RegisterMap]]:
        """Yield the regions that accesses can be wanted of, each with the map of its registers."""
        for region in filter(self.can_be_in, self.met.regions):
            found = self.map_of(region)
            if found is not None:
                yield region, found

    def sites(self) -> set[str]:
        """Return the call sites of accesses, and those that called them as far as recorded."""
        return self.met.sites.union(*(stacks.sites() for stacks in self.stacks))

    def devices(self) -> set[str]:
        """Return the names of the devices that regions are of."""
        return {
            device_of(region, names.owners(region))
            for region in self.met.regions
            for names in self.regions
        }


def vocabulary(roster: Roster, *, registers: bool = True) -> Mapping[str, Lexicon]:
    """Return what the words of a condition on a trace are checked against.

    Registers are not where the caller knows already that the trace has them.
    """
    met, of = roster.met, f"of {roster.trace}"

    def a_region(pattern: str) -> bool:
        return any(roster.named(pattern, region) for region in met.regions)

    def a_register(pattern: str) -> bool:
        return any(_has(pattern, region, found) for region, found in roster.maps())

    def a_name(name: str) -> bool:
        return any(entry for _, found in roster.maps() for entry in found.find(name))

    functions = frozenset(map(function, met.sites))
    known = {
        "region": Lexicon(f"region {of}", lambda: met.regions, names=a_region),
        "device": Lexicon(f"device {of}", roster.devices),
        "symbol": Lexicon(f"function {of}", lambda: functions, stem=function),
        "function": Lexicon(f"function {of}", lambda: functions),
        "callers": Lexicon(
            f"function {of}", lambda: frozenset(map(function, roster.sites())), stem=function
        ),
        "module": Lexicon(f"module {of}", lambda: set(map(module, met.sites)) - {""}),
        "phase": Lexicon(f"phase {of}", lambda: {*met.phases, *PHASES}),
        "mark": Lexicon(f"mark {of}", lambda: met.markers),
    }
    if registers:
        known["register"] = Lexicon(
            f"register {of}",
            lambda: dict.fromkeys(name for _, found in roster.maps() for name in found.names()),
            a_name,
            stem=lambda text: REGISTER_END.split(text)[0],
            names=a_register,
        )
    return known


def _has(pattern: str, region: str, found: RegisterMap) -> bool:
    bare = pattern.removeprefix(f"{region}.").partition("+")[0]
    return bool(found.find(bare)) or any(
        fits_register(pattern, region, name) for name in found.names()
    )


def check_selection(selection: Selection, roster: Roster, *, registers: bool = True) -> None:
    """Raise :exc:`UsageError` when traces, read to their ends, have not what is asked for.

    ``registers`` tells whether their names are checked too.
    """
    for trace, stretch in roster.stretches:
        check_marks(stretch, trace)
    known = vocabulary(roster, registers=registers)
    for condition in selection.flags:
        for wrong, _ in _wrongs(condition, roster, known):
            raise UsageError(wrong)
    written: list[tuple[Condition | Expression, Mapping[str, Lexicon]]]
    written = [(each, known) for each in selection.typed]
    # That accesses came does not tell that there is what is asked of them.
    everything = vocabulary(roster)
    written += [(each, everything) for each in selection.asked]
    for each, words in written:
        for wrong, start in _wrongs(each, roster, words):
            raise ConditionError(wrong, each.typed.replace("\t", " "), start + 1)


def _wrongs(
    condition: Condition | Expression, roster: Roster, known: Mapping[str, Lexicon]
) -> Iterator[tuple[str, int]]:
    if "callers" in condition.names and not any(stacks.sites() for stacks in roster.stacks):
        yield (
            f"callers are not known: {roster.trace} has no call chains;"
            " `vetrace boot --stacks` records them", condition.typed.index("callers"),
        )  # fmt: skip
    asked = any(name[0] == "$" and name != "$rip" for name in condition.names)
    if asked and not roster.met.registers:
        yield (
            f"registers of the CPU are not known: {roster.trace} has none, as one that was"
            " imported has none", condition.typed.index("$"),
        )  # fmt: skip
    for mention in condition.mentions:
        wrong = mention.wrong(known)
        if wrong:
            yield wrong, mention.start
    lasts = {
        name: roster.met.last_offset(name) for name in filter(roster.can_be_in, roster.met.regions)
    }
    for first, start in condition.offsets:
        wrong = check_offset(first, lasts, roster.trace)
        if wrong:
            yield wrong, start
