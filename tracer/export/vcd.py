"""Registers over guest time as a Value Change Dump, which waveform viewers show.

A region is a scope, within that of its device; a register is a vector in it, which has the value
last read or written, x before the first and where a value is not known. Its bit fields are in a
scope of its name with `_bits` behind it. A register that is accessed in several widths is a vector
for each.

Ref: IEEE Std 1364-2005, 18 (value change dump files).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, count
from typing import IO, Any

from vcd.writer import VCDWriter

from tracer.trace.event import Event
from tracer.trace.place import bare_name
from tracer.trace.record import Header

_UNNAMED = re.compile(r"[^\w$]+")


@dataclass(frozen=True, slots=True)
class _Place:
    region: str
    name: str
    width: int
    is_moment: bool = False  # an interrupt, which has no value that lasts


def write(header: Header, passes: Callable[[], Iterable[Event]], sink: IO[str]) -> int:
    """Write the changes of all registers; return how many accesses have no width to tell.

    ``passes`` yields the events anew each time that it is asked: all registers are told before the
    first change. Times are guest time in nanoseconds, and none is before the one before it.
    """
    places: dict[_Place, set[tuple[str, int]]] = {}
    left_out = 0
    for event in passes():
        place = _place(event)
        if place is None:
            left_out += 1
            continue
        fields = places.setdefault(place, set())
        if event.named is not None:
            fields.update((name, bits) for name, bits, _, _ in event.named.fields(0))
    told = f"{header.tool}, kernel {header.kernel}"
    date = datetime.fromisoformat(header.created).strftime("%Y-%m-%d %H:%M:%S")
    with VCDWriter(sink, timescale="1 ns", date=date, comment=_one_line(told)) as dump:
        _write_changes(dump, places, passes())
    return left_out


def _write_changes(
    dump: VCDWriter, places: dict[_Place, set[tuple[str, int]]], events: Iterable[Event]
) -> None:
    vectors: dict[_Place, Any] = {}
    bits: dict[tuple[_Place, str], Any] = {}
    taken: set[tuple[tuple[str, ...], str]] = set()

    def unused(scope: tuple[str, ...], name: str) -> str:
        numbered = (f"{name}_{number}" for number in count(2))
        found = next(each for each in chain([name], numbered) if (scope, each) not in taken)
        taken.add((scope, found))
        return found

    widest: dict[tuple[str, str], int] = {}
    for place in places:
        key = place.region, place.name
        widest[key] = max(widest.get(key, 0), place.width)
    for place, fields in sorted(places.items(), key=lambda item: str(item[0])):
        scope = tuple(_word(part) for part in place.region.split("."))
        alone = widest[place.region, place.name] == place.width
        name = unused(scope, _word(place.name) + ("" if alone else f"_{8 * place.width}"))
        if place.is_moment:
            vectors[place] = dump.register_var(scope, name, "event")
            continue
        vectors[place] = dump.register_var(scope, name, "reg", size=8 * place.width)
        for field, size in sorted(fields):
            inside = (*scope, f"{name}_bits")
            bits[place, field] = dump.register_var(
                inside, unused(inside, _word(field)), "reg", size=size
            )
    now = 0
    for event in events:
        reached = _place(event)
        if reached is None:
            continue
        now = max(now, event.record.time_ns)
        if reached.is_moment:
            dump.change(vectors[reached], now, True)
            continue
        value = event.access.value
        if value is None:
            dump.change(vectors[reached], now, "x")
            for field, _ in places[reached]:
                dump.change(bits[reached, field], now, "x")
            continue
        dump.change(vectors[reached], now, value & (1 << 8 * reached.width) - 1)
        if event.named is not None:
            for field, _, number, _ in event.named.fields(value):
                dump.change(bits[reached, field], now, number)


def _place(event: Event) -> _Place | None:
    access, named = event.access, event.named
    if not access.width:
        return None
    if named is not None:
        name = named.text
    elif access.space in ("memory", "port") or access.offset is None:
        name = f"at_{access.offset or 0:#x}"
    else:
        name = bare_name(access.space, access.offset) or f"at_{access.offset:#x}"
    return _Place(access.region or "unnamed", name, access.width, access.space == "irq")


# A name without what ends one in such a file, or stands for bits of it.
def _word(text: str) -> str:
    return _UNNAMED.sub("_", text).strip("_") or "_"


def _one_line(text: str) -> str:
    return " ".join("".join(char for char in text if char.isprintable()).replace("$", "").split())
