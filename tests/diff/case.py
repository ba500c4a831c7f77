"""Encode instructions from the rows of the table, in every width and addressing shape.

The encoder shares nothing with the decoder but the table: it builds ModRM, SIB and prefixes the
other way round, from operands to bytes.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from random import Random

from tests.diff import shape
from tests.diff.native import CODE, DATA, JUMPED, LOW, LOW_CODE, PATTERN, RAM_SIZE
from tracer.x86.decode import decode
from tracer.x86.emulate import plan, real
from tracer.x86.forms import Form, Unit
from tracer.x86.instruction import Instruction, Operand, Register
from tracer.x86.state import GPR, RBP, RBX, RCX, RDI, RSI, RSP, CpuState, Flag, Mode, Segments

EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
         0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFFFFFFFFFF)  # fmt: skip
ALL_FLAGS = 0x8D5
_CR4 = 0x406F0


@dataclass(frozen=True)
class Case:
    """Hold code, the state to run it in, and bytes of RAM that differ from the pattern.

    ``base`` is the linear address of the RAM.
    """

    code: bytes
    cpu: CpuState
    ram: dict[int, bytes]
    base: int = DATA


def sizes(form: Form, mode: Mode) -> tuple[int, ...]:
    """Return the operand sizes in bytes that the form can be encoded with."""
    slots = form.operands
    if form.opcode.w and not form.opcode.vex:
        return (8,)
    if form.size64 and mode is Mode.LONG:
        return (8,) if form.size64 == "f64" else (2, 8)
    wide = (8,) if mode is Mode.LONG else ()
    if form.size64 == "f64":
        return (4,)  # a jump to a 16-bit address would leave the code page
    if form.size64:
        return (2, 4)
    if any(slot[1:] in ("v", "z") or slot == "rAX" for slot in slots):
        return (2, 4, *wide)
    if any(slot[1:] == "y" for slot in slots):
        return (4, *wide)
    return (4,)


def encode(form: Form, mode: Mode, size: int, random: Random) -> tuple[bytes, dict[int, int]]:
    """Return one encoding of ``form``, and the registers its address needs by number."""
    long = mode is Mode.LONG
    rex = 8 if size == 8 and not (form.size64 and random.random() < 0.5) else 0
    opcode = form.opcode
    other = random.random() < 0.15
    bits = _address_bits(mode, other)
    prefixes = shape.prefixes(form, mode, size, rex, other, random)
    if long and random.random() < 0.3:
        rex |= 0x40  # a REX that says nothing still makes SPL of AH

    registers: dict[int, int] = {}
    tail = b""
    if form.register:
        tail += bytes([0xC0 | (opcode.digit or 0) << 3 | random.randrange(8)])
        rex |= random.choice((0, 0x41)) if long else 0
    elif form.modrm:
        digit = opcode.digit
        if digit is None:
            digit = random.randrange(6 if form.operands[-1] == "Sw" else 8)
        if opcode.digit is None and long and random.random() < 0.4:
            rex |= 0x44
        body, bits, registers = shape.memory(
            digit, mode, bits, _target(form, bits, mode, random), random
        )
        rex |= bits
        tail += body
    for slot in form.operands:
        if slot[0] == "O":
            tail += (_middle(bits, mode) + random.randrange(64)).to_bytes(bits // 8, "little")
        elif slot in ("Ib", "Ibs") or slot[0] == "L":
            # As a count it may be beyond the width, and beyond that of a rotate with carry.
            tail += random.choice(
                (
                    b"\0",
                    b"\1",
                    b"\x1f",
                    b"\x7f",
                    b"\x80",
                    b"\x09",
                    b"\x11",
                    b"\x21",
                    b"\x41",
                    random.randbytes(1),
                )
            )
        elif slot == "Iw":
            # The CPU wants to be able to write what ENTER leaves as the top of the stack.
            far = b"\0\x07" if form.name == "enter" else b"\xff\xff"
            tail += random.choice((b"\0\0", b"\x10\0", b"\0\x01", far))
        elif slot == "Jz":
            tail += b"JUMP"
        elif slot == "Iz":
            tail += random.choice((random.randbytes(4), b"\xff" * 4))[: min(size, 4)]
    if opcode.vex:
        return _vex(form, rex, prefixes, long, random) + tail, registers
    byte = random.randint(opcode.byte, opcode.last)
    if byte != opcode.last and long and random.random() < 0.4:
        rex |= 0x41
    lead = bytes(prefixes) + (bytes([rex | 0x40]) if rex else b"")
    escape = (b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a")[opcode.map]
    return lead + escape + bytes([byte]) + tail, registers


def _vex(form: Form, rex: int, prefixes: list[int], long: bool, random: Random) -> bytes:
    lead = bytes(p for p in prefixes if p in (0x67, 0x64, 0x65, 0x26, 0x2E, 0x36, 0x3E))
    opcode = form.opcode
    uses_vvvv = any(slot[0] in "BH" for slot in form.operands)
    vvvv = random.randrange(16 if long else 8) if uses_vvvv else 0
    pp = ("NP", "66", "F3", "F2").index(opcode.prefix)
    first = (~rex & 7) << 5 | opcode.map
    long_vectors = {"256": 1, "128/256": random.getrandbits(1), "LIG": random.getrandbits(1)}
    w = rex >> 3 & 1
    if opcode.w is not None:
        w = int(opcode.w)
    elif not any(slot[1:] == "y" for slot in form.operands):
        w = random.getrandbits(1)  # it says nothing
    second = w << 7 | (~vvvv & 15) << 3 | long_vectors.get(opcode.vex, 0) << 2 | pp
    return lead + bytes([0xC4, first, second, opcode.byte])


def _address_bits(mode: Mode, other: bool) -> int:
    default, switched = {
        Mode.LONG: (64, 32), Mode.COMPAT32: (32, 16), Mode.COMPAT16: (16, 32),
    }[mode]  # fmt: skip
    return switched if other else default


def _base(bits: int, mode: Mode) -> int:
    # Where the RAM is: 16-bit addresses do not reach far, nor does the segment of 16-bit code.
    return LOW if bits == 16 or mode is Mode.COMPAT16 else DATA


def _middle(bits: int, mode: Mode) -> int:
    return _base(bits, mode) + RAM_SIZE // 2


def _target(form: Form, bits: int, mode: Mode, random: Random) -> int:
    return _middle(bits, mode) + random.randrange(256) // _step(form) * _step(form)


def cases(form: Form, mode: Mode, count: int, seed: int) -> Iterator[Case]:
    """Yield ``count`` seeded cases per size, over shapes, flags and edge values."""
    random = Random(f"{seed} {mode.name} {form.opcode.text} {form.name}")
    start = LOW_CODE if mode is Mode.COMPAT16 else CODE
    for size in sizes(form, mode) * count:
        code, registers = encode(form, mode, size, random)
        while len(code) > shape.LONGEST:
            code, registers = encode(form, mode, size, random)
        if b"RIP!" in code:
            offset = (_target(form, 64, mode, random) - CODE - len(code)) & 0xFFFFFFFF
            code = code.replace(b"RIP!", offset.to_bytes(4, "little"))
        code = code.replace(b"JUMP", (JUMPED - CODE - len(code)).to_bytes(4, "little"))
        insn = decode(code, start, mode)
        bits = 8 * insn.address_size
        base = _base(bits, mode)
        cpu = replace(_state(form, mode, registers, bits, random), rip=start)
        assert insn.form is form, f"{code.hex(' ')} is {insn.text}, not {form}"
        pointed = _pointed(form, insn, cpu, base, registers, random)
        filled = None if pointed is None else _filled(form, insn, pointed, registers, random)
        if filled is not None:
            yield Case(code, *filled, base)


# Gives the registers that an operation takes an address from what leads into the RAM, and those
# that it compares what is there. None is a case that cannot be: a register is needed for both.
def _pointed(
    form: Form, insn: Instruction, cpu: CpuState, base: int, registers: Container[int],
    random: Random,
) -> CpuState | None:  # fmt: skip
    if form.operation.endswith(" string"):
        # A bit offset within the RAM, unless the register is needed for the address.
        number = _number_of(insn.operands[1])
        if number in registers:
            return None
        bits = (1 << 8 * insn.operand_size) - 1
        offset = random.randrange(-(1 << 14), 1 << 14) & bits
        cpu = _with(cpu, number, cpu.gpr[number] & ~bits | offset)
    if form.name == "movdir64b":
        number = _number_of(insn.operands[0])
        if number in registers:
            return None
        cpu = _with(cpu, number, base + 64 * random.randrange(16))
    if form.operation.startswith("cmpxchg") and random.random() < 0.5:
        # A comparison that succeeds, unless the register is needed for the address.
        linear = plan(insn, cpu)[0].linear - base
        half = insn.width // 2 if form.operation == "cmpxchg8b" else insn.width
        for number, at in ((0, linear), (2, linear + half)):
            if number not in registers:
                cpu = _with(cpu, number, int.from_bytes(PATTERN[at : at + half], "little"))
    return cpu


# Puts into the RAM what an operation does something with, and beside it into a register.
def _filled(
    form: Form, insn: Instruction, cpu: CpuState, registers: Container[int], random: Random
) -> tuple[CpuState, dict[int, bytes]] | None:
    ram: dict[int, bytes] = {}
    if form.operation in ("call", "jmp", "ret"):
        if form.register:
            number = _number_of(insn.operands[0])
            if number == RSP:
                return None
            cpu = _with(cpu, number, JUMPED)
        elif form.operands != ("Jz",):
            ram[plan(insn, cpu)[0].linear] = JUMPED.to_bytes(8, "little")
    elif form.operation in ("div", "idiv") and 2 not in registers and random.random() < 0.9:
        # A divisor of about the size of rDX, so that most quotients fit.
        linear, width = plan(insn, cpu)[0].linear, insn.width
        cpu = _with(cpu, 2, random.choice((0, 1, random.getrandbits(8 * width - 3))))
        divisor = random.getrandbits(8 * width) | 1 << 8 * width - 2
        ram[linear] = divisor.to_bytes(width, "little")
    elif form.operation == "fld" and random.random() < 0.9:
        value = _number(insn.width, random)
        ram[plan(insn, cpu)[0].linear] = value.to_bytes(insn.width, "little")
    elif form.unit in (Unit.SSE, Unit.MMX) and random.random() < 0.6:
        for operand in plan(insn, cpu)[:1]:
            value = vector(operand.width, random)
            ram[operand.linear] = value.to_bytes(operand.width, "little")
    elif not form.operation.startswith("cmpxchg") and random.random() < 0.3:
        for operand in plan(insn, cpu)[:1]:
            value = random.choice(EDGES) & ((1 << 8 * operand.width) - 1)
            ram[operand.linear] = value.to_bytes(operand.width, "little")
    return cpu, ram


def _number_of(operand: Operand) -> int:
    assert isinstance(operand, Register)
    return operand.number


def _step(form: Form) -> int:
    return (32 if form.opcode.vex else 16) if form.aligned else 1


def _with(cpu: CpuState, number: int, value: int) -> CpuState:
    return replace(cpu, gpr=(*cpu.gpr[:number], value, *cpu.gpr[number + 1 :]))


def _state(
    form: Form, mode: Mode, registers: dict[int, int], bits: int, random: Random
) -> CpuState:
    width = max(mode.value, 32)
    mask = (1 << width) - 1
    gpr = [
        (random.choice(EDGES) if random.random() < 0.5 else random.getrandbits(64)) & mask
        for _ in GPR
    ]
    middle = _middle(bits, mode)
    gpr[RSP] = middle + 0x1800 + random.randrange(64)
    if form.operation in ("leave", "enter"):
        gpr[RBP] = middle + 0x800 + random.randrange(64)
    addresses = dict(registers)
    if form.repeat:
        addresses[RCX] = random.choice((0, 1, 2, 5))
        addresses[RSI] = middle + random.randrange(64)
        addresses[RDI] = middle + 0x40 + random.randrange(64)
    elif form.name == "xlat":
        addresses[RBX] = middle
    for number, value in addresses.items():
        # Beyond the address size there is junk; not in RSP, which the stack needs whole.
        junk = random.getrandbits(width) << bits if number != RSP else 0
        gpr[number] = (value & (1 << bits) - 1 | junk) & mask
    # User code on a host runs with interrupts on, which PUSHF shows.
    flags = 2 | Flag.IF | random.choice((0, ALL_FLAGS, random.getrandbits(12) & ALL_FLAGS))
    if form.repeat and random.random() < 0.3:
        flags |= Flag.DF
    step = _step(form)
    bases = Segments(
        cs=0x33, ss=0x2B,  # Linux's selectors for user code, which the host CPU has
        fs_base=random.randrange(4096) // step * step,
        gs_base=random.randrange(4096) // step * step,
    )  # fmt: skip
    if "estr" in form.operation:
        for number in {0, 2} - set(registers):
            gpr[number] = random.choice((gpr[number], random.randrange(-20, 20) & mask))
    xmm = tuple(vector(16, random) for _ in range(16))
    ymm = tuple(vector(16, random) for _ in range(16))
    cpu = CpuState(
        tuple(gpr), CODE, int(flags), mode=mode, segments=bases, xmm=xmm, ymm=ymm, cr4=_CR4
    )
    return cpu if form.unit not in (Unit.X87, Unit.MMX) else _x87_state(cpu, random)


def vector(width: int, random: Random) -> int:
    """Return ``width`` bytes: noise, elements at their edges, small numbers, or the RAM's own."""
    size = random.choice((1, 2, 4, 8))
    ones = (1 << 8 * size) - 1
    kind = random.randrange(5)
    if not kind:
        at = RAM_SIZE // 2 + random.randrange(256)
        return int.from_bytes(PATTERN[at : at + width], "little")
    value = 0
    for at in range(0, width, size):
        values = (
            random.getrandbits(8 * size), random.choice(EDGES), random.randrange(9 * size),
            random.choice((0, 1, ones, ones >> 1, (ones >> 1) + 1)),
        )  # fmt: skip
        value |= (values[kind - 1] & ones) << 8 * at
    return value & ((1 << 8 * width) - 1)


