"""What capstone says of code bytes: its text, and whether they are an instruction.

Its operand widths and access directions are not asked for: they are wrong for many instructions
(XCHG, MOVNTI, CMPXCHG, MOVS, COMISD, PEXTRB, 67h with REX.W among them).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import capstone

from tracer.errors import InvalidInstruction, NotEnoughBytes
from tracer.x86.instruction import Instruction, Touch
from tracer.x86.state import MAX_INSTRUCTION, Mode

_CAPSTONE = {
    Mode.LONG: capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64),
    Mode.COMPAT32: capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32),
    Mode.COMPAT16: capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_16),
}
_DETAILED = {mode: capstone.Cs(capstone.CS_ARCH_X86, cs.mode) for mode, cs in _CAPSTONE.items()}
for _disassembler in _DETAILED.values():
    _disassembler.detail = True


@dataclass(frozen=True, slots=True)
class Operand:
    """Hold an operand: a ``register`` by its name, an ``immediate``, or else a place in memory.

    A place is ``base`` plus ``index`` times ``scale`` plus ``displacement``, in a ``segment`` if
    that is named. ``width`` is in bytes, capstone's.
    """

    width: int
    register: str = ""
    immediate: int | None = None
    base: str = ""
    index: str = ""
    scale: int = 1
    displacement: int = 0
    segment: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """Hold an instruction as it is read by who follows code: at a linear address, in words."""

    linear: int
    length: int
    mnemonic: str
    operands: tuple[Operand, ...]

    @property
    def end(self) -> int:
        """Return the linear address behind it."""
        return self.linear + self.length


def step(code: bytes, rip: int, mode: Mode = Mode.LONG) -> Step | None:
    """Return the instruction at the start of ``code``, or None for none; ``rip`` is linear."""
    for found in _DETAILED[mode].disasm(code[:MAX_INSTRUCTION], rip, 1):
        operands = tuple(_operand(found, each) for each in found.operands)
        if mode is Mode.COMPAT16 and _is_relative(found):
            # The target is as far from here wherever the segment begins.
            away = (operands[0].immediate or 0) - rip - found.size & 0xFFFF
            target = rip + found.size + (away ^ 0x8000) - 0x8000
            operands = (Operand(operands[0].width, immediate=target),)
        return Step(rip, found.size, str(found.mnemonic), operands)
    return None


def _is_relative(found: capstone.CsInsn) -> bool:
    return bool(found.group(capstone.x86.X86_GRP_BRANCH_RELATIVE)) and len(found.operands) == 1


def _operand(found: capstone.CsInsn, operand: capstone.x86.X86Op) -> Operand:
    width = int(operand.size)
    if operand.type == capstone.x86.X86_OP_REG:
        return Operand(width, register=str(found.reg_name(operand.reg)))
    if operand.type == capstone.x86.X86_OP_IMM:
        return Operand(width, immediate=int(operand.imm) & (1 << 64) - 1)
    place = operand.mem
    names = (str(found.reg_name(each) or "") for each in (place.base, place.index, place.segment))
    base, index, segment = names
    return Operand(
        width, base=base, index=index, scale=int(place.scale), displacement=int(place.disp),
        segment=segment,
    )  # fmt: skip


def words(code: bytes, rip: int, mode: Mode) -> tuple[str, str] | None:
    """Return mnemonic and operands of the bytes at a linear address, taken as one instruction.

    None where capstone takes them for none, or for a shorter one.
    """
    for _, length, mnemonic, operands in _CAPSTONE[mode].disasm_lite(code, rip, 1):
        if length == len(code):
            return mnemonic, operands
    return None


def lengths(code: bytes, rip: int, mode: Mode) -> Iterator[int]:
    """Yield the length of each instruction from a linear address on, up to one that is none."""
    return (length for _, length, _, _ in _CAPSTONE[mode].disasm_lite(code, rip))


def mnemonic(code: bytes) -> str | None:
    """Return the mnemonic of bytes that 64-bit code would have too, or None.

    Of 16-bit code capstone does not know all.
    """
    for _, _, name, _ in _CAPSTONE[Mode.LONG].disasm_lite(code + bytes(MAX_INSTRUCTION), 0, 1):
        return str(name)
    return None


@cache
def mnemonics() -> frozenset[str]:
    """Return the names of all instructions that capstone knows."""
    disassembler, names = _CAPSTONE[Mode.LONG], set()
    for number in range(1, capstone.x86.X86_INS_ENDING):
        name = disassembler.insn_name(number)
        if name:
            names.add(str(name))
    return frozenset(names)


PREDICATED = re.compile(r"v?cmp\w+[ps][sd]|vpcmp\w+|vpcom\w+")
"""Names that capstone puts a predicate into: cmpltps, vcmpnge_uqsd, vpcomltb."""

PRINTED = frozenset({"faddp"})
"""Names that it prints, and calls otherwise in its list: FADD."""


def is_mnemonic(name: str) -> bool:
    """Tell whether an instruction can have a name, those with a predicate in it among them."""
    return name in mnemonics() | PRINTED or PREDICATED.fullmatch(name) is not None


def foreign(code: bytes, rip: int, mode: Mode) -> Instruction:
    """Return the instruction at the start of ``code``, of which nothing else knows.

    With a memory operand it does something with memory that is not known. Raise
    :class:`NotEnoughBytes` and :class:`InvalidInstruction` as :func:`tracer.x86.decode.decode`
    does.
    """
    code = code[:MAX_INSTRUCTION]
    for found in _DETAILED[mode].disasm(code, rip, 1):
        names = any(operand.type == capstone.x86.X86_OP_MEM for operand in found.operands)
        text = f"{found.mnemonic} {found.op_str}".rstrip()
        touches = (Touch("unknown", None),) if names else ()
        return Instruction(rip, code[: found.size], mode, text, touches=touches)
    if len(code) < MAX_INSTRUCTION:
        # A proper prefix of an instruction becomes one when some byte and zeros follow it.
        for byte in range(256):
            longer = (code + bytes([byte]) + bytes(MAX_INSTRUCTION))[:MAX_INSTRUCTION]
            for _, length, _, _ in _CAPSTONE[mode].disasm_lite(longer, rip, 1):
                if length > len(code):
                    raise NotEnoughBytes(code)
    raise InvalidInstruction(code)
