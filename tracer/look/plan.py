"""What an intercepted instruction is about to do, told before anything has reached the device.

The emulator is executed with made-up answers in the place of what no device has said yet: what
comes out alike is certain, and how the rest depends on the answer is found by trial. No guest, no
page table and no device is touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

from tracer.access.decision import Pending
from tracer.access.execution import lost_atomicity
from tracer.access.recorded import memory_access
from tracer.access.region import place_of
from tracer.access.space import Glance
from tracer.access.transfer import Transfer, pieces_of
from tracer.confidential.handler import Verdict
from tracer.confidential.hypercall import SHARED_BIT, GhcbExit, TdVmcall, hypercalls
from tracer.confidential.request import Mmio
from tracer.confidential.wanted import wanted
from tracer.errors import EmulationError, GuestException
from tracer.look.explanation import EXCEPTIONS, Handled, touch_words, touches, verdicts
from tracer.look.operand import Address, addresses, foretold, used_registers
from tracer.look.relation import Sample, relation, trials
from tracer.x86.bus import Direction, In, Load, PortAccess
from tracer.x86.emulate import execute, undefined_flags
from tracer.x86.emulate.address import count
from tracer.x86.emulate.search import STRING_COMPARISONS
from tracer.x86.instruction import File, Immediate, Instruction, Register, operand_text
from tracer.x86.state import GPR, RAX, RDX, CpuState, Flag, Segments

Moment = Literal["done", "pending", "ahead"]
"""Where an access is in the order: made, about to be made, or after that one."""


@dataclass(frozen=True, slots=True)
class SubAccess:
    """Hold one access within one page, in the order in which the instruction makes them.

    ``value`` is None where it is not known yet; ``how`` then tells in words what a write depends
    on. ``register`` is what the caller's names say of a device register.
    """

    moment: Moment
    direction: Direction
    width: int
    linear: int
    physical: int | None
    place: str | None
    traced: bool
    value: int | None
    how: str | None = None
    register: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """Hold a register that the instruction uses or changes.

    ``width`` is in bytes. ``after`` is its value afterwards where that is certain; else ``how``
    says in words what it will be. Neither is set for one that is only used.
    """

    name: str
    width: int
    before: int
    after: int | None = None
    how: str | None = None


@dataclass(frozen=True, slots=True)
class FlagChange:
    """Hold a flag that changes: ``after`` is None where it depends on what is read.

    ``undefined`` flags are left open by the manuals; the emulator's choice is no promise.
    """

    name: str
    before: bool
    after: bool | None
    undefined: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Tell what an instruction is about to do, as far as that can be known.

    ``predicted`` tells whether ``registers`` and ``flags`` have what will change. ``exceptions``
    are those that some answer of the device makes the CPU raise. ``asked`` are the
    registers, or fields, by which a confidential guest has asked for the access, ``wanted`` is what
    these ask for.
    """

    pending: Pending
    handled: Handled
    addresses: tuple[Address, ...]
    accesses: tuple[SubAccess, ...]
    registers: tuple[Change, ...]
    flags: tuple[FlagChange, ...]
    predicted: bool
    tdvmcall: TdVmcall | None
    asked: Mapping[str, int] | None
    wanted: Mmio | None
    ghcb: GhcbExit | None
    verdicts: dict[str, Verdict]
    exceptions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def plan_of(pending: Pending, register: str | None = None) -> Plan:
    """Return what the instruction of a pending access is about to do.

    ``register`` names the device register that is accessed, where the caller knows it.
    """
    insn = pending.insn
    runs = [] if insn is None else _trials(insn, pending)
    finished = [run for run in runs if run.cpu is not None]
    shared = pending.space.paging.shared or SHARED_BIT
    calls = hypercalls(memory_access(pending.transfer), shared)
    return Plan(
        pending=pending,
        handled="stepped" if pending.via == "stepped" else "emulated",
        addresses=() if insn is None else addresses(insn, pending),
        accesses=_accesses(insn, pending, runs, register),
        registers=() if insn is None else _registers(insn, pending.cpu, finished),
        flags=() if insn is None else _flags(insn, pending.cpu, finished),
        predicted=bool(runs),
        tdvmcall=None if calls is None else calls[0],
        asked=pending.asked,
        wanted=None if pending.asked is None else wanted(pending.asked, {}),
        ghcb=None if calls is None else calls[1],
        verdicts={} if insn is None else _verdicts(insn, pending),
        exceptions=_exceptions(runs),
        notes=_notes(insn, pending),
    )


@dataclass(frozen=True, slots=True)
class _Piece:
    # One transfer of an execution: what it moved, and what of that the answers decided.
    direction: Direction
    linear: int
    width: int
    value: int
    known: bool


