"""The opcode maps of x86: what each instruction outside the table of forms does with memory.

The table (:mod:`tracer.x86.forms`) says how an instruction is carried out. These maps say of the
rest which bytes it accesses, in which direction, so that a native step can be told of.

A map is a text until an instruction of it is met: most traces have some of two of them, and who
only looks at a trace needs none.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from tracer.x86.opcode.evex import EVEX_0F, EVEX_3A, EVEX_5, EVEX_6, EVEX_38
from tracer.x86.opcode.legacy import MAP_3A, MAP_38, ONE_BYTE, TWO_BYTE
from tracer.x86.opcode.name import name_of
from tracer.x86.opcode.row import Row, Slot, parse
from tracer.x86.opcode.vex import VEX_0F, VEX_3A, VEX_38, XOP_8, XOP_9, XOP_A

__all__ = ("MAPS", "Row", "Slot", "name_of", "rows", "rows_of_map")

MAPS = {
    ("legacy", 0): ONE_BYTE, ("legacy", 1): TWO_BYTE, ("legacy", 2): MAP_38, ("legacy", 3): MAP_3A,
    ("vex", 1): VEX_0F, ("vex", 2): VEX_38, ("vex", 3): VEX_3A,
    ("xop", 8): XOP_8, ("xop", 9): XOP_9, ("xop", 10): XOP_A,
    ("evex", 1): EVEX_0F, ("evex", 2): EVEX_38, ("evex", 3): EVEX_3A, ("evex", 5): EVEX_5,
    ("evex", 6): EVEX_6,
}  # fmt: skip
"""The texts, by encoding and number of the map."""


@cache
def rows_of_map(encoding: str, opcode_map: int) -> Mapping[int, tuple[Row, ...]]:
    """Return the rows of the map of an encoding by opcode; none where there is no such map."""
    return parse(MAPS.get((encoding, opcode_map), ""), "z" if encoding == "evex" else "")


def rows(encoding: str, opcode_map: int, byte: int) -> tuple[Row, ...]:
    """Return the rows of an opcode in the map of an encoding; none where it touches no memory."""
    return rows_of_map(encoding, opcode_map).get(byte, ())
