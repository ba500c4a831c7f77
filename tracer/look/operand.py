"""What an instruction takes: its memory operands with their addresses, and its registers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tracer.access.decision import Pending
from tracer.access.region import place_of
from tracer.access.transfer import Transfer
from tracer.errors import EmulationError
from tracer.trace.registers import other_registers
from tracer.x86.bus import Direction, Operand
from tracer.x86.emulate import plan as operands_of
from tracer.x86.emulate.address import effective_address, linear_address, nesting
from tracer.x86.forms import Access
from tracer.x86.instruction import File, Instruction, Memory, Register, operand_text
from tracer.x86.state import GPR, RAX, RBP, RCX, RDX, RSP, CpuState, Mode


@dataclass(frozen=True, slots=True)
class Address:
    """Tell how the address of a memory operand is formed.

    ``text`` is the operand as written, ``formula`` the same with numbers: it comes to ``linear``.
    ``physical`` and ``place`` are those of the first byte, None where the operand is not accessed.
    """

    text: str
    formula: str
    linear: int
    physical: int | None
    place: str | None
    reads: bool
    writes: bool


def addresses(insn: Instruction, pending: Pending) -> tuple[Address, ...]:
    """Return the address of each memory operand of a pending instruction, in its own order."""
    cpu = pending.cpu
    named = memories(insn)
    try:
        planned: Sequence[Operand | None] = operands_of(insn, cpu)
    except EmulationError:
        planned = ()
    if len(planned) != len(named):
        planned = [None] * len(named)  # left to the CPU, or a REP with nothing left to do
    return tuple(
        _address(insn, memory, operand, access, pending)
        for (memory, access), operand in zip(named, planned, strict=True)
    )


def memories(insn: Instruction) -> list[tuple[Memory, Access]]:
    """Return the memory operands in the order of :func:`tracer.x86.emulate.plan`, the stack's
    too."""
    form = insn.form
    if form is None:
        return []
    found = [
        (operand, form.access if position == 0 else Access.R)
        for position, operand in enumerate(insn.operands)
        if isinstance(operand, Memory)
    ]
    size, ones = insn.operand_size, (1 << 64) - 1 if insn.mode is Mode.LONG else 0xFFFFFFFF
    stack = Memory(size, "ss", RSP, None, 1, 0, False, ones)
    match form.operation:
        case "push" | "pushf" | "call":
            below = replace(stack, displacement=-size)
            return [*((memory, Access.R) for memory, _ in found), (below, Access.W)]
        case "pop" | "ret":
            return [(stack, Access.R), *found]
        case "leave":
            return [(replace(stack, base=RBP), Access.R)]
        case "enter":
            return list(_frames(insn, stack))
        case "movdir64b":
            register, source = insn.operands
            assert isinstance(register, Register) and isinstance(source, Memory)
            target = Memory(64, "es", register.number, None, 1, 0, False, source.mask)
            return [(source, Access.R), (target, Access.W)]
        case "movs":
            return found[::-1]
    return found


def _frames(insn: Instruction, stack: Memory) -> Iterator[tuple[Memory, Access]]:
    size, level = insn.operand_size, nesting(insn)
    yield replace(stack, displacement=-size), Access.W
    for n in range(1, level + 1):
        if n < level:
            yield replace(stack, base=RBP, displacement=-size * n), Access.R
        yield replace(stack, displacement=-size * (n + 1)), Access.W


def _address(
    insn: Instruction,
    memory: Memory,
    operand: Operand | None,
    access: Access,
    pending: Pending,
) -> Address:
    cpu = pending.cpu
    plain = linear_address(memory, effective_address(memory, insn, cpu), cpu)
    linear = plain if operand is None else operand.linear
    terms = _terms(insn, memory, cpu)
    if linear != plain:
        distance = linear - plain
        terms.append(f"{'-' if distance < 0 else '+'} {abs(distance):#x} ({_extra(insn)})")
    found = foretold(pending, linear)
    return Address(
        text=operand_text(replace(memory, width=1)).partition(" ptr ")[2],
        formula=" ".join(terms),
        linear=linear,
        physical=None if found is None else found.physical + linear - found.linear,
        place=None
        if found is None
        else place_of(found.physical + linear - found.linear, found.region, ram=found.ram),
        reads=Access.R in access,
        writes=Access.W in access,
    )


def _extra(insn: Instruction) -> str:
    # Returns what plan adds to the address that the operand names.
    operation = insn.form.operation if insn.form is not None else ""
    if operation == "xlat":
        return "al"
    return "rsp after the pop" if operation == "pop" else "from the bit offset"


def _terms(insn: Instruction, memory: Memory, cpu: CpuState) -> list[str]:
    terms: list[str] = []
    if memory.segment in ("fs", "gs"):
        base = cpu.segments.gs_base if memory.segment == "gs" else cpu.segments.fs_base
        terms.append(f"{base:#x} ({memory.segment}_base)")

    def add(text: str) -> None:
        terms.append(f"+ {text}" if terms else text)

    if memory.base is not None:
        add(f"{cpu.gpr[memory.base] & memory.mask:#x}")
    elif memory.rip_relative:
        add(f"{insn.next_rip & memory.mask:#x} (next rip)")
    if memory.index is not None:
        scale = f"*{memory.scale}" if memory.scale > 1 else ""
        add(f"{cpu.gpr[memory.index] & memory.mask:#x}{scale}")
    offset = memory.displacement
    if memory.base is None and memory.index is None and not memory.rip_relative:
        add(f"{offset & memory.mask:#x}")
    elif offset < 0:
        terms.append(f"- {-offset:#x}")
    elif offset:
        add(f"{offset:#x}")
    if cpu.mode is Mode.LONG and memory.mask < 1 << 32:
        terms.append("(modulo 2^32)")
    return terms


def foretold(pending: Pending, linear: int, direction: Direction | None = None) -> Transfer | None:
    """Return the transfer of a pending instruction that covers a linear address, or None."""
    for transfer in (*pending.done, pending.transfer, *pending.foretold):
        inside = transfer.linear <= linear < transfer.linear + transfer.span
        if inside and direction in (None, transfer.direction):
            return transfer
    return None


def used_registers(insn: Instruction) -> set[str]:
    """Return the names of the registers whose values an instruction takes, the implied ones too."""
    names = set(other_registers(insn))
    numbers: set[int] = set()
    for memory, _ in memories(insn):
        numbers |= {number for number in (memory.base, memory.index) if number is not None}
    for operand in insn.operands:
        if isinstance(operand, Register) and operand.file is File.GPR:
            numbers.add(operand.number)
    if insn.rep is not None:
        numbers.add(RCX)
    if insn.form is not None:
        numbers |= _IMPLIED.get(insn.form.operation, set())
    return names | {GPR[number] for number in numbers}


# Operands that the table does not name (Intel SDM vol. 2, the instructions' own pages).
_IMPLIED: dict[str, set[int]] = {
    "xlat": {RAX}, "stos": {RAX}, "scas": {RAX}, "cmpxchg": {RAX}, "mul": {RAX},
    "cmpxchg8b": {RAX, RDX, RCX, GPR.index("rbx")}, "div": {RAX, RDX}, "idiv": {RAX, RDX},
    "mulx": {RDX}, "pcmpestri": {RAX, RDX}, "pcmpestrm": {RAX, RDX},
}  # fmt: skip
