"""The values of accesses that the vCPU made itself, where its registers tell them.

A native step shows the registers before and after it, and RAM. What was stored follows from the
registers before, by the emulator's own execution. What was loaded is known where the instruction
leaves it somewhere as it was: in a register, on the stack, in RAM. No more is told: a sum would
have to be undone, and a comparison leaves flags alone.

Of YMM registers the debugger interface shows bits 127:0, so of 32 bytes the first 16 are known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tracer.access.space import AddressSpace
from tracer.access.transfer import Transfer, cut
from tracer.errors import EmulationError
from tracer.x86.bus import In, Load, MemoryAccess, Operand, Store
from tracer.x86.emulate import execute
from tracer.x86.emulate.address import places
from tracer.x86.emulate.flags import ZF
from tracer.x86.emulate.state import read_register
from tracer.x86.instruction import File, Immediate, Instruction, Register
from tracer.x86.state import RAX, RBP, CpuState

_SHOWN = 16  # bytes of a vector register
_UNSEEN = (0,) * 16


def inferred(
    insn: Instruction | None,
    before: CpuState,
    after: CpuState,
    made: Sequence[Transfer],
    space: AddressSpace,
) -> tuple[Transfer, ...]:
    """Return the transfers of a native step, with those values that are certain.

    ``before`` and ``after`` are the states around it; RAM is as the step left it.
    """
    if insn is None or insn.form is None or not _shows_all(insn):
        return tuple(made)
    if before.xmm and not before.ymm:
        before = replace(before, ymm=_UNSEEN)  # nothing that is told below depends on them
    known: list[tuple[MemoryAccess, int]] = []
    try:
        operands = places(insn, before)
        emulation = execute(insn, before)
        for access in emulation:
            if isinstance(access, Load):
                answer = emulation.answer = _loaded(access, insn, before, after, operands, space)
                if answer is None:
                    break
                known.append((access, answer))
            elif isinstance(access, Store):
                known.append((access, access.value))
            elif isinstance(access, In):
                break  # nobody saw what the port gave
        else:
            if emulation.after.rip != after.rip:
                return tuple(made)  # something else has happened: an exception
    except EmulationError:
        return tuple(made)
    return tuple(_valued(transfer, known) for transfer in made)


def _shows_all(insn: Instruction) -> bool:
    # Tells whether the registers show it all, or of a YMM register that half which is told.
    registers = [operand for operand in insn.operands if isinstance(operand, Register)]
    if any(register.file is File.MMX for register in registers):
        return False
    wide = any(register.width > _SHOWN for register in registers)
    assert insn.form is not None
    return not wide or insn.form.operation in ("vector mov", "broadcast")


def _valued(transfer: Transfer, known: Sequence[tuple[MemoryAccess, int]]) -> Transfer:
    if not transfer.width:
        return transfer  # of unknown extent
    for access, value in known:
        direction = "read" if isinstance(access, Load) else "write"
        at = transfer.linear - access.linear
        shown = _SHOWN if access.width == 2 * _SHOWN else access.width
        if direction == transfer.direction and 0 <= at <= shown - transfer.width:
            return replace(transfer, value=value >> 8 * at & (1 << 8 * transfer.width) - 1)
    return transfer


def _loaded(
    load: Load, insn: Instruction, before: CpuState, after: CpuState,
    operands: Sequence[Operand], space: AddressSpace,
) -> int | None:  # fmt: skip
    # Returns what a load read (of 32 bytes the first 16), None where that is not certain.
    overwritten = any(
        item.write and item.linear < load.linear + load.width
        and load.linear < item.linear + item.width
        for item in operands
    )  # fmt: skip
    value = None if overwritten else _ram(load.linear, load.width, space)
    if value is not None:
        return value
    assert insn.form is not None
    operation = insn.form.operation
    if operation in _COPIES:
        copies = [_ram(item.linear, item.width, space) for item in operands if item.write]
        value = copies[0] if copies else None
    if value is None and operation in _KEPT:
        value = _KEPT[operation](insn, before, after)
    return None if value is None else value & (1 << 8 * load.width) - 1


def _ram(linear: int, width: int, space: AddressSpace) -> int | None:
    # A number in RAM; None where there is something else.
    for start, _ in cut(linear, width):
        leaf = space.leaf(start)
        if leaf is None or not space.regions.is_ram(leaf.translate(start)):
            return None
    data = space.read(linear, width)
    return int.from_bytes(data, "little") if len(data) == width else None


_COPIES = ("push", "pop", "movs")
"""Operations that store what they load."""


def _target(insn: Instruction, before: CpuState, after: CpuState) -> int | None:
    target = insn.operands[0]
    if not isinstance(target, Register):
        return None
    if target.file is File.XMM:
        return after.xmm[target.number]
    return read_register(target, after)


def _reversed(insn: Instruction, before: CpuState, after: CpuState) -> int | None:
    value = _target(insn, before, after)
    return value and int.from_bytes(value.to_bytes(insn.width, "little"), "big")


def _high_half(insn: Instruction, before: CpuState, after: CpuState) -> int | None:
    value = _target(insn, before, after)
    return value and value >> 64


def _element(insn: Instruction, before: CpuState, after: CpuState) -> int | None:
    value, place = _target(insn, before, after), insn.operands[-1]
    assert isinstance(place, Immediate)
    return value and value >> 8 * insn.width * (place.value % (_SHOWN // insn.width))


def _exchanged(insn: Instruction, before: CpuState, after: CpuState) -> int | None:
    source = insn.operands[1]
    return read_register(source, after) if isinstance(source, Register) else None


def _compared(insn: Instruction, before: CpuState, after: CpuState) -> int | None:
    # Equal to the accumulator, or loaded into it.
    return (before if after.rflags & ZF else after).gpr[RAX]


_KEPT: dict[str, Callable[[Instruction, CpuState, CpuState], int | None]] = {
    **dict.fromkeys(("mov", "vector mov", "broadcast", "movddup", "low half", "pop"), _target),
    **dict.fromkeys(("call", "jmp", "ret"), lambda insn, before, after: after.rip),
    **dict.fromkeys(("lods", "xlat"), lambda insn, before, after: after.gpr[RAX]),
    **dict.fromkeys(("xchg", "xadd"), _exchanged),
    "movbe": _reversed,
    "high half": _high_half,
    "insert": _element,
    "leave": lambda insn, before, after: after.gpr[RBP],
    "cmpxchg": _compared,
}
"""Where an operation leaves what it loads, as it was."""
