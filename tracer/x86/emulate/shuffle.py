"""Elements put elsewhere: unpacked, packed, shuffled, blended, inserted, extracted, widened.

Ref: Intel SDM vol. 2, the pages of each instruction. The signature is that of
`tracer.x86.emulate.vector`.
"""

from __future__ import annotations

from collections.abc import Callable

from tracer.x86.emulate.access import Execution, Plan, Run
from tracer.x86.emulate.arithmetic import signed
from tracer.x86.emulate.packed import saturate
from tracer.x86.emulate.vector import LANE, Vector, by_lane, join, split, vectors
from tracer.x86.instruction import Instruction
from tracer.x86.state import CpuState


def _unpack(size: int, high: bool) -> Vector:
    # Interleaves the low or the high halves of two lanes.
    def operation(bits: int, a: int, b: int) -> int:
        count = bits // size // 2
        part = slice(count, None) if high else slice(count)
        pairs = zip(split(bits, size, a)[part], split(bits, size, b)[part], strict=True)
        return join(size, [element for pair in pairs for element in pair])

    return by_lane(operation)


def _pack(size: int, sign: bool) -> Vector:
    # Narrows signed elements of twice the size, the first operand's below the second's.
    def operation(bits: int, a: int, b: int) -> int:
        wide = split(bits, 2 * size, a) + split(bits, 2 * size, b)
        return join(size, [saturate(size, signed(2 * size, element), sign) for element in wide])

    return by_lane(operation)


def _pshufb(bits: int, source: int, control: int) -> int:
    elements = split(bits, 8, source)
    last = len(elements) - 1
    return join(8, [0 if c & 0x80 else elements[c & last] for c in split(bits, 8, control)])


def _chosen(elements: list[int], control: int) -> list[int]:
    # Four elements by two bits each.
    return [elements[control >> 2 * n & 3] for n in range(4)]


def _pshufd(bits: int, source: int, control: int) -> int:
    return join(32, _chosen(split(bits, 32, source), control))


def _pshufw(bits: int, source: int, control: int) -> int:
    return join(16, _chosen(split(bits, 16, source), control))


def _pshuflw(bits: int, source: int, control: int) -> int:
    words = split(bits, 16, source)
    return join(16, _chosen(words[:4], control) + words[4:])


def _pshufhw(bits: int, source: int, control: int) -> int:
    words = split(bits, 16, source)
    return join(16, words[:4] + _chosen(words[4:], control))


def _palignr(bits: int, high: int, low: int, shift: int) -> int:
    return (high << bits | low) >> 8 * shift & ((1 << bits) - 1)


def _shufps(bits: int, a: int, b: int, control: int) -> int:
    first, second = _chosen(split(bits, 32, a), control), _chosen(split(bits, 32, b), control)
    return join(32, first[:2] + second[2:])


def _shufpd(bits: int, a: int, b: int, control: int) -> int:
    # A bit of the immediate for each element of the whole vector, in turn from either operand.
    pairs = [split(bits, 64, a), split(bits, 64, b)]
    count = bits // 64
    return join(64, [pairs[n & 1][(n & ~1) + (control >> n & 1)] for n in range(count)])


def _permilps(bits: int, source: int, control: int) -> int:
    # Within each lane, by two bits of each doubleword.
    elements = split(bits, 32, source)
    places = [c & 3 for c in split(bits, 32, control)]
    return join(32, [elements[(n & ~3) + place] for n, place in enumerate(places)])


def _permilpd(bits: int, source: int, control: int) -> int:
    elements = split(bits, 64, source)
    places = [c >> 1 & 1 for c in split(bits, 64, control)]
    return join(64, [elements[(n & ~1) + place] for n, place in enumerate(places)])


def _permilpd_immediate(bits: int, source: int, control: int) -> int:
    elements = split(bits, 64, source)
    return join(64, [elements[(n & ~1) + (control >> n & 1)] for n in range(len(elements))])


def _vpermd(bits: int, control: int, source: int) -> int:
    elements = split(bits, 32, source)
    return join(32, [elements[c & 7] for c in split(bits, 32, control)])


def _vpermq(bits: int, source: int, control: int) -> int:
    return join(64, _chosen(split(bits, 64, source), control))


def _vperm2i128(bits: int, a: int, b: int, control: int) -> int:
    halves = split(bits, LANE, a) + split(bits, LANE, b)
    return join(LANE, [0 if c & 8 else halves[c & 3] for c in (control, control >> 4)])