def _x87_state(cpu: CpuState, random: Random) -> CpuState:
    # A stack of any depth, values of every class, any rounding; masks as programs set them.
    stack = tuple(_real(random) for _ in range(8))
    top = random.randrange(8)
    tag = 0
    for position, value in enumerate(stack):
        kind = 3 if random.random() < 0.2 else real.tag(value)
        tag |= kind << 2 * (top + position & 7)
    control = 0x340 | random.choice((0x3F, 0x3F, 0x3F, random.getrandbits(6)))
    control |= random.getrandbits(2) << 10
    status = top << 11 | random.choice((0, 0x4700, random.getrandbits(16) & 0x4700))
    return replace(cpu, st=stack, fpu_tag=tag, fpu_control=control, fpu_status=status)


def _real(random: Random) -> int:
    sign = random.getrandbits(1) << 79
    significand = random.choice((random.getrandbits(64), 0, 1 << 63, (1 << 64) - 1, 3 << 62))
    exponent = random.choice(
        (0, 0x7FFF, 16383, 16383 + random.randrange(-70, 70),
         16383 + random.randrange(-1100, 1100), 16383 - 127, 16383 - 1023, 16383 + 128,
         16383 + 1024, random.getrandbits(15))
    )  # fmt: skip
    if exponent and random.random() < 0.95:
        significand |= 1 << 63
    return sign | exponent << 64 | significand


def _number(width: int, random: Random) -> int:
    # Numbers rather than noise: zeros, denormals, infinities, NaNs, and what a real may be.
    if width == 10:
        return _real(random)
    if random.random() < 0.5:
        return real.narrow(width, _real(random), real.Rounding.NEAREST).value
    top, fraction = (0x7F800000, 23) if width == 4 else (0x7FF << 52, 52)
    exponent = random.choice((0, top, top - (1 << fraction), 1 << fraction))
    low = random.choice((0, 1, 1 << fraction - 1, random.getrandbits(fraction)))
    return exponent | low | random.getrandbits(1) << 8 * width - 1
