"""The state of stopped code, from registers by the names that GDB gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tracer.x86.forms import Unit
from tracer.x86.instruction import File, Instruction, Memory, Register
from tracer.x86.state import (
    GPR,
    CpuState,
    Mode,
    Segments,
)

_SEGMENT_FIELDS = ("ds", "es", "fs", "gs", "fs_base", "gs_base")


def stopped(registers: Mapping[str, int], mode: Mode) -> CpuState:
    """Return the state of code that stopped by itself, from registers by GDB's names."""
    cpu = CpuState(
        gpr=tuple(registers[name] for name in GPR),
        rip=registers["rip"],
        rflags=registers["eflags"],
        cpl=registers["cs"] & 3,
        mode=mode,
        segments=Segments(cs=registers["cs"], ss=registers["ss"]),
        cr0=registers["cr0"],
        cr4=registers["cr4"],
    )
    return complete(cpu, registers)


def complete(cpu: CpuState, registers: Mapping[str, int]) -> CpuState:
    """Return the state with what the stub does not spill, from registers by GDB's names.

    It is needed only where :func:`needs_registers` says so.
    """
    others = {name: registers.get(name, 0) for name in _SEGMENT_FIELDS}
    return replace(
        cpu,
        segments=replace(cpu.segments, **others),
        xmm=tuple(registers.get(f"xmm{number}", 0) for number in range(16)),
        fpu_control=registers.get("fctrl", 0x37F),
        fpu_status=registers.get("fstat", 0),
        fpu_tag=registers.get("ftag", 0xFFFF),
        mxcsr=registers.get("mxcsr", 0x1F80),
    )


def needs_registers(insn: Instruction) -> bool:
    """Tell whether an instruction sees more than the general-purpose registers.

    Of one that is left to the CPU, whether its addresses do.
    """
    if insn.form is None:
        return insn.mode is not Mode.LONG or any(
            touch.lanes is not None
            or (touch.memory is not None and touch.memory.segment in ("fs", "gs"))
            for touch in insn.touches
        )
    for operand in insn.operands:
        if isinstance(operand, Memory):
            if operand.segment in ("fs", "gs"):
                return True
        elif isinstance(operand, Register) and operand.file is not File.GPR:
            return True
    return insn.form.unit is not Unit.INTEGER or insn.mode is not Mode.LONG


def with_register(cpu: CpuState, name: str, value: int) -> CpuState | None:
    """Return a state with another general-purpose register, ``rip`` or ``rflags``; else None."""
    if name in GPR:
        gpr = list(cpu.gpr)
        gpr[GPR.index(name)] = value
        return replace(cpu, gpr=tuple(gpr))
    if name == "rip":
        return replace(cpu, rip=value)
    return replace(cpu, rflags=value) if name == "rflags" else None