def _insert(size: int) -> Vector:
    def operation(bits: int, target: int, value: int, place: int) -> int:
        elements = split(bits, size, target)
        elements[place % len(elements)] = value
        return join(size, elements)

    return operation


def _extract(size: int) -> Vector:
    def operation(bits: int, source: int, place: int) -> int:
        elements = split(bits, size, source)
        return elements[place % len(elements)]

    return operation


def _insertps(bits: int, target: int, value: int, control: int) -> int:
    # From memory there is only one element to take; the low bits zero elements.
    elements = split(bits, 32, target)
    elements[control >> 4 & 3] = value
    return join(32, [0 if control >> n & 1 else element for n, element in enumerate(elements)])


def _blend(size: int) -> Vector:
    # By a bit of the immediate for each element.
    def operation(bits: int, a: int, b: int, control: int) -> int:
        pairs = zip(split(bits, size, a), split(bits, size, b), strict=True)
        return join(size, [pair[control >> n & 1] for n, pair in enumerate(pairs)])

    return operation


def _blend_variable(size: int) -> Vector:
    # By the sign of each element of the mask.
    def operation(bits: int, a: int, b: int, mask: int) -> int:
        elements = zip(*(split(bits, size, value) for value in (a, b, mask)), strict=True)
        return join(size, [y if m >> size - 1 else x for x, y, m in elements])

    return operation


def _widen(source: int, target: int, sign: bool) -> Vector:
    def operation(bits: int, value: int) -> int:
        elements = split(bits // target * source, source, value)
        return join(target, [signed(source, e) if sign else e for e in elements])

    return operation


def _broadcast(size: int) -> Vector:
    def operation(bits: int, value: int) -> int:
        return join(size, [value] * (bits // size))

    return operation


_NAMES = {8: "b", 16: "w", 32: "d", 64: "q"}

OPERATIONS: dict[str, Vector] = {
    "punpcklbw": _unpack(8, high=False),
    "punpcklwd": _unpack(16, high=False),
    "punpckldq": _unpack(32, high=False),
    "punpcklqdq": _unpack(64, high=False),
    "punpckhbw": _unpack(8, high=True),
    "punpckhwd": _unpack(16, high=True),
    "punpckhdq": _unpack(32, high=True),
    "punpckhqdq": _unpack(64, high=True),
    "packsswb": _pack(8, sign=True),
    "packuswb": _pack(8, sign=False),
    "packssdw": _pack(16, sign=True),
    "packusdw": _pack(16, sign=False),
    "pshufb": by_lane(_pshufb),
    "pshufd": by_lane(_pshufd, immediates=1),
    "pshufw": _pshufw,
    "pshuflw": by_lane(_pshuflw, immediates=1),
    "pshufhw": by_lane(_pshufhw, immediates=1),
    "palignr": by_lane(_palignr, immediates=1),
    "shufps": by_lane(_shufps, immediates=1),
    "shufpd": _shufpd,
    "vpermilps": _permilps,
    "vpermilpd": _permilpd,
    "vpermilpd immediate": _permilpd_immediate,
    "vpermd": _vpermd,
    "vpermq": _vpermq,
    "vperm2i128": _vperm2i128,
    "insertps": _insertps,
    "pblendw": by_lane(_blend(16), immediates=1),
    "blendps": _blend(32),
    "blendpd": _blend(64),
    "pblendvb": _blend_variable(8),
    "blendvps": _blend_variable(32),
    "blendvpd": _blend_variable(64),
    **{
        f"pmov{kind}x{_NAMES[narrow]}{_NAMES[wide]}": _widen(narrow, wide, kind == "s")
        for kind in "sz"
        for narrow, wide in ((8, 16), (8, 32), (8, 64), (16, 32), (16, 64), (32, 64))
    },
}
"""Operations of this module by the table's ``operation``."""


def _of_memory(operation: Callable[[int], Vector]) -> Run:
    # An operation on elements as wide as the memory operand.
    def run(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
        return vectors(operation(8 * insn.width))(insn, cpu, plan)

    return run


RUN: dict[str, Run] = {
    "insert": _of_memory(_insert),
    "extract": _of_memory(_extract),
    "broadcast": _of_memory(_broadcast),
}
"""Executions of this module by the table's ``operation``."""
