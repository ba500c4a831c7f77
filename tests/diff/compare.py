"""Hold one case's result from the emulator against an oracle's."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.diff.case import Case
from tests.diff.native import PATTERN
from tracer.errors import GuestException
from tracer.x86.bus import Access, In, Load, Out, Store
from tracer.x86.decode import decode
from tracer.x86.emulate import execute, plan, undefined_flags
from tracer.x86.instruction import Instruction, Register
from tracer.x86.state import GPR, STATUS_FLAGS, CpuState, Flag

_MANY = 100


@dataclass(frozen=True)
class Result:
    """Hold the state and RAM after a case, and what went to I/O ports: number, width, value."""

    cpu: CpuState
    ram: bytes
    out: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class Fault:
    """Stand for an exception, in the oracle's own words."""

    name: str


@dataclass
class Memory:
    """Hold RAM as bytes, and what was asked of it, and of I/O ports."""

    base: int
    data: bytearray = field(default_factory=lambda: bytearray(PATTERN))
    accesses: list[Access] = field(default_factory=list)
    out: list[tuple[int, int, int]] = field(default_factory=list)

    def perform(self, access: Access) -> int | None:
        """Do one access, of a port or at a linear address inside the RAM."""
        self.accesses.append(access)
        if isinstance(access, In):
            return port_value(access.port, access.width)
        if isinstance(access, Out):
            self.out.append((access.port, access.width, access.value))
            return None
        at = access.linear - self.base
        assert 0 <= at <= len(self.data) - access.width, f"{access} is outside RAM"
        if isinstance(access, Load):
            return int.from_bytes(self.data[at : at + access.width], "little")
        self.data[at : at + access.width] = access.value.to_bytes(access.width, "little")
        return None


def port_value(port: int, width: int) -> int:
    """Return what an I/O port gives here: each another value, for each width."""
    return ((port | 1) * 0x9E37_79B1 + width) & ((1 << 8 * width) - 1)


def emulate(insn: Instruction, cpu: CpuState, memory: Memory) -> CpuState:
    """Drive one execution to its end against ``memory``."""
    emulation = execute(insn, cpu)
    for access in emulation:
        emulation.answer = memory.perform(access)
    return emulation.after


def run(case: Case, *, whole: bool) -> Result | Fault:
    """Run a case in the emulator: one iteration of a REP instruction, or the ``whole`` of it."""
    insn = decode(case.code, case.cpu.rip, case.cpu.mode)
    memory = Memory(case.base)
    for linear, value in case.ram.items():
        memory.data[linear - case.base : linear - case.base + len(value)] = value
    cpu = case.cpu
    try:
        for _ in range(_MANY):
            memory.accesses.clear()
            before = cpu
            cpu = emulate(insn, cpu, memory)
            _check_plan(insn, before, memory)
            if cpu.rip != case.cpu.rip or not whole:
                break
    except GuestException as error:
        return Fault(f"exception {error.vector}")
    return Result(cpu, bytes(memory.data), tuple(memory.out))


def _check_plan(insn: Instruction, cpu: CpuState, memory: Memory) -> None:
    # Every access was foretold, and every foretold read and write happened, exactly once.
    foretold = [o for o in plan(insn, cpu) if o.read or o.write]
    reads = [(o.linear, o.width) for o in foretold if o.read]
    writes = [(o.linear, o.width) for o in foretold if o.write]
    loads = [(a.linear, a.width) for a in memory.accesses if isinstance(a, Load)]
    stores = [(a.linear, a.width) for a in memory.accesses if isinstance(a, Store)]
    assert loads == reads, f"{insn.text}: foretold reads {reads}, made {loads}"
    # An unmasked x87 exception suppresses the store.
    suppressed = not stores and cpu.fpu_control & 0x3F != 0x3F
    assert stores == writes or suppressed, f"{insn.text}: foretold writes {writes}, made {stores}"


