"""Vectors compared for what a program then decides: PTEST, VTESTPS, and the string comparisons.

Ref: Intel SDM vol. 2B, PCMPESTRI to PCMPISTRM and 4.1 (their control byte), PTEST; vol. 2C,
VTESTPD and VTESTPS.
"""

from __future__ import annotations

from dataclasses import dataclass

from tracer.x86.emulate.access import Execution, Plan, Run, load
from tracer.x86.emulate.arithmetic import signed
from tracer.x86.emulate.flags import CF, OF, SF, ZF
from tracer.x86.emulate.state import read_register, retire, write_gpr, write_vector
from tracer.x86.emulate.vector import join, length, split
from tracer.x86.instruction import File, Immediate, Instruction, Register
from tracer.x86.state import RAX, RDX, CpuState

_SIGNS = {"ptest": -1, "vtestps": join(32, [1 << 31] * 8), "vtestpd": join(64, [1 << 63] * 4)}


def _test(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    # All bits are tested, or the signs of all elements.
    assert insn.form is not None
    first = insn.operands[0]
    assert isinstance(first, Register)
    signs = _SIGNS[insn.form.operation] & ((1 << length(insn)) - 1)
    a, b = read_register(first, cpu), (yield from load(plan[0]))
    flags = (0 if a & b & signs else ZF) | (0 if ~a & b & signs else CF)
    return retire(insn, cpu, flags=flags)


@dataclass(frozen=True, slots=True)
class _Text:
    # A vector as text: its elements, of which the first `count` are valid.
    elements: list[int]
    count: int

    def equal(self, n: int, other: _Text, m: int) -> bool:
        return self.elements[n] == other.elements[m]


def _text(value: int, control: int, size: int, count: int | None) -> _Text:
    # Without a count the text ends before its first zero.
    elements = split(128, size, value)
    if count is None:
        count = elements.index(0) if 0 in elements else len(elements)
    if control & 2:
        elements = [signed(size, element) for element in elements]
    return _Text(elements, count)


def _equal_any(needle: _Text, hay: _Text, at: int) -> bool:
    return at < hay.count and any(needle.equal(n, hay, at) for n in range(needle.count))


def _ranges(needle: _Text, hay: _Text, at: int) -> bool:
    # A bound without its other one does not count.
    value, bounds = hay.elements[at], needle.elements
    pairs = range(0, needle.count - 1, 2)
    return at < hay.count and any(bounds[n] <= value <= bounds[n + 1] for n in pairs)


def _equal_each(needle: _Text, hay: _Text, at: int) -> bool:
    if at < needle.count and at < hay.count:
        return needle.equal(at, hay, at)
    return at >= needle.count and at >= hay.count


def _equal_ordered(needle: _Text, hay: _Text, at: int) -> bool:
    last = min(needle.count, len(hay.elements) - at)
    return all(at + n < hay.count and needle.equal(n, hay, at + n) for n in range(last))


_AGGREGATIONS = (_equal_any, _ranges, _equal_each, _equal_ordered)


def _search(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    assert insn.form is not None
    target, first, _, immediate = insn.operands
    assert isinstance(target, Register) and isinstance(first, Register)
    assert isinstance(immediate, Immediate)
    control = immediate.value
    size = 16 if control & 1 else 8
    lengths: tuple[int | None, ...] = (None, None)
    if "estr" in insn.form.operation:
        lengths = tuple(_length(insn, cpu, number, 128 // size) for number in (RAX, RDX))
    needle = _text(read_register(first, cpu), control, size, lengths[0])
    hay = _text((yield from load(plan[0])), control, size, lengths[1])
    found = _hits(needle, hay, control, 128 // size)
    flags = _flags(needle, hay, found)
    after = retire(insn, cpu, flags=flags)
    if target.file is File.XMM:
        mask = join(size if control & 0x40 else 1, [-hit for hit in found])
        return write_vector(insn, after, target, mask)
    hits = [at for at, hit in enumerate(found) if hit] or [len(found)]
    index = hits[-1 if control & 0x40 else 0]
    return retire(insn, cpu, write_gpr(cpu.gpr, target, index), flags)


def _hits(needle: _Text, hay: _Text, control: int, count: int) -> list[bool]:
    aggregate = _AGGREGATIONS[control >> 2 & 3]
    found = [aggregate(needle, hay, at) for at in range(count)]
    if control & 0x10:
        # Negated: all, or those of valid elements.
        found = [hit != (not control & 0x20 or at < hay.count) for at, hit in enumerate(found)]
    return found


def _flags(needle: _Text, hay: _Text, found: list[bool]) -> int:
    return (
        (CF if any(found) else 0)
        | (ZF if hay.count < len(found) else 0)
        | (SF if needle.count < len(found) else 0)
        | (OF if found[0] else 0)
    )


def _length(insn: Instruction, cpu: CpuState, number: int, most: int) -> int:
    # The absolute value of a register of the operand size, saturated.
    bits = 64 if insn.operand_size == 8 else 32
    return min(abs(signed(bits, cpu.gpr[number] & ((1 << bits) - 1))), most)


STRING_COMPARISONS = ("pcmpestri", "pcmpestrm", "pcmpistri", "pcmpistrm")
"""Operations whose result no few trials foretell."""

RUN: dict[str, Run] = {
    **dict.fromkeys(_SIGNS, _test),
    **dict.fromkeys(STRING_COMPARISONS, _search),
}
"""Executions of this module by the table's ``operation``."""
