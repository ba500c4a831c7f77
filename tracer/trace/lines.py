"""Device accesses as JSON objects and as lines of text.

Nothing here knows a terminal: a :class:`Layout` says how wide a line may be and whether it may
carry colours. A trace may come from anywhere, so what could steer a terminal is escaped.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import replace

from tracer.devices.map import Named
from tracer.text.amount import counted
from tracer.text.colour import paint
from tracer.text.printable import printable
from tracer.trace.call import CallRecord, SharedRecord, TdcallRecord, VmgexitRecord
from tracer.trace.event import Event, Events, Everything, Note
from tracer.trace.fold import Fold
from tracer.trace.inputs import LEFT_OUT
from tracer.trace.layout import _DIRECTION, UNCUT, Layout, padded, short
from tracer.trace.loss import Losses
from tracer.trace.marker import ruled
from tracer.trace.naming import Naming
from tracer.trace.place import bare_name, place
from tracer.trace.queue import QueueRecord, queue_lines
from tracer.trace.record import Intercept, LostRecord, Mark, MemoryAccess, UserRecord
from tracer.trace.waiting import WaitRecord
from tracer.trace.waiting_words import wait_line


def access_lines(
    record: Intercept, shape: Layout = UNCUT, naming: Naming | None = None
) -> list[str]:
    """Return one line of text for each device access of a record, in order."""
    return [access_line(event, shape) for event in Events(Everything(naming)).add(record)]


def access_line(event: Event, shape: Layout = UNCUT) -> str:
    """Return the line of text for one device access: see :class:`AccessLines`."""
    return AccessLines(shape).line(event)


class AccessLines:
    """Write the lines of device accesses; what many have in common is made once.

    In order: guest time in seconds, vCPU, call site, instruction, region and offset, register,
    ``R`` or ``W`` with the width in bytes and ``~`` after a native step, value, how a person
    stepped in or that the CPU raised an exception, which rule did, and what the register is if the
    access is against that, or what sent an interrupt. The last four take their room from the
    other columns.
    """

    def __init__(self, shape: Layout) -> None:
        self._shape = shape
        self._known: dict[tuple[object, ...], str] = {}

    def line(self, event: Event) -> str:
        """Return the line of text for one device access."""
        record, access, named = event.record, event.access, event.named
        breach = named.breach(access.direction) if named is not None else None
        rule = ruled(record.note)
        cause = record.cause and f"from {printable(record.cause)}"
        if access.device is not None or access.skipped or breach or rule or cause:
            touched = " ".join(
                filter(
                    None,
                    (
                        _touch(access.device, access.skipped, access.width, _raised(event)),
                        rule and f"({printable(rule)})",
                        breach and f"({breach})",
                        cause,
                    ),
                )
            )
            shape = self._shape
            shape = _narrowed(shape, len(touched) + 1) if shape.cut else shape
            return f"{_joined(event, _middle(event, shape), shape)} {touched}"
        key = (
            record.vcpu, record.symbol, record.rip, record.text, record.via, access.region,
            access.offset, access.extent, access.direction, access.width,
            None if named is None else named.text,
            None if access.space == "memory" else (access.space, access.physical),
        )  # fmt: skip
        middle = self._known.get(key)
        if middle is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            middle = self._known[key] = _middle(event, self._shape)
        return _joined(event, middle, self._shape)


_MOST_KNOWN = 1 << 14


# A line of what stands between time and value, which they change.
def _joined(event: Event, middle: str, shape: Layout) -> str:
    access = event.access
    time = f"{event.record.time_ns / 1e9:10.6f}"
    value = padded(access.value, access.width)
    if access.value is not None and shape.cut and len(value) > shape.value:
        value = hex(access.value)
    if shape.colour:
        time, value = paint(time, "time", True), paint(value, "value", True)
    return f"{time}  {middle}  {value}".rstrip()


def _middle(event: Event, shape: Layout) -> str:
    cells = _cells(event, shape)
    if shape.colour:
        return "  ".join([_painted(cell, style) for cell, style in cells])
    return "  ".join([cell for cell, _ in cells])


# The first word alone of an instruction has a colour: other columns tell the operands.
def _painted(cell: str, style: str) -> str:
    if style != "mnemonic":
        return paint(cell, style, True)
    word, space, operands = cell.partition(" ")
    return paint(word, style, True) + space + operands


# A person's doing at an access, or the CPU's that refused it; nothing where there was none.
# Configuration space that a port does not lead to is not reached, whoever was asked.
def _raised(event: Event) -> bool:
    record, port = event.record, event.record.accesses[0]
    if record.via != "monitor":
        return False
    unreached = event.access.space == "config" and not port.skipped
    return unreached or LEFT_OUT not in (record.note or "")


def _touch(device: int | None, skipped: bool, width: int, raised: bool = False) -> str:
    if skipped:
        return "(exception)" if raised else "(skipped)"
    return "" if device is None else f"(device {padded(device, width)})"


_LEAST = (("text", 0), ("symbol", 8), ("register", 0))


def _narrowed(shape: Layout, surplus: int) -> Layout:
    widths = {}
    for name, least in _LEAST:
        width = getattr(shape, name)
        taken = max(min(surplus, width - least), 0)
        widths[name], surplus = width - taken, surplus - taken
    return replace(shape, **widths)


def decoded_lines(access: MemoryAccess, named: Named | None, shape: Layout = UNCUT) -> list[str]:
    """Return the bit fields of an access's value that are not 0, as lines to follow its own."""
    if named is None or access.value is None:
        return []
    return _below(named.describe(access.value), shape)


