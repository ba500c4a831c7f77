"""From a raw record and its site to what a trace tells: registers, accesses, what became of them.

Every record can be run again through vetrace's emulator, which must do the same with what the
device gave: :func:`verified`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tracer.compiled.layout import pieces
from tracer.compiled.ring import Raw
from tracer.compiled.safety import Template, reads_and_writes, template_of
from tracer.errors import EmulationError
from tracer.x86 import bus
from tracer.x86.bus import Load, Store
from tracer.x86.forms import Unit
from tracer.x86.instruction import SEGMENTS, File, Instruction, Memory, Register
from tracer.x86.state import RDI, RSI, CpuState, PageFaultCode, Segments

if TYPE_CHECKING:
    from tracer.compiled.sites import Site

_MASK64 = (1 << 64) - 1

# The CPU carried it out once. Canonical addresses of 57 bits include those of 48 (Intel SDM vol. 1,
# 3.3.7.1).
_CR4 = CpuState().cr4 | 1 << 12


@dataclass(frozen=True, slots=True)
class Access:
    """Hold one access of a record: a write or a read, to the device or to RAM.

    ``linear`` and ``physical`` are addresses of the first byte, ``width`` is in bytes.
    """

    write: bool
    linear: int
    physical: int
    width: int
    value: int
    device: bool


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Tell in ``words`` how the emulator differs from what the guest did in a record."""

    site: Site
    raw: Raw
    words: str

    def __str__(self) -> str:
        insn = self.site.insn
        return f"{insn.text} [{insn.code.hex(' ')}] at {insn.rip:#x}: {self.words}"


def parts(insn: Instruction) -> tuple[tuple[bool, int, int], ...] | None:
    """Return what goes over the bus of each execution: whether it writes, at which byte, how many.

    None where RAM is accessed beside the device: then :func:`accesses` tells, of one record.
    """
    if template_of(insn) not in (Template.MOVE, Template.CELL):
        return None
    ways = zip((False, True), reads_and_writes(insn), strict=True)
    return tuple((write, *piece) for write, does in ways if does for piece in pieces(insn.width))


def state_before(insn: Instruction, raw: Raw) -> CpuState:
    """Return the registers that the instruction found, as far as a record has them.

    Vector and x87 registers are not known. The base of FS or GS is what the address says it is, a
    segment register what was written of it.
    """
    cpu = CpuState(raw.gpr, insn.rip, raw.rflags, cr4=_CR4)
    for operand in insn.operands:
        if isinstance(operand, Memory) and operand.segment in ("fs", "gs"):
            from tracer.x86.emulate.address import places

            base = raw.linear - places(insn, cpu)[0].linear & _MASK64
            return replace(cpu, segments=Segments(**{f"{operand.segment}_base": base}))
        if isinstance(operand, Register) and operand.file is File.SEGMENT:
            selector = int.from_bytes(raw.written[:2], "little")
            return replace(cpu, segments=Segments(**{SEGMENTS[operand.number]: selector}))
    return cpu


def accesses(insn: Instruction, raw: Raw, window: int) -> tuple[Access, ...]:
    """Return the accesses of a record in their order, each whole.

    ``window`` is the linear address that the window has physical address 0 at.
    """
    width = insn.width
    read, written = (int.from_bytes(data[:width], "little") for data in (raw.read, raw.written))
    device = raw.linear, raw.alias - window & _MASK64
    template = template_of(insn)
    if template in (Template.MOVE, Template.CELL):
        reads, writes = reads_and_writes(insn)
        found = [Access(False, *device, width, read, True)] if reads else []
        return (*found, Access(True, *device, width, written, True)) if writes else tuple(found)
    # Each side is the device or RAM.
    assert insn.form is not None
    operation = insn.form.operation
    other = int.from_bytes(raw.read[16:24], "little") - window & _MASK64
    mask = (1 << 8 * insn.address_size) - 1
    to_device = operation == "pop" or (operation == "movs" and bool(raw.error & PageFaultCode.W))
    match operation:
        case "lods":
            return (Access(False, *device, width, read, True),)
        case "stos":
            return (Access(True, *device, width, written, True),)
        case "push":
            ram = raw.rsp - width & _MASK64, other
        case "pop":
            ram = raw.rsp, other
        case _:
            ram = raw.gpr[RSI if to_device else RDI] & mask, other
    source, target = (ram, device) if to_device else (device, ram)
    return (
        Access(False, *source, width, read, not to_device),
        Access(True, *target, width, written, to_device),
    )


def transfers(access: Access) -> Iterator[Access]:
    """Yield what goes over the bus of one access: at most 8 bytes each."""
    for at, size in pieces(access.width):
        yield replace(
            access,
            linear=access.linear + at,
            physical=access.physical + at,
            width=size,
            value=access.value >> 8 * at & (1 << 8 * size) - 1,
        )


def state_after(insn: Instruction, raw: Raw) -> CpuState | None:
    """Return what the instruction left behind, by the emulator.

    None where that is on registers that a record does not have: vector and x87 registers.
    """
    return _emulated(insn, raw, [])


def verified(site: Site, raw: Raw) -> Disagreement | None:
    """Run a record through the emulator; return how the two differ, None where they do not.

    Nothing is said of an instruction on registers that a record does not have.
    """
    said: list[str] = []
    _emulated(site.insn, raw, said)
    return Disagreement(site, raw, "; ".join(said)) if said else None


def _emulated(insn: Instruction, raw: Raw, said: list[str]) -> CpuState | None:
    if not _is_known(insn):
        return None
    from tracer.x86.emulate import execute  # for those who ask what it left behind

    ahead = list(accesses(insn, raw, 0))
    try:
        emulation = execute(insn, state_before(insn, raw))
        for asked in emulation:
            made = ahead.pop(0) if ahead else None
            if made is None or not _is_alike(asked, made):
                said.append(f"the emulator asks for {asked}, the guest made {made}")
            if made is None or made.write != isinstance(asked, Store):
                return None
            emulation.answer = None if made.write else made.value
    except EmulationError as error:
        said.append(f"the emulator says: {error}")
        return None
    if ahead:
        said.append(f"the guest made {ahead[0]}, the emulator does not")
    return emulation.after


def _is_alike(asked: bus.Access, made: Access) -> bool:
    where = made.linear, made.width
    match asked:
        case Load():
            return not made.write and (asked.linear, asked.width) == where
        case Store():
            return made.write and (asked.linear, asked.width, asked.value) == (*where, made.value)
        case _:
            return False  # an I/O port


def _is_known(insn: Instruction) -> bool:
    # Tells whether a record has all registers that the emulator needs.
    assert insn.form is not None
    return insn.form.unit is Unit.INTEGER
