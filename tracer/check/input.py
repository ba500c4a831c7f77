"""Whether a record of the monitor's is what its instruction does, as far as that is known.

The instruction says which port, MSR or leaf is meant, how wide the access is, and what is written.
"""

from __future__ import annotations

from collections.abc import Iterator

from tracer.check.divergence import Contrast
from tracer.trace.record import Intercept, MemoryAccess

_PREFIXES = frozenset(b"\x66\x67\x2e\x36\x3e\x26\x64\x65\xf2\xf3")
_LOW = 0xFFFF_FFFF


def is_known(record: Intercept) -> bool:
    """Tell whether a record has the bytes and the registers that say what it is."""
    if record.accesses[0].space == "irq":
        return True
    return bool(record.code) and {"rax", "rcx", "rdx"} <= record.before.keys()


def contrasts_of_input(record: Intercept) -> list[Contrast]:
    """Return how a record of an input differs from what its instruction does."""
    before, access = record.before, record.accesses[0]
    match access.space:
        case "port":
            return [*_of_port(record, access)]
        case "msr":
            wrong = [*_same("index", before["rcx"] & _LOW, access.physical)]
            if access.direction == "write":
                written = before["rdx"] << 32 & _LOW << 32 | before["rax"] & _LOW
                wrong += _same("value", written, access.value)
            return wrong
        case "cpuid":
            leaf = (before["rcx"] & _LOW) << 32 | before["rax"] & _LOW
            return [*_same("leaf", leaf, access.physical)]
        case "irq":
            return [*_same("vector", access.physical & 0xFF, access.value)]
        case _:
            return []


# Ref: Intel SDM vol. 2A and 2B, IN, OUT, INS, OUTS: E4 to E7, EC to EF, 6C to 6F.
def _of_port(record: Intercept, access: MemoryAccess) -> Iterator[Contrast]:
    code, wide = record.code, record.mode != 16
    at = 0
    while code[at] in _PREFIXES or (record.mode == 64 and code[at] >> 4 == 4):
        wide ^= code[at] == 0x66
        at += 1
    opcode = code[at]
    known = opcode & ~3 in (0xE4, 0xEC, 0x6C)
    if not known:
        yield Contrast("code", "IN, OUT, INS or OUTS", code.hex(" "))
        return
    width = (4 if wide else 2) if opcode & 1 else 1
    direction = "write" if opcode & 2 else "read"
    port = code[at + 1] if opcode & ~3 == 0xE4 else record.before["rdx"] & 0xFFFF
    yield from _same("port", port, access.physical)
    yield from _same("width", width, access.width)
    if direction != access.direction:
        yield Contrast("direction", direction, access.direction)
    elif direction == "write" and opcode & ~3 != 0x6C:
        yield from _same("value", record.before["rax"] & (1 << 8 * width) - 1, access.value)
    elif access.value is not None and access.value >> 8 * width:
        yield Contrast("value", f"{width} bytes", hex(access.value))


def _same(name: str, expected: int, actual: int | None) -> Iterator[Contrast]:
    if expected != actual:
        yield Contrast(name, hex(expected), None if actual is None else hex(actual))
