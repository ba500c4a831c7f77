"""Device accesses as JSON objects and as lines of text.

Nothing here knows a terminal: a :class:`Layout` says how wide a line may be and whether it may
carry colours. A trace may come from anywhere, so what could steer a terminal is escaped.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from tracer.comparison import Difference
from tracer.diff import Line, RegionDiff, Step
from tracer.divergence import Divergence
from tracer.fold import Fold, Note
from tracer.loss import Losses
from tracer.naming import Naming
from tracer.register import Named, RegisterMaps
from tracer.text import printable
from tracer.trace import (
    Direction,
    Hex,
    Intercept,
    LostRecord,
    Mark,
    MemoryAccess,
    UserRecord,
)


@dataclass(frozen=True, slots=True)
class Layout:
    """Give the columns of an access line; widths are in characters.

    ``symbol``, ``text``, ``place`` and ``register`` are padded to their widths, and cut to them
    when ``cut`` is set; a value then loses its leading zeros where ``value`` is too narrow for
    them. The others have room for what they hold. A column of width 0 is left out. ``columns`` is
    the width of a whole line, None for as wide as need be.
    """

    symbol: int
    text: int
    place: int
    register: int
    value: int
    vcpu: bool
    cut: bool
    colour: bool = False
    columns: int | None = None


_TIME, _VCPU, _DIRECTION, _GAP = 10, 5, 3, 2
_VALUE32, _VALUE64 = 10, 18
# Per cent of what is left for call site, instruction, place and register.
_SHARES, _NARROW = (27, 28, 23, 22), (36, 0, 32, 32)


def layout(columns: int | None, colour: bool = False) -> Layout:
    """Return the layout for a terminal ``columns`` wide, or for a file when that is None.

    A file's lines are padded alike and never cut, so that nothing is lost to ``grep``. A narrow
    terminal has no room for the instruction, and then for the vCPU.
    """
    if columns is None:
        return Layout(
            symbol=30, text=38, place=26, register=22, value=_VALUE64, vcpu=True, cut=False,
            colour=colour,
        )  # fmt: skip
    vcpu = columns >= 120
    value = _VALUE64 if columns >= 140 else _VALUE32
    fixed = [_TIME, _DIRECTION, value, *([_VCPU] if vcpu else [])]
    shares = _SHARES if columns >= 100 else _NARROW
    gaps = _GAP * (len(fixed) + len([share for share in shares if share]) - 1)
    room = max(columns - sum(fixed) - gaps, 24)
    symbol, text, place, _ = (room * share // 100 for share in shares)
    register = room - symbol - text - place
    return Layout(
        symbol=min(symbol, 40), text=min(text, 48), place=min(place, 32),
        register=min(register, 28), value=value, vcpu=vcpu, cut=True, colour=colour,
        columns=columns,
    )  # fmt: skip


UNCUT = layout(None)
"""The layout for files and pipes."""


def access_objects(record: Intercept, naming: Naming | None = None) -> list[dict[str, Any]]:
    """Return one JSON-ready object for each device access of a record, in order.

    ``type`` tells them from the other objects that may come in the same output.
    ``address`` is physical and ``rip`` linear; ``width`` is in bytes; numbers that may exceed
    2^53 are hex strings. ``value`` is None where a natively stepped instruction hid it.
    ``register`` is the name that ``naming`` finds, None without one, and ``fields`` has the numbers
    of its bit fields. ``tdvmcall`` and ``ghcb`` are what the access would become in a confidential
    guest, None where the trace does not tell. ``device`` is what the device gave or got where a
    person changed that, None elsewhere; ``skipped`` tells that it was left out.
    """
    naming = naming or Naming(RegisterMaps())
    return [
        access_object(record, seq, access, naming.add(access))
        for seq, access in record.device_accesses()
    ]


def access_object(
    record: Intercept, seq: int, access: MemoryAccess, named: Named | None = None
) -> dict[str, Any]:
    """Return the JSON-ready object for device access number ``seq``: see :func:`access_objects`."""
    return {
        "type": "access",
        "seq": seq,
        "time_ns": record.time_ns,
        "vcpu": record.vcpu,
        "rip": record.rip,
        "symbol": record.symbol,
        "bytes": record.code,
        "text": record.text,
        "region": access.region,
        "offset": access.offset,
        "register": named.text if named is not None else None,
        "address": access.physical,
        "width": access.width,
        "extent": access.extent,
        "direction": access.direction,
        "value": access.value,
        "fields": _field_numbers(access, named),
        "via": record.via,
        "tdvmcall": msgspec.to_builtins(access.tdvmcall),
        "ghcb": msgspec.to_builtins(access.ghcb),
        "device": access.device,
        "skipped": access.skipped,
    }


# A field too wide for a JSON number is a hex string, whatever its value.
def _field_numbers(access: MemoryAccess, named: Named | None) -> dict[str, int | str]:
    if named is None or access.value is None:
        return {}
    return {
        name: number if bits <= 53 else hex(number)
        for name, bits, number in named.numbers(int(access.value, 16))
    }


def access_lines(
    record: Intercept, shape: Layout = UNCUT, naming: Naming | None = None
) -> list[str]:
    """Return one line of text for each device access of a record, in order."""
    naming = naming or Naming(RegisterMaps())
    return [
        access_line(record, access, shape, naming.add(access))
        for _, access in record.device_accesses()
    ]


def access_line(
    record: Intercept, access: MemoryAccess, shape: Layout = UNCUT, named: Named | None = None
) -> str:
    """Return the line of text for one device access.

    In order: guest time in seconds, vCPU, call site, instruction, region and offset, register,
    ``R`` or ``W`` with the width in bytes and ``~`` after a native step, value, and how a person
    stepped in. The last takes its room from the other columns.
    """
    touched = _touch(access.device, access.skipped, access.width)
    if touched and shape.cut:
        shape = _narrowed(shape, len(touched) + 1)
    cells = _cells(record, access, shape, named)
    line = "  ".join(_painted(cell, style, shape.colour) for cell, style in cells).rstrip()
    return f"{line} {touched}" if touched else line


# Of an instruction the first word alone has a colour: operands are told by the other columns.
def _painted(cell: str, style: str, colour: bool) -> str:
    if style != "mnemonic":
        return paint(cell, style, colour)
    word, space, operands = cell.partition(" ")
    return paint(word, style, colour) + space + operands


# How a person stepped in at an access; nothing where none did.
def _touch(device: Hex | None, skipped: bool, width: int) -> str:
    if skipped:
        return "(skipped)"
    return "" if device is None else f"(device {padded(device, width)})"


_LEAST = (("text", 0), ("symbol", 8), ("register", 0))


def _narrowed(shape: Layout, surplus: int) -> Layout:
    widths = {}
    for name, least in _LEAST:
        width = getattr(shape, name)
        taken = max(min(surplus, width - least), 0)
        widths[name], surplus = width - taken, surplus - taken
    return replace(shape, **widths)


# Select Graphic Rendition: ECMA-48, 8.3.117. The eight basic colours follow the user's theme.
_SGR = {
    "time": "\x1b[2m",
    "symbol": "\x1b[36m",
    "place": "\x1b[33m",
    "register": "\x1b[35m",
    "mnemonic": "\x1b[1;34m",
    "read": "\x1b[32m",
    "write": "\x1b[31m",
    "unknown": "",
    "value": "\x1b[1m",
    "stop": "\x1b[1;7m",
}


def paint(text: str, style: str, colour: bool) -> str:
    """Return text in one of the styles of a line: ``time``, ``symbol``, ``place``, ``value`` …

    It is returned as it is without ``colour``, or in no style (an empty name).
    """
    code = _SGR[style] if colour and style else ""
    return f"{code}{text}\x1b[0m" if code else text


def decoded_lines(access: MemoryAccess, named: Named | None, shape: Layout = UNCUT) -> list[str]:
    """Return the bit fields of an access's value that are not 0, as lines to follow its own."""
    if named is None or access.value is None:
        return []
    return _below(named.describe(int(access.value, 16)), shape)


