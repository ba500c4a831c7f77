"""Differences that a comparison found, as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from tracer.check.comparison import Difference
from tracer.check.diff import Line, RegionDiff, Step
from tracer.check.divergence import Divergence
from tracer.check.witness.territory import INTERRUPTS, MESSAGES
from tracer.text.printable import printable
from tracer.trace.layout import padded, short
from tracer.trace.lines import _touch, mark_line
from tracer.trace.place import bare_name, spot


def difference_line(difference: Difference) -> str:
    """Return in one line what the trace and QEMU's log tell differently, at physical addresses."""
    traced, logged = difference.traced, difference.logged
    after = "at first" if difference.after_seq is None else f"after #{difference.after_seq}"
    told = []
    if difference.region == INTERRUPTS:
        return f"{difference.kind:<9}  {INTERRUPTS}  {after}: {'; '.join(_interrupts(difference))}"
    if difference.region == MESSAGES:
        return f"{difference.kind:<9}  {MESSAGES}  {after}: {'; '.join(_messages(difference))}"
    if traced is not None:
        value = padded(traced.value, traced.width)
        how = f"{short(traced.direction, traced.width)} {traced.address:#x} {value}"
        by_vcpu = ", by the vCPU" if traced.by_vcpu else ""
        told.append(
            f"traced #{traced.seq} {how} by {printable(traced.site)}"
            f" ({printable(traced.text)}{by_vcpu})"
        )
    for entry in logged:
        value = padded(entry.value, entry.width)
        how = f"{short(entry.direction, entry.width)} {entry.address:#x} {value}"
        told.append(f"QEMU's line {entry.line} cpu {entry.cpu} {how}")
    return f"{difference.kind:<9}  {printable(difference.region)}  {after}: {'; '.join(told)}"


def _interrupts(difference: Difference) -> Iterator[str]:
    traced = difference.traced
    if traced is not None:
        vector = padded(traced.value, 1)
        place = f"{traced.address:#x} {printable(traced.site)}"
        yield f"traced #{traced.seq} vector {vector} at {place}"
    for entry in difference.logged:
        vector = padded(entry.value, 1)
        yield f"QEMU's line {entry.line} cpu {entry.cpu} vector {vector} at {entry.address:#x}"


def _messages(difference: Difference) -> Iterator[str]:
    traced = difference.traced
    if traced is not None and traced.message is not None:
        address, data = traced.message
        to = f"{address:#x}" if address else "?"
        yield f"traced #{traced.seq - 1} {padded(data, 4)} to {to} before vector {traced.value:#x}"
    for entry in difference.logged:
        sent = ", ".join(f"{data:#x} to {to:#x}" for to, data in sorted(entry.messages))
        yield f"before QEMU's line {entry.line} {sent or 'no message of that vector'}"


def divergence_lines(divergence: Divergence) -> list[str]:
    """Return where a replay left its record, and in columns what both tell differently."""
    code = divergence.code.hex(" ")
    site = printable(divergence.symbol or hex(divergence.rip))
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
    places = [_step_place(step) for step in steps]
    wide = max(8, *map(len, places))
    for line, step, place in zip(hunk, steps, places, strict=True):
        if step.mark != told:
            told = step.mark
            yield f"  {'── before any mark ──' if told is None else mark_line(told)}"
        value, site = _step_value(_shown(line, step)), f"{printable(step.site)} #{step.seq}"
        other = line.second if line.kind == "changed" else None
        if other is not None:
            value += f" → {_step_value(other)}"
            site += (
                f" → {'' if other.site == step.site else f'{printable(other.site)} '}#{other.seq}"
            )
        yield (
            f"  {_DIFF_MARK[line.kind]} {short(step.direction, step.width):<3}"
            f" {place:<{wide}} {value:<24} {site}"
        )
        if other is not None and (fields := step_changes(step, other)):
            yield f"        {fields}"


# The step whose value stands for a line: of two that agree, the one that a person changed.
def _shown(line: Line, step: Step) -> Step:
    if line.kind == "same" and line.second is not None and not step.skipped and step.device is None:
        return replace(line.second, turns=step.turns)
    return step


_DIFF_MARK = {"same": " ", "changed": "~", "first": "-", "second": "+"}


def step_changes(first: Step, second: Step) -> str:
    """Return the bit fields that differ between two steps; empty where these are not known."""
    if first.named is None or first.value is None or second.value is None:
        return ""
    if second.named is None or second.named.text != first.named.text:
        return ""  # a window that shows something else
    return first.named.changes(first.value, second.value)


def _step_place(step: Step) -> str:
    name = bare_name(step.space, step.offset) if step.named is None else step.named.text
    return f"{spot(step.space, step.offset, step.extent)} {name}".strip()


def _step_value(step: Step) -> str:
    value = padded(step.value, step.width)
    times = "" if step.turns == 1 else f" x{step.turns:,}"
    return f"{value}{times} {_touch(step.device, step.skipped, step.width)}".rstrip()