def difference(case: Case, theirs: Result | Fault, *, whole: bool) -> str | None:
    """Return in words how the emulator differs from an oracle's result, or None."""
    insn = decode(case.code, case.cpu.rip, case.cpu.mode)
    ours = run(case, whole=whole)
    label = f"{insn.text} [{insn.code.hex(' ')}]"
    if isinstance(ours, Fault) or isinstance(theirs, Fault):
        if isinstance(ours, Fault) and isinstance(theirs, Fault):
            return None
        return f"{label}: emulator {_outcome(ours)}, oracle {_outcome(theirs)}"
    assert insn.form is not None
    undefined = undefined_flags(insn, case.cpu)
    unknown = _undefined_register(insn, ours.cpu)
    found = [
        f"{name} {before:#x}: emulator {a:#x}, oracle {b:#x}"
        for name, before, a, b in zip(GPR, case.cpu.gpr, ours.cpu.gpr, theirs.cpu.gpr, strict=True)
        if a != b and name != unknown
    ]
    if ours.cpu.rip != theirs.cpu.rip:
        start = case.cpu.rip
        found.append(f"rip: emulator {ours.cpu.rip - start:#x}, oracle {theirs.cpu.rip - start:#x}")
    counted = STATUS_FLAGS & ~undefined
    if (ours.cpu.rflags ^ theirs.cpu.rflags) & counted:
        found.append(
            f"flags from {Flag(case.cpu.rflags & STATUS_FLAGS)!r}: "
            f"emulator {Flag(ours.cpu.rflags & counted)!r}, "
            f"oracle {Flag(theirs.cpu.rflags & counted)!r}"
        )
    for name, mine, others in (
        ("xmm", ours.cpu.xmm, theirs.cpu.xmm),
        ("upper half of ymm", ours.cpu.ymm, theirs.cpu.ymm),
    ):
        for n, (a, b) in enumerate(zip(mine, others, strict=True)):
            if a != b:
                found.append(f"{name}{n}: emulator {a:#x}, oracle {b:#x}")
    if case.cpu.st:
        found += _x87(ours.cpu, theirs.cpu)
    all_undefined = undefined == STATUS_FLAGS and insn.form.operation in ("shld", "shrd")
    if ours.ram != theirs.ram and not all_undefined:
        at = next(n for n in range(len(PATTERN)) if ours.ram[n] != theirs.ram[n])
        found.append(
            f"memory at {case.base + at:#x}: emulator {ours.ram[at : at + 16].hex()}, "
            f"oracle {theirs.ram[at : at + 16].hex()}"
        )
    if ours.out != theirs.out:
        found.append(f"ports: emulator {ours.out}, oracle {theirs.out}")
    return f"{label}: " + "; ".join(found) if found else None


def _undefined_register(insn: Instruction, after: CpuState) -> str:
    # BSF and BSR of 0 leave the destination undefined (SDM vol. 2A); vendors differ.
    assert insn.form is not None
    if insn.form.operation in ("bsf", "bsr") and after.rflags & Flag.ZF:
        target = insn.operands[0]
        assert isinstance(target, Register)
        return GPR[target.number]
    return ""


def _x87(ours: CpuState, theirs: CpuState) -> list[str]:
    found = []
    for name, a, b in (
        ("control", ours.fpu_control, theirs.fpu_control),
        ("status", ours.fpu_status, theirs.fpu_status),
        ("empty", empty(ours.fpu_tag), empty(theirs.fpu_tag)),
    ):
        if a != b:
            found.append(f"fpu {name}: emulator {a:#x}, oracle {b:#x}")
    top = ours.fpu_status >> 11 & 7
    for n, (a, b) in enumerate(zip(ours.st, theirs.st, strict=True)):
        if a != b and not empty(ours.fpu_tag) >> (top + n & 7) & 1:
            found.append(f"st{n}: emulator {a:#x}, oracle {b:#x}")
    return found


def empty(tag: int) -> int:
    """Return a bit per physical x87 register: whether its tag says empty."""
    return sum(1 << n for n in range(8) if tag >> 2 * n & 3 == 3)


def _outcome(result: Result | Fault) -> str:
    return f"faults ({result.name})" if isinstance(result, Fault) else "does not fault"