@dataclass(frozen=True, slots=True)
class _Run:
    # One execution with made-up answers. `read` is all that its loads returned, and a port, first
    # one lowest, `read_width` in bytes; of them `made_up` bits are. `cpu` is None where it raised.
    pieces: tuple[_Piece, ...]
    read: int
    read_width: int
    made_up: int
    cpu: CpuState | None
    exception: int | None = None


def _trials(insn: Instruction, pending: Pending) -> list[_Run]:
    # Executions that differ in what is not known; none where the emulator cannot execute it, or
    # where there are more ways for it to end than trials can show.
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


def _execute(insn: Instruction, pending: Pending, answers: int, glance: Glance) -> _Run:
    # `answers` fills in the reads whose values are not known, the first one from its lowest bits.
    known: list[Transfer] = list(pending.done)
    if pending.transfer.direction == "read" and pending.transfer.value is not None:
        known.append(pending.transfer)
    pieces: list[_Piece] = []
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
                    piece = _Piece("write", linear, width, access.value >> shift & ones, True)
                elif told is not None:
                    piece = _Piece("read", linear, width, told & ones, True)
                else:
                    piece = _Piece("read", linear, width, answers & ones, False)
                    answers >>= 8 * width
                    made_up += 8 * width
                whole |= piece.value << shift
                pieces.append(piece)
            if isinstance(access, Load):
                emulation.answer = whole
                read |= whole << 8 * read_width
                read_width += access.width
    except GuestException as error:
        return _Run(tuple(pieces), read, read_width, made_up, None, error.vector)
    return _Run(tuple(pieces), read, read_width, made_up, emulation.after)


def _accesses(
    insn: Instruction | None, pending: Pending, runs: Sequence[_Run], register: str | None
) -> tuple[SubAccess, ...]:
    before = [_transfer("done", transfer) for transfer in pending.done]
    now = replace(_transfer("pending", pending.transfer), register=register)
    if not runs:
        order = pending.foretold if pending.via == "stepped" else ()
        at = order.index(pending.transfer) + 1 if pending.transfer in order else len(order)
        return (*before, now, *(_transfer("ahead", transfer) for transfer in order[at:]))
    # The execution that gets furthest: one that raises may have stopped short of a write.
    longest = max(runs, key=lambda run: len(run.pieces))
    ahead = [
        _ahead(index, piece, pending, [run for run in runs if len(run.pieces) > index])
        for index, piece in enumerate(longest.pieces)
        if index > len(before)
    ]
    return (*before, now, *ahead)


def _transfer(moment: Moment, transfer: Transfer) -> SubAccess:
    return SubAccess(
        moment,
        transfer.direction,
        transfer.width,
        transfer.linear,
        transfer.physical,
        place_of(transfer.physical, transfer.region, ram=transfer.ram),
        transfer.traced,
        transfer.value,
    )


def _ahead(index: int, piece: _Piece, pending: Pending, runs: Sequence[_Run]) -> SubAccess:
    found = foretold(pending, piece.linear, piece.direction)
    values = {run.pieces[index].value for run in runs}
    value = how = None
    if piece.direction == "write":
        if len(values) == 1:
            (value,) = values
        else:
            samples = [(run.read, run.pieces[index].value) for run in runs]
            width = runs[0].read_width
            # A piece of a longer access is not compared with the whole that was read.
            told = relation(samples, width, piece.width) if width == piece.width else None
            how = told or _depends(pending.insn)
    return SubAccess(
        "ahead",
        piece.direction,
        piece.width,
        piece.linear,
        None if found is None else found.physical,
        None if found is None else place_of(found.physical, found.region, ram=found.ram),
        found is not None and found.traced,
        value,
        how,
    )


def _depends(insn: Instruction | None) -> str:
    name = insn.form.name if insn is not None and insn.form is not None else ""
    if name.startswith("cmpxchg"):
        return "depends on whether the value read is the one expected"
    return f"depends on the value read, by {name}" if name else "depends on the value read"


_SELECTORS = tuple(field.name for field in fields(Segments))
_UNITS = ("fpu_control", "fpu_status", "fpu_tag", "mxcsr")


def _values(cpu: CpuState) -> dict[str, tuple[int, int]]:
    # Every register but RFLAGS by name: its value, and its width in bytes.
    return {
        **{name: (value, 8) for name, value in zip(GPR, cpu.gpr, strict=True)},
        **{
            name: (getattr(cpu.segments, name), 8 if name.endswith("base") else 2)
            for name in _SELECTORS
        },
        **{f"xmm{number}": (value, 16) for number, value in enumerate(cpu.xmm)},
        **{f"st{number}": (value, 10) for number, value in enumerate(cpu.st)},
        **{name: (getattr(cpu, name), 4 if name == "mxcsr" else 2) for name in _UNITS},
        "rip": (cpu.rip, 8),
    }


