"""The opcode maps of x86: what each instruction outside the table of forms does with memory.

The table (:mod:`tracer.x86.forms`) says how an instruction is carried out. These maps say of the
rest which bytes it accesses, in which direction, so that a native step can be told of.
"""

from __future__ import annotations

from tracer.x86.opcode.evex import EVEX_0F, EVEX_3A, EVEX_5, EVEX_6, EVEX_38
from tracer.x86.opcode.legacy import MAP_3A, MAP_38, ONE_BYTE, TWO_BYTE
from tracer.x86.opcode.name import name_of
from tracer.x86.opcode.row import Row, Slot
from tracer.x86.opcode.vex import VEX_0F, VEX_3A, VEX_38, XOP_8, XOP_9, XOP_A

__all__ = ("Row", "Slot", "name_of", "rows")

_MAPS = {
    ("legacy", 0): ONE_BYTE, ("legacy", 1): TWO_BYTE, ("legacy", 2): MAP_38, ("legacy", 3): MAP_3A,
    ("vex", 1): VEX_0F, ("vex", 2): VEX_38, ("vex", 3): VEX_3A,
    ("xop", 8): XOP_8, ("xop", 9): XOP_9, ("xop", 10): XOP_A,
    ("evex", 1): EVEX_0F, ("evex", 2): EVEX_38, ("evex", 3): EVEX_3A, ("evex", 5): EVEX_5,
    ("evex", 6): EVEX_6,
}  # fmt: skip


def rows(encoding: str, opcode_map: int, byte: int) -> tuple[Row, ...]:
    """Return the rows of an opcode in the map of an encoding; none where it touches no memory."""
    return _MAPS.get((encoding, opcode_map), {}).get(byte, ())