def change_lines(
    access: MemoryAccess, named: Named | None, before: int, shape: Layout = UNCUT
) -> list[str]:
    """Return the bit fields that differ from the value ``before``, as lines to follow its own."""
    if named is None or access.value is None:
        return []
    return _below(named.changes(before, int(access.value, 16)), shape)


# What belongs to the line above, wrapped where lines have a width.
def _below(text: str, shape: Layout) -> list[str]:
    head = f"{'':10}  ↳ "
    room = max((shape.columns or 1 << 16) - len(head), 20)
    lines = textwrap.wrap(printable(text), room, break_on_hyphens=False)
    return [f"{' ' * len(head) if number else head}{line}" for number, line in enumerate(lines)]


def _cells(
    record: Intercept, access: MemoryAccess, shape: Layout, named: Named | None
) -> Iterator[tuple[str, str]]:
    yield f"{record.time_ns / 1e9:10.6f}", "time"
    if shape.vcpu:
        yield f"vcpu{record.vcpu}", ""
    text = printable(record.text)
    if shape.cut and len(text) > shape.text:
        text = _terse(text)
    yield _fit(printable(record.symbol or record.rip), shape.symbol, shape), "symbol"
    if shape.text:
        yield _fit(text, shape.text, shape), "mnemonic"
    yield _fit(place(access), shape.place, shape), "place"
    yield _fit(named.text if named is not None else "", shape.register, shape), "register"
    stepped = "~" if record.via == "stepped" else ""
    yield f"{short(access.direction, access.width) + stepped:<{_DIRECTION}}", access.direction
    value = padded(access.value, access.width)
    if access.value and shape.cut and len(value) > shape.value:
        value = access.value
    yield value, "value"


