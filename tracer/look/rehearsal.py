"""A stopped instruction, executed with made-up answers in the place of what no device has said.

Results that all executions share are certain; how the others depend on the answer is found by
trial: see :mod:`tracer.look.relation`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tracer.access.decision import Pending
from tracer.access.space import Glance
from tracer.access.transfer import Transfer, pieces_of
from tracer.errors import EmulationError, GuestException
from tracer.look.operand import used_registers
from tracer.look.relation import trials
from tracer.x86.bus import Direction, In, Load, PortAccess
from tracer.x86.emulate import execute
from tracer.x86.emulate.search import STRING_COMPARISONS
from tracer.x86.instruction import File, Immediate, Instruction, Register
from tracer.x86.state import GPR, RAX, RDX, CpuState


@dataclass(frozen=True, slots=True)
class Piece:
    """Hold one transfer of an execution.

    ``value`` is what it moved, ``known`` tells that no made-up answer is in it.
    """

    direction: Direction
    linear: int
    width: int
    value: int
    known: bool


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Hold one execution with made-up answers.

    ``read`` is all that its loads returned, and a port, first one lowest, ``read_width`` bytes; of
    these ``made_up`` bits are made up. ``cpu`` is the state afterwards, None where it raised the
    ``exception`` of that vector.
    """

    pieces: tuple[Piece, ...]
    read: int
    read_width: int
    made_up: int
    cpu: CpuState | None
    exception: int | None = None


def rehearsals(insn: Instruction, pending: Pending) -> list[Rehearsal]:
    """Execute an instruction, once for each answer that tells apart what is not known.

    There are none where the emulator cannot execute it, or where there are more ways for it to end
    than trials can show.
    """
    if insn.form is not None and insn.form.operation in STRING_COMPARISONS:
        return []
    glance = pending.space.glance()
    try:
        first = _execute(insn, pending, 0, glance)
    except EmulationError:
        return []
    if not first.made_up:
        return [first]
    others = _turning_points(insn, pending.cpu)
    return [_execute(insn, pending, answer, glance) for answer in trials(first.made_up, others)]


def _turning_points(insn: Instruction, cpu: CpuState) -> Iterator[int]:
    # Values about which a result may turn: what the instruction compares with or adds.
    gpr = cpu.gpr
    known = {gpr[number] for number in range(16) if GPR[number] in used_registers(insn)}
    known |= {operand.value for operand in insn.operands if isinstance(operand, Immediate)}
    known |= {gpr[RAX] | gpr[RDX] << 64, gpr[RAX] & 0xFFFFFFFF | (gpr[RDX] & 0xFFFFFFFF) << 32}
    known |= {value >> 8 for value in known}  # AH and its kin
    for operand in insn.operands:
        if isinstance(operand, Register) and operand.file is File.XMM and cpu.xmm:
            known |= {cpu.xmm[operand.number], ~cpu.xmm[operand.number]}
    for value in known:
        for turned in (value, -value):
            yield from (turned - 1, turned, turned + 1)


def _execute(insn: Instruction, pending: Pending, answers: int, glance: Glance) -> Rehearsal:
    # `answers` fills in the reads whose values are not known, the first one from its lowest bits.
    known: list[Transfer] = list(pending.done)
    if pending.transfer.direction == "read" and pending.transfer.value is not None:
        known.append(pending.transfer)
    pieces: list[Piece] = []
    read = read_width = made_up = 0
    try:
        emulation = execute(insn, pending.cpu)
        for access in emulation:
            if isinstance(access, In):
                # A port may have been read: no more of that is known than the write that waits.
                answer = emulation.answer = answers & (1 << 8 * access.width) - 1
                answers >>= 8 * access.width
                made_up += 8 * access.width
                read |= answer << 8 * read_width
                read_width += access.width
            if isinstance(access, PortAccess):
                continue
            whole = 0
            for part in pieces_of(access.linear, access.width, glance):
                linear, width = part.linear, part.width
                shift = 8 * (linear - access.linear)
                ones = (1 << 8 * width) - 1
                told = known[len(pieces)].value if len(pieces) < len(known) else None
                if not isinstance(access, Load):
                    piece = Piece("write", linear, width, access.value >> shift & ones, True)
                elif told is not None:
                    piece = Piece("read", linear, width, told & ones, True)
                else:
                    piece = Piece("read", linear, width, answers & ones, False)
                    answers >>= 8 * width
                    made_up += 8 * width
                whole |= piece.value << shift
                pieces.append(piece)
            if isinstance(access, Load):
                emulation.answer = whole
                read |= whole << 8 * read_width
                read_width += access.width
    except GuestException as error:
        return Rehearsal(tuple(pieces), read, read_width, made_up, None, error.vector)
    return Rehearsal(tuple(pieces), read, read_width, made_up, emulation.after)


def dependence(insn: Instruction | None) -> str:
    """Say how a result depends on what is read where no relation to it has been found."""
    name = insn.form.name if insn is not None and insn.form is not None else ""
    if name.startswith("cmpxchg"):
        return "depends on whether the value read is the one expected"
    return f"depends on the value read, by {name}" if name else "depends on the value read"
