"""Forms that fit no family: XLAT, MOVDIR64B, and those that make no access.

Ref: Intel SDM vol. 2, XLAT, MOVDIR64B, CLFLUSH, CLFLUSHOPT, CLWB, PREFETCHh, PREFETCHW.
"""

from __future__ import annotations

from tracer.x86.emulate.access import Execution, Plan, Run, load, store
from tracer.x86.emulate.state import merge, retire
from tracer.x86.instruction import Instruction
from tracer.x86.state import RAX, CpuState


def _xlat(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    value = yield from load(plan[0])
    return retire(insn, cpu, merge(cpu.gpr, RAX, 1, value))


def _movdir64b(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    source, destination = plan
    yield from store(destination, (yield from load(source)))
    return retire(insn, cpu)


def _none(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    # Cache-line hints change nothing that a trace shows.
    return retire(insn, cpu)
    yield


RUN: dict[str, Run] = {"xlat": _xlat, "movdir64b": _movdir64b, "none": _none}
"""Executions of this module by the table's ``operation``."""
