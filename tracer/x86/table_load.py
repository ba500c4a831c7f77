"""Where a guest's code loads its IDT, its task register or page tables, looked for in its bytes.

No debugger stops at the load of IDTR or CR3. A breakpoint behind each LIDT or MOV does.

Ref: Intel SDM vol. 2A, LGDT/LIDT (0F 01 /3 with a memory operand), LTR (0F 00 /3); vol. 2B, MOV
to control registers (0F 22 /3 for CR3).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from tracer.errors import EmulationError
from tracer.x86.decode import decode
from tracer.x86.disassembler import lengths
from tracer.x86.state import MAX_INSTRUCTION, Mode

_LOADS = re.compile(
    rb"\x0f\x01[\x18-\x1f\x58-\x5f\x98-\x9f]|\x0f\x00[\x18-\x1f\x58-\x5f\x98-\x9f\xd8-\xdf]"
    rb"|\x0f\x22[\xd8-\xdf]"
)
_NAMES = {"lidt": "lidt", "ltr": "ltr", "mov cr3,": "cr3"}
_NEAR = 1 << 14
"""How far the start of a function may be for its instructions to be counted from there, in bytes.
"""


def table_loads(code: bytes, base: int, function_at: Callable[[int], int | None]) -> dict[int, str]:
    """Return ``lidt``, ``ltr`` or ``cr3`` by the linear address behind each load of these.

    ``code`` is what lies from linear address ``base`` on, with data among it perhaps. What is in
    the middle of another instruction is left out where ``function_at`` gives the linear address
    at which the function around an address begins.
    """
    found: dict[int, str] = {}
    for match in _LOADS.finditer(code):
        at = match.start()
        try:
            insn = decode(code[at : at + MAX_INSTRUCTION], base + at, Mode.LONG)
        except EmulationError:
            continue
        name = next((name for text, name in _NAMES.items() if insn.text.startswith(text)), None)
        start = function_at(base + at)
        if name is not None and (start is None or _begins(code, start - base, at)):
            found[base + at + len(insn.code)] = name
    return found


def _begins(code: bytes, start: int, at: int) -> bool:
    # Tells whether an instruction of the function from ``start`` on begins at ``at``, or has its
    # prefixes there; so it is taken to be where the function cannot be followed.
    if not 0 <= at - start <= _NEAR:
        return True
    for length in lengths(code[start : at + MAX_INSTRUCTION], start, Mode.LONG):
        if start + length > at:
            return start == at or _only_prefixes(code[start:at])
        start += length
    return True


def _only_prefixes(code: bytes) -> bool:
    return all(byte & 0xF0 == 0x40 or byte in b"\x66\x67\x2e\x36\x3e\x26\x64\x65" for byte in code)
