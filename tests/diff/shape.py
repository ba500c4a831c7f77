"""Shapes of an encoding: prefixes in any order and number, and every way to name memory.

Prefixes are repeated, contradict each other and say nothing, as far as the instruction stays the
same: Intel SDM vol. 2A, 2.1.1 (one of each group counts), 2.2.1 (REX right before the opcode);
AMD APM vol. 3, 1.2.
"""

from __future__ import annotations

from random import Random

from tests.diff.native import LOW, RAM_SIZE
from tracer.x86.forms import Form
from tracer.x86.state import RBP, RBX, RDI, RSI, RSP, Mode

SEGMENTS = (0x26, 0x2E, 0x36, 0x3E)
LONGEST = 15
_PAIRS = ((RBX, RSI), (RBX, RDI), (RBP, RSI), (RBP, RDI), (RSI,), (RDI,), (RBP,), (RBX,))


def prefixes(form: Form, mode: Mode, size: int, rex: int, other: bool, random: Random) -> list[int]:
    """Return legacy prefixes of a form, void REX among them, in the order of the code.

    ``size`` is the operand size in bytes, ``rex`` what REX has; ``other`` asks for 67.
    """
    opcode, long = form.opcode, mode is Mode.LONG
    found: list[int] = []
    types = {slot[1:] for slot in form.operands}
    sized = types & {"v", "z"} or "rAX" in form.operands or form.size64
    ignored = opcode.prefix == "" and (rex & 8 or not (sized or "y" in types))
    switched = size == (4 if mode is Mode.COMPAT16 else 2)
    if (switched and sized) or (ignored and random.random() < 0.1):
        found.append(0x66)
    if opcode.prefix in ("66", "F2", "F3") and not opcode.vex:
        found.append(int(opcode.prefix, 16))
    if form.repeat and random.random() < 0.6:
        found += [random.choice((0xF2, 0xF3)) for _ in range(random.choice((1, 1, 1, 2)))]
    elif opcode.prefix == "" and not opcode.map and not form.repeat and random.random() < 0.08:
        found.append(random.choice((0xF2, 0xF3)))  # a hint at most
    if long and random.random() < 0.2:
        found.append(random.choice((0x64, 0x65)))
        if random.random() < 0.3:
            found.append(random.choice((0x64, 0x65, *SEGMENTS)))
    elif random.random() < 0.1:
        found += [random.choice(SEGMENTS) for _ in range(random.choice((1, 1, 2)))]
    if other:
        found.append(0x67)
    if form.lock == "lockable" and form.operands[0][0] in "EM" and random.random() < 0.3:
        found.append(0xF0)
    if found and random.random() < 0.15:
        found.append(random.choice(found))
    random.shuffle(found)
    if found and long and not opcode.vex and random.random() < 0.1:
        found.insert(random.randrange(len(found)), random.randrange(0x40, 0x50))
    return found


def is_void(code: bytes) -> bool:
    """Tell whether 64-bit code has a REX that a prefix follows."""
    return any(0x40 <= byte <= 0x4F for byte in _lead(code)[:-1])


def cancels(code: bytes) -> bool:
    """Tell whether a null override follows FS or GS in 64-bit code."""
    seen = False
    for byte in _lead(code):
        seen = seen or byte in (0x64, 0x65)
        if seen and byte in SEGMENTS:
            return True
    return False


def repeats_both_ways(code: bytes) -> bool:
    """Tell whether there are both F2 and F3."""
    return {0xF2, 0xF3} <= set(_lead(code))


def _lead(code: bytes) -> bytes:
    known = {0x66, 0x67, 0xF0, 0xF2, 0xF3, 0x64, 0x65, *SEGMENTS, *range(0x40, 0x50)}
    count = next((at for at, byte in enumerate(code) if byte not in known), len(code))
    return code[:count]


def memory(
    digit: int, mode: Mode, bits: int, target: int, random: Random
) -> tuple[bytes, int, dict[int, int]]:
    """Return ModRM with what follows, the bits of REX, and the registers to set, for an address.

    ``bits`` is the address size. ``RIP!`` stands for a displacement that counts from the end of the
    instruction. Registers are as wide as the address size, and may be negative.
    """
    if bits == 16:
        return _memory16(digit, target, random)
    rex, long = 0, mode is Mode.LONG
    registers: dict[int, int] = {}
    shapes = ["base", "base", "sib", "sib", "absolute", "index", "bare"] + ["rip"] * long
    shape = random.choice(shapes)
    mod = random.randrange(3)
    if shape == "rip":
        return bytes([digit << 3 | 5]) + b"RIP!", 0, {}
    if shape == "absolute":
        # Neither base nor index: a scale says nothing.
        sib = bytes([digit << 3 | 4, random.randrange(4) << 6 | 0x25])
        if long or random.random() < 0.5:
            return sib + target.to_bytes(4, "little"), 0, {}
        return bytes([digit << 3 | 5]) + target.to_bytes(4, "little"), 0, {}
    displacement = {0: 0, 1: random.randrange(-128, 128), 2: random.randrange(-4096, 4096)}[mod]
    field = displacement.to_bytes(mod * mod, "little", signed=True) if mod else b""
    number = random.randrange(16 if long else 8)
    if mod == 0 and number & 7 == 5 and shape != "index":
        mod, field, displacement = 1, b"\x10", 0x10
    if shape == "base" and number & 7 != 4:
        registers[number] = target - displacement
        return bytes([mod << 6 | digit << 3 | number & 7]) + field, number >> 3, registers
    if shape in ("base", "bare"):
        # SIB without an index, whatever the scale.
        registers[number] = target - displacement
        sib = bytes([mod << 6 | digit << 3 | 4, random.randrange(4) << 6 | 4 << 3 | number & 7])
        return sib + field, number >> 3, registers
    index = random.choice([n for n in range(16 if long else 8) if n not in (RSP, number)])
    scale = random.randrange(4)
    registers[index] = random.randrange(-32, 32)
    rex |= index >> 3 << 1
    if shape == "index":
        base = target - (registers[index] << scale)
        sib = bytes([digit << 3 | 4, scale << 6 | (index & 7) << 3 | 5])
        return sib + base.to_bytes(4, "little"), rex, registers
    registers[number] = target - displacement - (registers[index] << scale)
    sib = bytes([mod << 6 | digit << 3 | 4, scale << 6 | (index & 7) << 3 | number & 7])
    return sib + field, rex | number >> 3, registers


def _memory16(digit: int, target: int, random: Random) -> tuple[bytes, int, dict[int, int]]:
    # SDM vol. 2A, table 2-1.
    assert LOW <= target < LOW + RAM_SIZE
    mod, rm = random.randrange(3), random.randrange(8)
    if mod == 0 and rm == 6:
        return bytes([digit << 3 | 6]) + target.to_bytes(2, "little"), 0, {}
    displacement = {0: 0, 1: random.randrange(-128, 128), 2: random.randrange(-32768, 32768)}[mod]
    field = displacement.to_bytes(mod, "little", signed=True)
    registers = {number: random.getrandbits(16) for number in _PAIRS[rm][1:]}
    registers[_PAIRS[rm][0]] = target - displacement - sum(registers.values())
    return bytes([mod << 6 | digit << 3 | rm]) + field, 0, registers
