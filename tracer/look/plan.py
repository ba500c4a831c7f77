"""The plan of an intercepted instruction: what it is about to do.

It is told before anything has reached the device. No guest, no page table and no device is
touched: see :mod:`tracer.look.rehearsal`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tracer.access.decision import Pending
from tracer.access.execution import lost_atomicity
from tracer.access.recorded import memory_access
from tracer.access.region import place_of
from tracer.access.transfer import Transfer
from tracer.confidential.handler import Verdict
from tracer.confidential.hypercall import SHARED_BIT, GhcbExit, TdVmcall, hypercalls
from tracer.confidential.request import Mmio
from tracer.confidential.wanted import wanted
from tracer.look.change import Change, FlagChange, flag_changes, register_changes
from tracer.look.explanation import EXCEPTIONS, Handled, touch_words, touches, verdicts
from tracer.look.operand import Address, addresses, foretold
from tracer.look.rehearsal import Piece, Rehearsal, dependence, rehearsals
from tracer.look.relation import relation
from tracer.trace.place import place_in
from tracer.trace.record import Intercept
from tracer.x86.bus import Direction
from tracer.x86.emulate.address import count
from tracer.x86.instruction import Instruction
from tracer.x86.state import GPR

Moment = Literal["done", "pending", "ahead"]
"""The place of an access in the order: made, about to be made, or after that one."""


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
class Plan:
    """Tell what an instruction is about to do, as far as that can be known.

    ``predicted`` tells whether ``registers`` and ``flags`` have what will change, ``past`` whether
    it was made already, and what is not known of it never will be. ``exceptions`` are those that
    some answer of the device makes the CPU raise. ``asked`` are the registers, or fields, by which
    a confidential guest has asked for the access, ``wanted`` is what these ask for.
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
    past: bool = False


def plan_of(pending: Pending, register: str | None = None) -> Plan:
    """Return what the instruction of a pending access is about to do.

    ``register`` names the device register that is accessed, where the caller knows it.
    """
    if pending.is_input:
        return _of_input(pending, register)
    insn = pending.insn
    runs = [] if insn is None or not pending.complete else rehearsals(insn, pending)
    finished = [run for run in runs if run.cpu is not None]
    shared = pending.space.paging.shared or SHARED_BIT
    calls = hypercalls(memory_access(pending.transfer), shared)
    return Plan(
        pending=pending,
        handled="stepped" if pending.via == "stepped" else "emulated",
        addresses=() if insn is None or not pending.complete else addresses(insn, pending),
        accesses=_accesses(insn, pending, runs, register),
        registers=() if insn is None else register_changes(insn, pending.cpu, finished),
        flags=() if insn is None else flag_changes(insn, pending.cpu, finished),
        predicted=bool(runs),
        tdvmcall=None if calls is None else calls[0],
        asked=pending.asked,
        wanted=None if pending.asked is None else wanted(pending.asked, {}),
        ghcb=None if calls is None else calls[1],
        verdicts={} if insn is None else _verdicts(insn, pending),
        exceptions=_exceptions(runs),
        notes=_notes(insn, pending),
    )


def as_made(plan: Plan, record: Intercept) -> Plan:
    """Return the plan of a recorded instruction with what it changed, where that is not foretold.

    A record has it of what the vCPU carried out by itself as well.
    """
    if plan.predicted or not record.after:
        return replace(plan, past=True)
    before = record.before
    changes = [
        Change(name, 8, before[name], after)
        for name, after in record.after.items()
        if name in before and name != "rflags"
    ]
    return replace(plan, registers=(*plan.registers, *changes), predicted=True, past=True)


# The manuals alone tell what an input changes: nothing of it is emulated.
def _of_input(pending: Pending, register: str | None) -> Plan:
    transfer, cpu = pending.transfer, pending.cpu
    accesses = [_transfer("done", each) for each in pending.done]
    accesses.append(replace(_transfer("pending", transfer), register=register))
    accesses += [_transfer("ahead", each) for each in pending.foretold[len(accesses) :]]
    targets = _TARGETS.get(transfer.space, ())
    if transfer.direction == "write" or (pending.insn is not None and pending.insn.address_size):
        targets = ()
    return Plan(
        pending=pending,
        handled="carried out",
        addresses=(),
        accesses=tuple(accesses),
        registers=tuple(
            Change(name, 8, cpu.gpr[GPR.index(name)], how=how) for name, how in targets
        ),
        flags=(),
        predicted=True,
        tdvmcall=None,
        asked=None,
        wanted=None,
        ghcb=None,
        verdicts={},
    )


_TARGETS: Mapping[str, Sequence[tuple[str, str]]] = {
    "port": (("rax", "low bytes of what is read"),),
    "msr": (("rax", "low 4 bytes of what is read"), ("rdx", "high 4 bytes of what is read")),
    "cpuid": tuple((name, "what is read") for name in ("rax", "rbx", "rcx", "rdx")),
}
"""Registers that an instruction has its answer in, by the space that it reads."""


def _accesses(
    insn: Instruction | None, pending: Pending, runs: Sequence[Rehearsal], register: str | None
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


def _place(transfer: Transfer) -> str:
    if transfer.place is None:
        return place_of(transfer.physical, transfer.region, ram=transfer.ram)
    region, offset = transfer.place
    return place_in(transfer.space, region, offset, transfer.physical)


def _transfer(moment: Moment, transfer: Transfer) -> SubAccess:
    return SubAccess(
        moment,
        transfer.direction,
        transfer.width,
        transfer.linear,
        transfer.physical,
        _place(transfer),
        transfer.traced,
        transfer.value,
    )


def _ahead(index: int, piece: Piece, pending: Pending, runs: Sequence[Rehearsal]) -> SubAccess:
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
            how = told or dependence(pending.insn)
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


def _verdicts(insn: Instruction, pending: Pending) -> dict[str, Verdict]:
    # Judged by the operand that the access belongs to: its first byte may be on the page before.
    linear = pending.transfer.linear
    for address in addresses(insn, pending) if pending.complete else ():
        if address.linear <= linear < address.linear + max(insn.width, 1):
            linear = address.linear
    return verdicts(insn, cpl=pending.cpu.cpl, linear=linear)


def _exceptions(runs: Sequence[Rehearsal]) -> tuple[str, ...]:
    vectors = sorted({run.exception for run in runs if run.exception is not None})
    return tuple(EXCEPTIONS.get(vector, f"exception {vector}") for vector in vectors)


def _notes(insn: Instruction | None, pending: Pending) -> tuple[str, ...]:
    notes = []
    if insn is None and not pending.code:
        return ("Of the instruction nothing but its access is known.",)
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