def _registers(insn: Instruction, cpu: CpuState, runs: Sequence[_Run]) -> tuple[Change, ...]:
    before = _values(cpu)
    after = [_values(run.cpu) for run in runs if run.cpu is not None]
    used = used_registers(insn)
    found = []
    for name, (value, width) in before.items():
        results = {state[name][0] for state in after}
        change = Change(name, width, value)
        if results and results != {value}:
            if len(results) == 1:
                change = replace(change, after=results.pop())
            else:
                samples = [
                    (run.read, state[name][0]) for run, state in zip(runs, after, strict=True)
                ]
                change = replace(change, how=_how(insn, change, samples, runs[0].read_width))
        elif name not in used:
            continue
        found.append(change)
    return tuple(found)


def _how(insn: Instruction, change: Change, samples: Sequence[Sample], read_width: int) -> str:
    # How a register depends on what was read: as that part of it which the instruction writes.
    if change.name not in GPR:
        return relation(samples, read_width, change.width) or _depends(insn)
    register = _written(insn, GPR.index(change.name))
    width = 8 if register.width == 4 else register.width
    shift, ones = 8 * register.high, (1 << 8 * width) - 1
    kept = ~(ones << shift)
    if any(result & kept != change.before & kept for _, result in samples):
        return _depends(insn)
    parts = [(value, result >> shift & ones) for value, result in samples]
    if register.width == 4 and all(result < 1 << 32 for _, result in parts):
        # A 32-bit result of a narrower value is to be told apart from how it goes on.
        told = relation(parts, read_width, 4)
        if told is not None and "extended" not in told:
            told += ", zero-extended"
        elif told is not None and "sign" in told:
            told += " to 4 bytes, zeroes above"
    else:
        told = relation(parts, read_width, width)
    if told is None:
        return _depends(insn)
    return told if width == 8 else f"{operand_text(register)} = {told}; the rest kept"


def _written(insn: Instruction, number: int) -> Register:
    # The register operand of this number, or the implied one of the memory operand's width.
    for operand in insn.operands:
        if isinstance(operand, Register) and (operand.file, operand.number) == (File.GPR, number):
            return operand
    width = insn.width if insn.width in (1, 2, 4, 8) else 8
    return Register(File.GPR, number, width)


def _flags(insn: Instruction, cpu: CpuState, runs: Sequence[_Run]) -> tuple[FlagChange, ...]:
    undefined = undefined_flags(insn, cpu)
    found = []
    for flag in Flag:
        results = {bool(run.cpu.rflags & flag) for run in runs if run.cpu is not None}
        before = bool(cpu.rflags & flag)
        open_ = bool(undefined & flag)
        if results and (results != {before} or open_):
            after = results.pop() if len(results) == 1 and not open_ else None
            found.append(FlagChange(flag.name or "", before, after, open_))
    return tuple(found)


def _verdicts(insn: Instruction, pending: Pending) -> dict[str, Verdict]:
    # Judged by the operand that the access belongs to: its first byte may be on the page before.
    linear = pending.transfer.linear
    for address in addresses(insn, pending):
        if address.linear <= linear < address.linear + max(insn.width, 1):
            linear = address.linear
    return verdicts(insn, cpl=pending.cpu.cpl, linear=linear)


def _exceptions(runs: Sequence[_Run]) -> tuple[str, ...]:
    vectors = sorted({run.exception for run in runs if run.exception is not None})
    return tuple(EXCEPTIONS.get(vector, f"exception {vector}") for vector in vectors)


def _notes(insn: Instruction | None, pending: Pending) -> tuple[str, ...]:
    notes = []
    if insn is None:
        notes.append("The bytes are no instruction that the decoder knows; the vCPU faulted on "
                     "an access of them all the same.")  # fmt: skip
        return tuple(notes)
    if insn.rep is not None:
        left = count(insn, pending.cpu)
        notes.append(f"One iteration of {insn.rep}: {left:,} left by rcx, this one included.")
    if insn.form is None:
        told = [touch_words(touch) for touch in touches(insn)]
        notes.append(f"Its accesses, as far as is known: {', '.join(told) or 'none'}.")
    if lost_atomicity(insn, pending.foretold) is not None:
        notes.append("Not atomic here: the device sees a read, then a write.")
    return tuple(notes)