def fold_line(fold: Fold) -> str:
    """Return the line that follows the first turns of a loop: how often, how long, to what end."""
    count = len(fold.first)
    what = "" if count == 1 else f"{count} lines, "
    reads = [event.access for event in fold.last if event.access.direction == "read"]
    last = ", ".join(padded(access.value, access.width) for access in reads)
    read = f", last read {last}" if reads else ""
    times = f"{fold.turns:,} {'more ' if fold.more else ''}{'time' if fold.turns == 1 else 'times'}"
    return f"{'':10}  ↑ {what}{times} in {fold.duration_ns / 1e9:.6f} s{read}"


def phase_line(phase: str | None) -> str:
    """Return the line that heads the accesses of a phase of the boot."""
    return f"── {printable(phase or 'unknown phase')} ──"


def note_line(note: Note) -> str:
    """Return the line that tells what stands between accesses."""
    match note:
        case UserRecord():
            return user_line(note)
        case Mark():
            return mark_line(note.text)
        case LostRecord():
            losses = Losses()
            losses.add(note)
            whose = "" if note.vcpu is None else f" by CPU {note.vcpu}"
            return f"── {losses.words}{whose} ──"


def mark_line(text: str) -> str:
    """Return the line that tells of a marker."""
    return f"── mark: {printable(text)} ──"


def user_line(record: UserRecord) -> str:
    """Return the line that tells what a person did: the command, and what it read."""
    values = [padded(a.value, a.width) for a in record.accesses if a.direction == "read"]
    read = f" → {', '.join(values)}" if values else ""
    return f"── user: {printable(record.text)}{read} ──"


def place(access: MemoryAccess) -> str:
    """Return the region and offset of a device access: ``nvme+0x1c``.

    Of one whose extent alone is known, both ends: ``nvme+0x0..0x1ff``.
    """
    told = f"{printable(access.region or '')}+{access.offset or '?'}"
    if access.extent is None or access.offset is None:
        return told
    return f"{told}..{int(access.offset, 16) + access.extent - 1:#x}"


def difference_line(difference: Difference) -> str:
    """Return in one line what the trace and QEMU's log tell differently, at physical addresses."""
    traced, logged = difference.traced, difference.logged
    after = "at first" if difference.after_seq is None else f"after #{difference.after_seq}"
    told = []
    if traced is not None:
        value = padded(None if traced.value is None else hex(traced.value), traced.width)
        how = f"{short(traced.direction, traced.width)} {traced.address:#x} {value}"
        stepped = ", stepped" if traced.stepped else ""
        told.append(
            f"traced #{traced.seq} {how} by {printable(traced.site)}"
            f" ({printable(traced.text)}{stepped})"
        )
    for entry in logged:
        value = padded(hex(entry.value), entry.width)
        how = f"{short(entry.direction, entry.width)} {entry.address:#x} {value}"
        told.append(f"QEMU's line {entry.line} cpu {entry.cpu} {how}")
    return f"{difference.kind:<9}  {printable(difference.region)}  {after}: {'; '.join(told)}"