def explained_lines(access: MemoryAccess, named: Named | None, shape: Layout = UNCUT) -> list[str]:
    """Return what a register is and what the bits of its value mean, to follow its own line."""
    if named is None:
        return []
    return _below(named.explain(access.value or 0), shape)


def change_lines(
    access: MemoryAccess, named: Named | None, before: int, shape: Layout = UNCUT
) -> list[str]:
    """Return the bit fields that differ from the value ``before``, as lines to follow its own."""
    if named is None or access.value is None:
        return []
    return _below(named.changes(before, access.value), shape)


# Lines that belong to the one above are wrapped where lines have a width.
def _below(text: str, shape: Layout) -> list[str]:
    head = f"{'':10}  ↳ "
    room = max((shape.columns or 1 << 16) - len(head), 20)
    lines = textwrap.wrap(printable(text), room, break_on_hyphens=False)
    return [f"{' ' * len(head) if number else head}{line}" for number, line in enumerate(lines)]


def _cells(event: Event, shape: Layout) -> Iterator[tuple[str, str]]:
    record, access, named = event.record, event.access, event.named
    if shape.vcpu:
        yield f"vcpu{record.vcpu}", ""
    text = "message" if access.space == "msi" else printable(record.text)
    if shape.cut and len(text) > shape.text:
        text = _terse(text)
    if shape.symbol:
        yield _fit(printable(record.site), shape.symbol, shape), "symbol"
    if shape.text:
        yield _fit(text, shape.text, shape), "mnemonic"
    name = bare_name(access.space, access.offset) if named is None else named.text
    if shape.merges:
        merged = f"{access.region} {name}" if name and access.region else place(access)
        yield _fit(printable(merged), shape.place, shape), "place"
    else:
        yield _fit(place(access), shape.place, shape), "place"
        yield _fit(name, shape.register, shape), "register"
    stepped = "~" if record.via == "stepped" else ""
    yield f"{short(access.direction, access.width) + stepped:<{_DIRECTION}}", access.direction


def fold_line(fold: Fold) -> str:
    """Return the line that follows the first turns of a loop: how often, how long, to what end."""
    count = len(fold.first)
    what = "" if count == 1 else f"{count} lines, "
    reads = [event.access for event in fold.last if event.access.direction == "read"]
    last = ", ".join(padded(access.value, access.width) for access in reads)
    read = f", last read {last}" if reads else ""
    times = counted(fold.turns, "more time" if fold.more else "time")
    if fold.apart:
        event = fold.first[0]
        name = event.named.text if event.named is not None else place(event.access)
        region = f"{event.access.region} " if event.named is not None else ""
        what = f"{printable(f'{region}{name} at {event.record.site}')}: {what}"
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
        case TdcallRecord() | VmgexitRecord():
            return call_line(note)
        case SharedRecord():
            return shared_line(note)
        case WaitRecord():
            return wait_line(note)
        case QueueRecord():
            return "\n".join(queue_lines(note))


def mark_line(text: str) -> str:
    """Return the line that tells of a marker."""
    return f"── mark: {printable(text)} ──"


def user_line(record: UserRecord) -> str:
    """Return the line that tells what a person did: the command, and what it read."""
    values = [padded(a.value, a.width) for a in record.accesses if a.direction == "read"]
    read = f" → {', '.join(values)}" if values else ""
    return f"── user: {printable(record.text)}{read} ──"


def call_line(record: CallRecord) -> str:
    """Return the line that tells of a confidential guest's call: what it gives, what it gets."""
    tdcall = isinstance(record, TdcallRecord)
    named = "rax" if tdcall else "sw_exit_code"  # its name tells it
    told = [f"{name}={value:#x}" for name, value in record.given.items() if name != named]
    got = [f"{name}={value:#x}" for name, value in record.returned.items()]
    arrow = ["→", *got] if got else []
    words = printable(" ".join([record.name, *told, *arrow]))
    note = f" ({printable(record.note)})" if record.note else ""
    kind = "tdcall" if tdcall else "vmgexit"
    return f"── {kind}: {words} at {printable(record.site)}{note} ──"


def shared_line(record: SharedRecord) -> str:
    """Return the line that tells what became of RAM that a confidential guest shares."""
    where = f"{record.size:#x} bytes of RAM at physical {record.physical:#x}"
    if record.what == "map":
        done = f"to be {'shared' if record.shared else 'private'}"
    else:
        done = "touched through a shared mapping"
        done += "" if record.converted else ", never asked to be shared"
    return f"── shared: {where} {done} at {printable(record.site)} ──"


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
