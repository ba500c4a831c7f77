"""Drive the operations that make one result of their operands."""

from __future__ import annotations

from tracer.x86.bus import Load, Store
from tracer.x86.emulate.access import Execution, Plan, Run
from tracer.x86.emulate.arithmetic import Operation, signed
from tracer.x86.emulate.state import MASK, read_register, retire, write_gpr, write_vector
from tracer.x86.forms import Access
from tracer.x86.instruction import File, Immediate, Instruction, Memory, Register
from tracer.x86.state import CpuState


def evaluator(operation: Operation) -> Run:
    """Make an execution of an operation: read the operands, operate, write the first one."""

    def run(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
        form = insn.form
        assert form is not None
        values = []
        operands = insn.operands
        for operand in operands[1:] if form.access is Access.W else operands:
            if isinstance(operand, Memory):
                value = yield Load(plan[0].linear, operand.width)
                assert value is not None
                if form.extension == "sign":
                    value = signed(8 * operand.width, value)
            elif isinstance(operand, Immediate):
                value = operand.value
            else:
                value = read_register(operand, cpu)
            values.append(value)
        result, flags = operation(8 * insn.width, cpu.rflags, *values)
        if form.access is Access.R:
            return retire(insn, cpu, flags=flags)
        target = operands[0]
        if isinstance(target, Memory):
            yield Store(plan[0].linear, target.width, result & MASK[target.width])
            return retire(insn, cpu, flags=flags)
        assert isinstance(target, Register)
        if target.file is File.GPR:
            return retire(insn, cpu, write_gpr(cpu.gpr, target, result), flags)
        return write_vector(insn, retire(insn, cpu, flags=flags), target, result)

    return run
