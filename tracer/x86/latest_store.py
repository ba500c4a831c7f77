"""The store that a vCPU has just made, found from where it stands behind it.

A write watch stops the guest after the write and tells neither its instruction nor its extent.
Both are looked for: an instruction that ends where the vCPU stands, or an iteration of the one it
stands at, that would have written just what is in memory now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tracer.errors import EmulationError
from tracer.x86.bus import In, Load, Out, Store
from tracer.x86.decode import decode
from tracer.x86.emulate import execute, plan
from tracer.x86.emulate.state import merge
from tracer.x86.instruction import Instruction
from tracer.x86.state import MAX_INSTRUCTION, RCX, RDI, RSI, CpuState, Flag

Read = Callable[[int, int], bytes]
"""Read up to ``size`` bytes of RAM at a linear address; fewer where RAM ends."""


def latest_store(cpu: CpuState, read: Read, watched: range) -> range | None:
    """Return the linear addresses that the last instruction wrote, or None when it is not known.

    ``cpu`` is the state after it; it wrote some of ``watched``. Of several instructions that the
    bytes could be, the one with the widest store is taken: each byte of it is in memory, and that
    would be a coincidence.
    """
    found = [
        store
        for insn, before in _candidates(cpu, read)
        for store in _stores(insn, before, read)
        if store.start < watched.stop and watched.start < store.stop
    ]
    return max(found, key=len, default=None)


def _candidates(cpu: CpuState, read: Read) -> Iterator[tuple[Instruction, CpuState]]:
    # Instructions that may have come last, each with the state before it.
    for length in range(MAX_INSTRUCTION, -1, -1):
        start = cpu.rip - length
        code = read(start, length or MAX_INSTRUCTION)
        try:
            insn = decode(code, start, cpu.mode)
        except EmulationError:
            continue
        if insn.form is None or len(insn.code) != (length or len(insn.code)):
            continue
        if insn.form.operation in ("movs", "stos", "ins"):
            yield insn, _iteration_before(insn, replace(cpu, rip=start))
        elif length:
            yield insn, replace(cpu, rip=start)


def _iteration_before(insn: Instruction, cpu: CpuState) -> CpuState:
    step = -insn.width if cpu.rflags & Flag.DF else insn.width
    size = insn.address_size
    gpr = merge(cpu.gpr, RDI, size, cpu.gpr[RDI] - step)
    if insn.form is not None and insn.form.operation == "movs":
        gpr = merge(gpr, RSI, size, gpr[RSI] - step)
    if insn.rep is not None:
        gpr = merge(gpr, RCX, size, gpr[RCX] + 1)
    return replace(cpu, gpr=gpr)


def _stores(insn: Instruction, cpu: CpuState, read: Read) -> Iterator[range]:
    # The stores of an instruction, if memory holds what they would have written.
    done: list[range] = []
    try:
        emulation = execute(insn, cpu)
        for access in emulation:
            if isinstance(access, Out):
                continue
            # INS has stored what a port gave.
            place = plan(insn, cpu)[0] if isinstance(access, In) else access
            data = read(place.linear, place.width)
            if len(data) != place.width:
                return
            match access:
                case Load() | In():
                    emulation.answer = int.from_bytes(data, "little")
                case Store(value=value):
                    if value & ((1 << 8 * access.width) - 1) != int.from_bytes(data, "little"):
                        return
                    done.append(range(access.linear, access.linear + access.width))
    except EmulationError:
        return
    yield from done
