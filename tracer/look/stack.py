"""The functions under way, innermost first."""

from __future__ import annotations

from typing import Any

from tracer.access.stack import Lookup, Stack, frame_symbol
from tracer.look.sheet import Cell, aligned, flow, words


def stack_lines(stack: Stack, lookup: Lookup, columns: int = 80, colour: bool = False) -> list[str]:
    """Return a line a frame: number, function, linear address; then why the rest is missing."""
    rows = [
        [
            Cell(f"#{number}"),
            Cell(frame_symbol(frame, lookup) or "?", "symbol"),
            Cell(f"{frame.rip:#018x}", "time"),
            Cell("interrupted here" if number and frame.interrupted else ""),
        ]
        for number, frame in enumerate(stack.frames)
    ]
    lines = aligned(rows, colour) if rows else []
    if stack.lost is not None:
        lines += flow(words(f"The rest is not known: {stack.lost}."), columns, colour)
    return lines


def chain(stack: Stack, lookup: Lookup) -> str:
    """Return in words where a vCPU is: the function, who called it, and who that one."""
    names = [frame_symbol(frame, lookup) or f"{frame.rip:#x}" for frame in stack.frames]
    text = ", called by ".join([names[0], ", ".join(names[1:])]) if names[1:] else names[0]
    return f"{text}; {stack.lost}" if stack.lost is not None else text


def stack_object(stack: Stack, lookup: Lookup) -> dict[str, Any]:
    """Return the frames and why the rest is missing as a JSON-ready object."""
    return {
        "frames": [
            {
                "rip": hex(frame.rip),
                "symbol": frame_symbol(frame, lookup),
                "interrupted": frame.interrupted,
            }
            for frame in stack.frames
        ],
        "lost": stack.lost,
    }
