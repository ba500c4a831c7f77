"""Decide whether a form may use the unit it needs: #UD, #NM, #MF, or state that is not known.

Ref: Intel SDM vol. 3A, 2.5 (CR0.EM, CR0.MP, CR0.TS, CR4.OSFXSR), 13.1; vol. 2A, tables 2-18 to
2-24 (exception classes); vol. 3A, 6.15 (#MF).
"""

from __future__ import annotations

from tracer.errors import GuestException, UnsupportedInstruction
from tracer.x86.forms import Unit
from tracer.x86.hidden import needs_ymm
from tracer.x86.instruction import Instruction
from tracer.x86.state import CpuState

INVALID_OPCODE, DEVICE_NOT_AVAILABLE, FLOATING_POINT_ERROR = 6, 7, 16

_CR0_EM, _CR0_TS = 1 << 2, 1 << 3
_CR4_OSFXSR, _CR4_OSXSAVE = 1 << 9, 1 << 18
_FSW_ES = 1 << 7
_NOT_WAITING = ("fnstcw", "fnstsw")


def require(insn: Instruction, cpu: CpuState) -> None:
    """Raise what the CPU raises when the form's unit is switched off or has an error pending.

    Raise :class:`UnsupportedInstruction` when the registers of the unit are not in ``cpu``.
    """
    assert insn.form is not None
    unit = insn.form.unit
    if unit is Unit.INTEGER:
        return
    _check_enabled(insn, unit, cpu)
    if unit is not Unit.SSE and cpu.fpu_status & _FSW_ES and insn.form.name not in _NOT_WAITING:
        raise GuestException(insn.code, FLOATING_POINT_ERROR)
    if not (cpu.xmm if unit is Unit.SSE else cpu.st) or (needs_ymm(insn) and not cpu.ymm):
        raise UnsupportedInstruction(insn.code, insn.text)


def _check_enabled(insn: Instruction, unit: Unit, cpu: CpuState) -> None:
    assert insn.form is not None
    vex = bool(insn.form.opcode.vex)
    if unit is Unit.X87:
        if cpu.cr0 & (_CR0_EM | _CR0_TS):
            raise GuestException(insn.code, DEVICE_NOT_AVAILABLE)
        return
    enabled = cpu.cr4 & _CR4_OSXSAVE if vex else unit is Unit.MMX or cpu.cr4 & _CR4_OSFXSR
    if not enabled or (cpu.cr0 & _CR0_EM and not vex):
        raise GuestException(insn.code, INVALID_OPCODE)
    if cpu.cr0 & _CR0_TS:
        raise GuestException(insn.code, DEVICE_NOT_AVAILABLE)
