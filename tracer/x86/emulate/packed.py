"""Arithmetic, logic, comparisons and shifts of packed integers.

Ref: Intel SDM vol. 2B and 2C, the pages of each instruction; VPSLLVD and VPDPBUSD in the same.
The signature is that of `tracer.x86.emulate.vector`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tracer.x86.emulate.arithmetic import signed
from tracer.x86.emulate.vector import Vector, by_lane, join, split

_Two = Callable[[int, int], int]


def _each(size: int, function: _Two, sign: bool = False) -> Vector:
    # Applies a function to each pair of elements.
    def operation(bits: int, a: int, b: int) -> int:
        return join(size, map(function, _read(bits, size, a, sign), _read(bits, size, b, sign)))

    return operation


def _read(bits: int, size: int, value: int, sign: bool) -> list[int]:
    elements = split(bits, size, value)
    return [signed(size, element) for element in elements] if sign else elements


def saturate(size: int, value: int, sign: bool) -> int:
    """Return the nearest value that fits in ``size`` bits, signed or unsigned."""
    low, high = (-(1 << size - 1), (1 << size - 1) - 1) if sign else (0, (1 << size) - 1)
    return max(low, min(high, value))


def _saturated(size: int, function: _Two, sign: bool) -> Vector:
    return _each(size, lambda a, b: saturate(size, function(a, b), sign), sign)


def _add(a: int, b: int) -> int:
    return a + b


def _subtract(a: int, b: int) -> int:
    return a - b


def _equal(a: int, b: int) -> int:
    return -(a == b)


def _greater(a: int, b: int) -> int:
    return -(a > b)


def _average(a: int, b: int) -> int:
    return a + b + 1 >> 1


def _sign(a: int, b: int) -> int:
    return a if b > 0 else -a if b else 0


def _absolute(size: int) -> Vector:
    def operation(bits: int, source: int) -> int:
        return join(size, map(abs, _read(bits, size, source, True)))

    return operation


def _round_high(a: int, b: int) -> int:
    return (a * b >> 14) + 1 >> 1


def _even_products(sign: bool) -> Vector:
    # The even doublewords are multiplied, each product a quadword.
    def operation(bits: int, a: int, b: int) -> int:
        pairs = zip(_read(bits, 32, a, sign)[::2], _read(bits, 32, b, sign)[::2], strict=True)
        return join(64, [x * y for x, y in pairs])

    return operation


def _pairs(values: list[int]) -> zip[tuple[int, int]]:
    return zip(values[::2], values[1::2], strict=True)


def _pmaddwd(bits: int, a: int, b: int) -> int:
    products = list(map(_times, _read(bits, 16, a, True), _read(bits, 16, b, True)))
    return join(32, [x + y for x, y in _pairs(products)])


def _pmaddubsw(bits: int, a: int, b: int) -> int:
    # The first operand is unsigned, the second signed.
    products = list(map(_times, split(bits, 8, a), _read(bits, 8, b, True)))
    return join(16, [saturate(16, x + y, True) for x, y in _pairs(products)])


def _times(a: int, b: int) -> int:
    return a * b


def _psadbw(bits: int, a: int, b: int) -> int:
    distances = [abs(x - y) for x, y in zip(split(bits, 8, a), split(bits, 8, b), strict=True)]
    return join(64, [sum(distances[at : at + 8]) for at in range(0, len(distances), 8)])


def _horizontal(size: int, function: _Two, saturated: bool = False) -> Vector:
    def operation(bits: int, a: int, b: int) -> int:
        results = [
            function(x, y) for value in (a, b) for x, y in _pairs(_read(bits, size, value, True))
        ]
        return join(size, [saturate(size, r, True) if saturated else r for r in results])

    return by_lane(operation)


def _mpsadbw(bits: int, a: int, b: int, control: int) -> int:
    # The high lane has its own three bits of the immediate.
    if bits > 128:
        ones = (1 << 128) - 1
        low = _mpsadbw(128, a & ones, b & ones, control)
        return low | _mpsadbw(128, a >> 128, b >> 128, control >> 3) << 128
    first, second = split(bits, 8, a)[4 * (control >> 2 & 1) :], split(bits, 8, b)
    block = second[4 * (control & 3) :][:4]
    return join(
        16,
        [sum(abs(first[at + n] - byte) for n, byte in enumerate(block)) for at in range(8)],
    )


def _phminposuw(bits: int, source: int) -> int:
    words = split(bits, 16, source)
    least = min(words)
    return least | words.index(least) << 16


def _shift(kind: str, size: int) -> Vector:
    # By a count in the low quadword of the second operand, the same for all elements.
    def operation(bits: int, value: int, count: int) -> int:
        count &= (1 << 64) - 1
        return join(size, [_shifted(size, kind, x, count) for x in split(bits, size, value)])

    return operation


def _shifts(kind: str, size: int) -> Vector:
    # Each element by its own count.
    def operation(bits: int, value: int, counts: int) -> int:
        pairs = zip(split(bits, size, value), split(bits, size, counts), strict=True)
        return join(size, [_shifted(size, kind, x, count) for x, count in pairs])

    return operation


def _shifted(size: int, kind: str, value: int, count: int) -> int:
    if kind == "sra":
        return signed(size, value) >> min(count, size - 1)
    if count >= size:
        return 0
    return value << count if kind == "sll" else value >> count


def _dot_product(size: int, saturated: bool) -> Vector:
    # Adds the products of a doubleword's elements to it: bytes unsigned by signed, or words.
    def operation(bits: int, target: int, a: int, b: int) -> int:
        first, second = _read(bits, size, a, size == 16), _read(bits, size, b, True)
        step = 32 // size
        totals = [
            total + sum(map(_times, first[at : at + step], second[at : at + step]))
            for at, total in zip(range(0, len(first), step), _read(bits, 32, target, True),
                                 strict=True)
        ]  # fmt: skip
        return join(32, [saturate(32, t, True) if saturated else t for t in totals])

    return operation


def _sized(name: str, letters: str, operation: Callable[[int], Vector]) -> dict[str, Vector]:
    # An operation for each size of element that it has, by the letter that ends its name.
    sizes = {"b": 8, "w": 16, "d": 32, "q": 64}
    return {name + letter: operation(sizes[letter]) for letter in letters}


OPERATIONS: dict[str, Vector] = {
    "pand": lambda bits, a, b: a & b,
    "pandn": lambda bits, a, b: ~a & b,
    "por": lambda bits, a, b: a | b,
    "pxor": lambda bits, a, b: a ^ b,
    "pavgb": _each(8, _average),
    "pavgw": _each(16, _average),
    "pmullw": _each(16, _times),
    "pmulld": _each(32, _times),
    "pmulhw": _each(16, lambda a, b: a * b >> 16, sign=True),
    "pmulhuw": _each(16, lambda a, b: a * b >> 16),
    "pmulhrsw": _each(16, _round_high, sign=True),
    "pmuludq": _even_products(sign=False),
    "pmuldq": _even_products(sign=True),
    "pmaddwd": _pmaddwd,
    "pmaddubsw": _pmaddubsw,
    "psadbw": _psadbw,
    "mpsadbw": _mpsadbw,
    "phminposuw": _phminposuw,
    "phaddw": _horizontal(16, _add),
    "phaddd": _horizontal(32, _add),
    "phaddsw": _horizontal(16, _add, saturated=True),
    "phsubw": _horizontal(16, _subtract),
    "phsubd": _horizontal(32, _subtract),
    "phsubsw": _horizontal(16, _subtract, saturated=True),
    "vpdpbusd": _dot_product(8, saturated=False),
    "vpdpbusds": _dot_product(8, saturated=True),
    "vpdpwssd": _dot_product(16, saturated=False),
    "vpdpwssds": _dot_product(16, saturated=True),
    **_sized("padd", "bwdq", lambda size: _each(size, _add)),
    **_sized("psub", "bwdq", lambda size: _each(size, _subtract)),
    **_sized("padds", "bw", lambda size: _saturated(size, _add, sign=True)),
    **_sized("paddus", "bw", lambda size: _saturated(size, _add, sign=False)),
    **_sized("psubs", "bw", lambda size: _saturated(size, _subtract, sign=True)),
    **_sized("psubus", "bw", lambda size: _saturated(size, _subtract, sign=False)),
    **_sized("pcmpeq", "bwdq", lambda size: _each(size, _equal)),
    **_sized("pcmpgt", "bwdq", lambda size: _each(size, _greater, sign=True)),
    **_sized("pmins", "bwd", lambda size: _each(size, min, sign=True)),
    **_sized("pmaxs", "bwd", lambda size: _each(size, max, sign=True)),
    **_sized("pminu", "bwd", lambda size: _each(size, min)),
    **_sized("pmaxu", "bwd", lambda size: _each(size, max)),
    **_sized("psign", "bwd", lambda size: _each(size, _sign, sign=True)),
    **_sized("pabs", "bwd", _absolute),
    **_sized("psll", "wdq", partial(_shift, "sll")),
    **_sized("psrl", "wdq", partial(_shift, "srl")),
    **_sized("psra", "wd", partial(_shift, "sra")),
    **_sized("vpsllv", "dq", partial(_shifts, "sll")),
    **_sized("vpsrlv", "dq", partial(_shifts, "srl")),
    **_sized("vpsrav", "d", partial(_shifts, "sra")),
}
"""Operations of this module by the table's ``operation``."""
