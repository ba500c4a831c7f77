"""Disassembled code, with a mark at the instruction that comes next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tracer.look.sheet import Cell, folded

if TYPE_CHECKING:
    from tracer.x86.decode import Line

Lookup = Callable[[int], str | None]
"""Return ``name+0x1f`` for a linear address, or None."""


def code_lines(
    code: Sequence[Line], rip: int, lookup: Lookup, columns: int = 80, colour: bool = False
) -> list[str]:
    """Return a line an instruction: ``=>`` at ``rip``, linear address, symbol, bytes, text.

    The bytes are left out where there is no room for them.
    """
    rows = []
    for line in code:
        row = [
            Cell("=>" if line.linear == rip else "", "value"),
            Cell(f"{line.linear:#018x}", "time"),
            Cell(lookup(line.linear) or "", "symbol"),
        ]
        if columns >= 100:
            row.append(Cell(line.code.hex(" "), "time"))
        here = "value" if line.linear == rip else ""
        text = line.text if line.text is not None else f"(bad) {line.code.hex(' ')}"
        rows.append([*row, Cell(text, here if line.text is not None else "write")])
    return folded(rows, columns, colour)


def code_objects(code: Sequence[Line], rip: int, lookup: Lookup) -> list[dict[str, Any]]:
    """Return a JSON-ready object an instruction; ``text`` is None where there is none."""
    return [
        {
            "linear": hex(line.linear),
            "symbol": lookup(line.linear),
            "bytes": line.code.hex(),
            "text": line.text,
            "next": line.linear == rip,
        }
        for line in code
    ]