def divergence_lines(divergence: Divergence) -> list[str]:
    """Return where a replay left its record, and in columns what both tell differently."""
    code = bytes.fromhex(divergence.code).hex(" ")
    site = printable(divergence.symbol or divergence.rip)
    head = f"access #{divergence.seq} at {site} diverges: {printable(divergence.text)} ({code})"
    rows = [("", "expected", "actual")]
    rows += [
        (printable(c.name), printable(c.expected or "nothing"), printable(c.actual or "nothing"))
        for c in divergence.contrasts
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [
        head,
        *("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip()
          for row in rows),
    ]  # fmt: skip


def region_diff_lines(
    result: RegionDiff,
    limit: int | None = None,
    names: tuple[str, str] = ("A", "B"),
    rest: str = "--limit 0 shows all",
) -> Iterator[str]:
    """Yield a region's diff: how many accesses differ, then ``limit`` hunks at most.

    ``names`` are those of the two traces; ``rest`` tells how to see the hunks that are left out.
    """
    region = printable(result.region)
    touched = f", {result.touched:,} touched by a person" if result.touched else ""
    if result.unknown:
        touched = f", {result.unknown:,} of them of unknown value{touched}"
    if result.agrees:
        yield f"{region}: {result.same:,} alike{touched}"
        return
    yield (
        f"{region}: {result.changed:,} changed, {result.first:,} only in {names[0]},"
        f" {result.second:,} only in {names[1]}, {result.same:,} alike{touched}"
    )
    for number, hunk in enumerate(result.hunks[:limit]):
        if number:
            yield "  ⋯"
        yield from diff_lines(hunk)
    more = len(result.hunks) - len(result.hunks[:limit])
    if more:
        yield f"  ⋯ {more:,} more places: {rest}"


def diff_lines(hunk: Sequence[Line]) -> Iterator[str]:
    """Yield a hunk of a diff: ``-`` is in the first trace only, ``+`` in the second, ``~`` differs.

    Each line has direction and width, offset and register, value, and the call site with its
    number. Below a change are the bit fields that it changes. Before what comes after another
    marker is the marker.
    """
    told: str | None = None
    steps = [step for line in hunk if (step := line.first or line.second) is not None]
    places = [f"{_step_place(s)} {s.named.text if s.named is not None else ''}" for s in steps]
    wide = max(8, *(len(place.rstrip()) for place in places))
    for line, step, place in zip(hunk, steps, places, strict=True):
        if step.mark != told:
            told = step.mark
            yield f"  {'── before any mark ──' if told is None else mark_line(told)}"
        value = _step_value(step)
        if line.kind == "same" and line.second is not None and not (step.skipped or step.device):
            value = _step_value(replace(line.second, turns=step.turns))
        site = f"{printable(step.site)} #{step.seq}"
        if line.kind == "changed" and line.second is not None:
            value += f" → {_step_value(line.second)}"
            other = "" if line.second.site == step.site else f"{printable(line.second.site)} "
            site += f" → {other}#{line.second.seq}"
        yield (
            f"  {_DIFF_MARK[line.kind]} {short(step.direction, step.width):<3}"
            f" {place.rstrip():<{wide}} {value:<24} {site}"
        )
        if line.kind == "changed" and line.second is not None:
            fields = _step_changes(step, line.second)
            if fields:
                yield f"        {fields}"


_DIFF_MARK = {"same": " ", "changed": "~", "first": "-", "second": "+"}


def _step_changes(first: Step, second: Step) -> str:
    if first.named is None or first.value is None or second.value is None:
        return ""
    if second.named is None or second.named.text != first.named.text:
        return ""  # a window that shows something else
    return first.named.changes(first.value, second.value)


def _step_place(step: Step) -> str:
    last = "" if step.extent is None else f"..{step.offset + step.extent - 1:#x}"
    return f"+{step.offset:#x}{last}"


def _step_value(step: Step) -> str:
    value = padded(None if step.value is None else hex(step.value), step.width)
    times = "" if step.turns == 1 else f" x{step.turns:,}"
    return f"{value}{times} {_touch(step.device, step.skipped, step.width)}".rstrip()


def short(direction: Direction, width: int) -> str:
    """Return an access's direction and width as a line has them: ``R4``, ``W?``, ``??``."""
    return f"{_LETTERS[direction]}{width or '?'}"


_LETTERS: dict[Direction, str] = {"read": "R", "write": "W", "unknown": "?"}


def padded(value: Hex | None, width: int) -> str:
    """Return a value of ``width`` bytes with all its digits, or ``?`` when it is not known."""
    return "?" if value is None else f"0x{int(value, 16):0{2 * width}x}"


# Pad to a column. What is too long keeps its end: an offset tells more than a prefix does.
def _fit(cell: str, width: int, shape: Layout) -> str:
    if not shape.cut or len(cell) <= width:
        return cell.ljust(width)
    head, plus, offset = cell.rpartition("+")
    tail = plus + offset if head and "[" not in cell else ""
    keep = max(width - len(tail) - 1, 0)
    return f"{cell[:keep]}…{tail}"[:width].ljust(width)


_SIZE = re.compile(r"\b\w+ ptr ")
_GAPS = re.compile(r" ([-+*]) ")


# Leave out of an instruction what the other columns of its line tell anyway.
def _terse(text: str) -> str:
    return _GAPS.sub(r"\1", _SIZE.sub("", text))
