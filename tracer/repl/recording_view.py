"""A recording in words: what it is of, where in it one stands, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tracer.repl.playback import Playback
from tracer.text.amount import counted
from tracer.text.printable import printable


def opening_lines(recording: Playback) -> list[str]:
    """Return what a person is told first."""
    header = recording.tape.reader.header
    run = header.kernel or "a guest"
    name = recording.tape.reader.name
    lines = [f"{printable(name)}: {printable(run)}, by {printable(header.tool)}"]
    if not recording.tape.accesses:
        return [*lines, f"It has no access: {printable(recording.ending)}."]
    return [
        *lines,
        "It stands at the first access; nothing of it can be changed.",
        "`step`, `continue` and `until` go on, `back` and `rc` go back, `help` lists the commands.",
    ]


def recording_cells(recording: Playback) -> list[str]:
    """Return what the line at the bottom tells, what matters most first."""
    return [
        _where(recording),
        f"{recording.time_ns / 1e9:.6f} s",
        printable(recording.phase or ""),
        printable(recording.tape.reader.name),
    ]


def _where(recording: Playback) -> str:
    tape = recording.tape
    if recording.state == "running":
        return f"reading, {tape.accesses:,} accesses so far"
    known = tape.whole or bool(tape.trouble)
    if recording.state == "ended":
        return f"the end of {f'{tape.accesses:,}' if known else '?'} accesses"
    here = f"access #{tape.at(recording.place).seq:,}"  # as `goto` takes it
    return f"{here}, {recording.place + 1:,} of {tape.accesses:,}" if known else here


def info_lines(recording: Playback) -> list[str]:
    """Return what is known of a recording, as far as it has been read."""
    return [f"{label:<14} {printable(text)}" for label, text in _rows(recording)]


def info_object(recording: Playback) -> dict[str, Any]:
    """Return the same as a JSON-ready object."""
    tape = recording.tape
    header = tape.reader.header
    return {
        "trace": tape.reader.name,
        "kernel": header.kernel,
        "tool": header.tool,
        "created": header.created,
        "clock": header.clock,
        "vcpus": header.vcpus,
        "command_line": header.command_line,
        "accesses": tape.accesses,
        "whole": tape.whole,
        "outcome": recording.outcome,
        "damage": None if tape.whole else recording.ending,
        "place": recording.place,
        "marks": [{"before": count, "text": mark.text} for count, mark in tape.marks],
    }


def _rows(recording: Playback) -> Iterator[tuple[str, str]]:
    tape = recording.tape
    header = tape.reader.header
    yield "trace", tape.reader.name
    yield "kernel", header.kernel
    yield "made by", f"{header.tool}, {header.created}"
    if header.qemu:  # a log that was imported tells of no machine
        vcpus = counted(header.vcpus, "vCPU")
        yield "machine", f"{vcpus}, QEMU {header.qemu}, {header.clock} clock"
    if header.command_line:
        yield "command line", header.command_line
    yield "accesses", f"{tape.accesses:,}"
    yield "here", _where(recording)
    yield "end", recording.ending
    yield "call chains", _recorded(recording.has_stacks, "--stacks")
    yield "inputs", _recorded(recording.scene.has_inputs, "--inputs")


def _recorded(there: bool, option: str) -> str:
    return "recorded" if there else f"not recorded (`vetrace boot {option}`)"
