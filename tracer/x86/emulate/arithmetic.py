"""Add, subtract, logic, and moves: operations that make one result of their operands.

Ref: Intel SDM vol. 2, the pages of each instruction.

Every operation here and in `bit`, `shift` and `vector` is a function of the width of the memory
operand in bits, RFLAGS, and the operands' values from left to right (without the first, when the
table says that it is only written). It returns the new first operand, which may be wider than
the destination, and RFLAGS.
"""

from __future__ import annotations

from collections.abc import Callable

from tracer.x86.emulate import flags as flag
from tracer.x86.emulate.flags import CF, OF

Operation = Callable[..., tuple[int, int]]


def _add(bits: int, flags: int, a: int, b: int) -> tuple[int, int]:
    total = a + b
    return total, flag.of_sum(bits, a, b, total)


def _adc(bits: int, flags: int, a: int, b: int) -> tuple[int, int]:
    total = a + b + (flags & CF)
    return total, flag.of_sum(bits, a, b, total)


def _sub(bits: int, flags: int, a: int, b: int) -> tuple[int, int]:
    difference = a - b
    return difference, flag.of_difference(bits, a, b, difference)


def _sbb(bits: int, flags: int, a: int, b: int) -> tuple[int, int]:
    difference = a - b - (flags & CF)
    return difference, flag.of_difference(bits, a, b, difference)


def _and(bits: int, flags: int, a: int, b: int) -> tuple[int, int]:
    return a & b, flag.of_result(bits, a & b)


def _or(bits: int, flags: int, a: int, b: int) -> tuple[int, int]:
    return a | b, flag.of_result(bits, a | b)


def _xor(bits: int, flags: int, a: int, b: int) -> tuple[int, int]:
    return a ^ b, flag.of_result(bits, a ^ b)


def _inc(bits: int, flags: int, a: int) -> tuple[int, int]:
    return _add(bits, flags, a, 1)


def _dec(bits: int, flags: int, a: int) -> tuple[int, int]:
    return _sub(bits, flags, a, 1)


def _neg(bits: int, flags: int, a: int) -> tuple[int, int]:
    return _sub(bits, flags, 0, a)


def _not(bits: int, flags: int, a: int) -> tuple[int, int]:
    return ~a, flags


def _mov(bits: int, flags: int, source: int) -> tuple[int, int]:
    return source, flags


def _movbe(bits: int, flags: int, source: int) -> tuple[int, int]:
    width = bits // 8
    return int.from_bytes(source.to_bytes(width, "little"), "big"), flags


def _imul(bits: int, flags: int, a: int, b: int) -> tuple[int, int]:
    # CF and OF tell that the truncated product lost something.
    product = signed(bits, a) * signed(bits, b)
    fits = signed(bits, product & ((1 << bits) - 1)) == product
    return product, flag.of_result(bits, product & ((1 << bits) - 1)) | (0 if fits else CF | OF)


def _adcx(bits: int, flags: int, a: int, b: int) -> tuple[int, int]:
    total = a + b + (flags & CF)
    return total, CF if total >> bits else 0


def _adox(bits: int, flags: int, a: int, b: int) -> tuple[int, int]:
    total = a + b + bool(flags & OF)
    return total, OF if total >> bits else 0


def signed(bits: int, value: int) -> int:
    """Read a value of ``bits`` bits as two's complement."""
    return value - (1 << bits) if value >> (bits - 1) else value


def _cmov(code: int) -> Operation:
    # A false condition still writes the destination, and so zeroes bits 63:32 of a 32-bit one.
    def move(bits: int, flags: int, target: int, source: int) -> tuple[int, int]:
        return (source if flag.condition(code, flags) else target), flags

    return move


def _set(code: int) -> Operation:
    def move(bits: int, flags: int) -> tuple[int, int]:
        return int(flag.condition(code, flags)), flags

    return move


def conditional(names: tuple[str, ...]) -> dict[str, Operation]:
    """Return CMOVcc and SETcc for condition names in encoding order."""
    return {"cmov" + name: _cmov(code) for code, name in enumerate(names)} | {
        "set" + name: _set(code) for code, name in enumerate(names)
    }


OPERATIONS: dict[str, Operation] = {
    "mov": _mov,
    "movbe": _movbe,
    "add": _add,
    "or": _or,
    "adc": _adc,
    "sbb": _sbb,
    "and": _and,
    "sub": _sub,
    "xor": _xor,
    "cmp": _sub,
    "test": _and,
    "inc": _inc,
    "dec": _dec,
    "not": _not,
    "neg": _neg,
    "imul truncated": _imul,
    "adcx": _adcx,
    "adox": _adox,
}
"""Operations of this module by the table's ``operation``."""
