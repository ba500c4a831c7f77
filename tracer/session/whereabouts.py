"""The places of a guest's vCPUs, in words, for a reader who wonders why it does not go on."""

from __future__ import annotations

from tracer.access.space import AddressSpace
from tracer.access.state import stopped
from tracer.access.want import Registers, SelectVcpu, Vcpu
from tracer.intercept.names import Names
from tracer.intercept.system import Callers
from tracer.intercept.view import GuestView
from tracer.look.stack import chain
from tracer.session.traps import Bell
from tracer.x86.state import CpuState


async def whereabouts(
    view: GuestView, names: Names, callers: Callers, bell: Bell | None = None
) -> list[str]:
    """Return a line for each vCPU of a guest that stands; ``bell`` is there once it is traced."""
    lines = []
    selected = await Vcpu()
    for vcpu in range(view.vcpus):
        if vcpu != selected:
            await SelectVcpu(vcpu)
            selected = vcpu
        cpu, space = await _state(vcpu, view, bell)
        lines.append(f"vcpu{vcpu} is in {_place(cpu, space, names, callers)}")
    return lines


async def _state(vcpu: int, view: GuestView, bell: Bell | None) -> tuple[CpuState, AddressSpace]:
    # A vCPU at the stub is where it came upon poison.
    registers = await Registers()
    interrupted = None if bell is None else await bell.look(vcpu, registers["rip"])
    if interrupted is not None:
        return interrupted
    space = view.space_of(registers)
    return stopped(registers.values, await view.mode(registers["cs"], space)), space


def _place(cpu: CpuState, space: AddressSpace, names: Names, callers: Callers) -> str:
    if cpu.cpl == 3:
        return f"a program, at {cpu.rip:#x}"
    return chain(callers.unwind(cpu, space), lambda at: names.lookup(at, space))
