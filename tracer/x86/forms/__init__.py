"""The one table of instructions: a row for each instruction form that can touch memory.

Decoding, emulation, verdicts, the documentation and the generated tests all read this table, and
nothing else knows an opcode's width, direction, extension or flags.
"""

from __future__ import annotations

from tracer.x86.forms.cipher import CIPHER
from tracer.x86.forms.integer import CONDITIONS, INTEGER
from tracer.x86.forms.packed import PACKED
from tracer.x86.forms.row import Access, Extension, Form, Lock, Opcode, Repeat, Unit, slot_width
from tracer.x86.forms.shuffle import SHUFFLE
from tracer.x86.forms.stack import STACK
from tracer.x86.forms.vector import VECTOR
from tracer.x86.forms.x87 import X87

__all__ = (
    "CONDITIONS", "FORMS", "Access", "Extension", "Form", "Lock", "Opcode", "Repeat", "Unit",
    "candidates", "slot_width",
)  # fmt: skip

FORMS: tuple[Form, ...] = (*INTEGER, *STACK, *VECTOR, *PACKED, *SHUFFLE, *CIPHER, *X87)
"""Every row."""

_BY_OPCODE: dict[tuple[bool, int, int], tuple[Form, ...]] = {}
for _form in FORMS:
    for _byte in range(_form.opcode.byte, _form.opcode.last + 1):
        _key = (bool(_form.opcode.vex), _form.opcode.map, _byte)
        _BY_OPCODE[_key] = (*_BY_OPCODE.get(_key, ()), _form)


def candidates(vex: bool, opcode_map: int, byte: int) -> tuple[Form, ...]:
    """Return the rows that share an opcode byte: empty when the table has none.

    ``opcode_map`` is 0 for one-byte opcodes, 1 for 0F, 2 for 0F 38 and 3 for 0F 3A.
    """
    return _BY_OPCODE.get((vex, opcode_map, byte), ())
