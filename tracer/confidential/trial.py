"""Instructions to try on a guest's own handler: drawn from a seed, with the state to run them in.

Each is put somewhere in the guest's kernel and its access made to fail as one to a device would,
so that the handler decodes it, asks its host, and goes on behind it, or gives up. What follows of
it is in :mod:`tracer.confidential.expectation`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Literal

from tracer.confidential.draw import Draw
from tracer.confidential.handler import KNOWN
from tracer.errors import EmulationError, GuestException
from tracer.x86.decode import decode
from tracer.x86.emulate.address import effective_address, linear_address, places
from tracer.x86.forms import FORMS, Form
from tracer.x86.instruction import File, Instruction, Memory, Register
from tracer.x86.state import PAGE_SIZE, RCX, RDI, RSI, RSP, CpuState, Mode

Place = Literal["device", "crossing", "user", "elsewhere"]
"""A memory operand is in the device's pages, over the end of one of them, at an address of user
space, or wherever the instruction has it."""

_STATUS = 0x8D5
_PREFIXES = (0x26, 0x2E, 0x36, 0x3E)
_ESCAPES = (b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a")
# Drawn so often before the next opcode is taken.
_MOST_DRAWS = 200
_MOST_ELEMENTS = 3


@dataclass(frozen=True, slots=True)
class Ground:
    """Tell where trials have room, in linear addresses.

    ``code`` is where each instruction is put, ``stack`` its RSP, of which the low byte may change.
    ``device`` is the first of ``pages`` pages of a device, ``user`` as many in user space.
    ``steered`` tells that an operand has to begin in one of these, as the handler looks its address
    up in the page tables; else it may be elsewhere in the kernel's half too. ``physical`` is where
    they are in physical memory, as the guest is told: both are ``span`` bytes of it, over and over.
    """

    code: int
    stack: int
    device: int
    user: int
    physical: int
    span: int
    pages: int = 2
    steered: bool = False

    def translate(self, linear: int) -> int:
        """Return the physical address of a linear one, as the guest is told."""
        return self.physical | linear & self.span - 1


@dataclass(frozen=True, slots=True)
class Trial:
    """Hold one instruction, the state before it, and where its operand begins.

    ``answer`` is what the host says to a read, 64 bits of which it takes as many as are asked for.
    """

    number: int
    insn: Instruction
    cpu: CpuState
    linear: int
    place: Place
    answer: int


@dataclass(frozen=True, slots=True)
class _Opcode:
    # A mandatory prefix, or none where one would make it another opcode (``free`` is false).
    prefix: bytes
    free: bool
    wide: bool
    code: bytes
    digit: int | None
    modrm: bool
    absolute: bool
    steerable: bool


def _opcode(form: Form) -> _Opcode:
    opcode = form.opcode
    prefix = bytes.fromhex(opcode.prefix) if opcode.prefix in ("66", "F2", "F3") else b""
    code = _ESCAPES[opcode.map] + bytes([opcode.byte])
    absolute = any(slot[0] == "O" for slot in form.operands)
    # The stack is read first by POP, and an I/O port by INS and OUTS.
    steerable = form.operation not in ("ins", "outs", "pop")
    free, wide = not opcode.prefix, bool(opcode.w)
    return _Opcode(prefix, free, wide, code, opcode.digit, form.modrm, absolute, steerable)


def _usable(form: Form) -> bool:
    # A form without ModRM whose only access is the stack's cannot fail at a device.
    opcode = form.opcode
    places_memory = form.modrm or any(slot[0] in "OTXY" for slot in form.operands)
    if form.operation == "movdir64b":
        return False  # its destination is named by a register, beside its memory operand
    return not opcode.vex and not form.register and form.only != "i64" and places_memory


_KNOWN = tuple(dict.fromkeys(_opcode(form) for form in FORMS if form.opcode.text in KNOWN))
_OTHER = tuple(
    dict.fromkeys(
        _opcode(form) for form in FORMS if form.opcode.text not in KNOWN and _usable(form)
    )
)

KNOWN_OPCODES, OTHER_OPCODES = len(_KNOWN), len(_OTHER)
"""How many opcodes there are that `insn_decode_mmio` knows, and that it does not know."""


def trials(seed: int, count: int, ground: Ground) -> Iterator[Trial]:
    """Yield so many trials, the same for the same arguments.

    Seven of ten have an opcode that a handler knows; each kind of opcode comes in turn.
    """
    draw = Draw(seed)
    known, other = (
        cycle(draw.shuffled([it for it in opcodes if it.steerable or not ground.steered]))
        for opcodes in (_KNOWN, _OTHER)
    )
    number = 0
    while number < count:
        opcode = next(known if draw.chance(70) else other)
        for _ in range(_MOST_DRAWS):
            found = _trial(draw, number, opcode, ground)
            if found is not None:
                yield found
                number += 1
                break


def _trial(draw: Draw, number: int, opcode: _Opcode, ground: Ground) -> Trial | None:
    place = _place(draw)
    target = _target(draw, place, ground)
    try:
        insn = decode(_encoded(draw, opcode, target), ground.code, Mode.LONG)
    except EmulationError:
        return None
    if insn.form is None or _is_fatal(insn):
        return None
    if insn.form.aligned:
        target &= -insn.width
    cpu = _state(draw, ground)
    if ground.steered and insn.form.operation == "movs":
        cpu = _between(draw, cpu, insn, place, target, ground)
    else:
        cpu = _steered(cpu, insn, target)
    linear = _linear(insn, cpu)
    if linear is None:
        return None
    place = _reached(linear, insn.width, ground)
    if ground.steered and place == "elsewhere":
        return None
    return Trial(number, insn, cpu, linear, place, draw.bits())


def _place(draw: Draw) -> Place:
    chosen = draw.below(100)
    return "device" if chosen < 75 else "crossing" if chosen < 90 else "user"


def _target(draw: Draw, place: Place, ground: Ground) -> int:
    room = ground.pages * PAGE_SIZE - 64
    if place == "crossing":
        ends = max(ground.pages - 1, 1)  # with two pages or more what is crossed is a device's
        return ground.device + PAGE_SIZE * (1 + draw.below(ends)) - 1 - draw.below(7)
    return (ground.device if place == "device" else ground.user) + draw.below(room)


def _encoded(draw: Draw, opcode: _Opcode, target: int) -> bytes:
    # Prefixes, opcode, ModRM for memory, and whatever follows.
    prefixes = bytearray()
    if draw.chance(30) and opcode.free:
        prefixes.append(0x66)
    if draw.chance(6):
        prefixes.append(0x67)
    if draw.chance(10):
        prefixes.append(draw.choice(_PREFIXES))
    if draw.chance(6) and opcode.free:
        prefixes.append(draw.choice((0xF2, 0xF3)))
    prefixes += opcode.prefix
    if opcode.wide or draw.chance(50):
        prefixes.append(0x40 | 8 * opcode.wide | draw.below(16))
    body = opcode.code
    if opcode.absolute:
        body += target.to_bytes(8, "little")
    if opcode.modrm:
        digit = draw.below(8) if opcode.digit is None else opcode.digit
        body += bytes([draw.below(3) << 6 | digit << 3 | draw.below(8)])
    return (bytes(prefixes) + body + draw.code(12))[:15]


def _state(draw: Draw, ground: Ground) -> CpuState:
    # Values that look like the kernel's pointers, and ones that look like nothing.
    gpr = [
        draw.bits() if draw.chance(30) else ground.device & -1 << 32 | draw.bits() >> 32
        for _ in range(16)
    ]
    gpr[RSP] = ground.stack
    flags = 2 | (draw.bits() & _STATUS if draw.chance(50) else 0)
    return CpuState(gpr=tuple(gpr), rip=ground.code, rflags=flags)


def _steered(cpu: CpuState, insn: Instruction, target: int) -> CpuState:
    # Sets the base of the operand so that it comes to lie at the target, where it has one.
    memory = _first(insn)
    if memory.base in (None, RSP) or memory.base == memory.index:
        return cpu
    assert memory.base is not None
    distance = target - linear_address(memory, effective_address(memory, insn, cpu), cpu)
    gpr = list(cpu.gpr)
    gpr[memory.base] = gpr[memory.base] + distance & (1 << 64) - 1
    return replace(cpu, gpr=tuple(gpr))


def _between(
    draw: Draw, cpu: CpuState, insn: Instruction, place: Place, target: int, ground: Ground
) -> CpuState:
    # Moves from the target to another place of the same kind, so few elements that neither runs
    # over the end of a page; one that crosses it is the only one.
    gpr = list(cpu.gpr)
    gpr[RSI] = target
    gpr[RDI] = _target(draw, "user" if place == "user" else "device", ground)
    if insn.rep is not None:
        gpr[RCX] = 1 if place == "crossing" else 1 + draw.below(_MOST_ELEMENTS)
    return replace(cpu, gpr=tuple(gpr))


def _first(insn: Instruction) -> Memory:
    # The source of MOVS is read before the destination is written.
    found = [operand for operand in insn.operands if isinstance(operand, Memory)]
    return found[-1 if insn.form is not None and insn.form.operation == "movs" else 0]


def _linear(insn: Instruction, cpu: CpuState) -> int | None:
    # Tells where the operand begins that fails first; None where a CPU would not come so far.
    try:
        operands = places(insn, cpu)
    except (EmulationError, GuestException):
        return None
    return operands[0].linear if operands else None


def _is_fatal(insn: Instruction) -> bool:
    # A load into RSP would be the stack on which the guest goes on.
    target = insn.operands[0] if insn.operands else None
    return (
        isinstance(target, Register)
        and target.file is File.GPR
        and target.number == RSP
        and target.width > 1
    )


def _reached(linear: int, width: int, ground: Ground) -> Place:
    last = linear + max(width, 1) - 1
    size = ground.pages * PAGE_SIZE
    if ground.device <= linear < ground.device + size:
        return "device" if linear // PAGE_SIZE == last // PAGE_SIZE else "crossing"
    if ground.user <= linear < ground.user + size or not (ground.steered or linear >> 63):
        return "user"
    return "elsewhere"
