"""The port's side of INS and OUTS, which the vCPU itself makes in the fault stub.

Ports are a vCPU's: QEMU's debugger interface does not reach them, and its monitor reaches them as
nobody. By the time that an instruction faults on memory, whether its code may use the port has been
asked (Intel SDM vol. 1, 19.5; QEMU target/i386/tcg/translate.c, gen_check_io), and the stub may use
any.
"""

from __future__ import annotations

from collections.abc import Callable

from tracer.access.vcpu import SetRegister
from tracer.access.want import RunAlone
from tracer.errors import DebuggerError
from tracer.intercept.carrier import Stand
from tracer.intercept.entry.post import Post
from tracer.intercept.entry.spill import VALUE_OFFSET
from tracer.intercept.fault import Fault
from tracer.x86.bus import In, PortAccess
from tracer.x86.instruction import Instruction
from tracer.x86.state import RDX, CpuState

_CR4_DE = 1 << 3
_SEES_REGISTERS = frozenset((0xB2, 0x5658))
"""The command port of SMIs, whose handler looks at the registers that the code had, and VMware's,
which QEMU answers by them (hw/isa/apm.c, hw/i386/vmport.c)."""


def sees_code(insn: Instruction, cpu: CpuState) -> bool:
    """Tell whether the port's access has to be made by the interrupted code itself.

    So it is where more than the port and the value are seen of it: its registers, or, by I/O
    breakpoints (Intel SDM vol. 3B, 17.2.4), its RIP.
    """
    if insn.form is None or insn.form.operation not in ("ins", "outs"):
        return False
    return bool(cpu.cr4 & _CR4_DE) or cpu.gpr[RDX] & 0xFFFF in _SEES_REGISTERS


async def access_port(
    access: PortAccess,
    fault: Fault,
    gate: Post,
    tell: Callable[[PortAccess, int], None] = lambda access, value: None,
) -> int | None:
    """Access an I/O port for an instruction; return what it read.

    A port is read once, however often a person starts the instruction over. Each access is told
    with its value: a write before it is made, as it may be what powers the guest off.
    """
    if isinstance(access, In) and fault.port is not None and fault.port[0] == access:
        return fault.port[1]
    if not isinstance(access, In):
        tell(access, access.value)
    try:
        value = await _access(access, fault.stand(gate))
    except DebuggerError as error:
        if isinstance(access, In):
            raise
        # It may be what powers the guest off, like any write.
        fault.silence = error
        return None
    if isinstance(access, In) and value is not None:
        tell(access, value)
        fault.port = access, value
    return value


async def _access(access: PortAccess, stand: Stand) -> int | None:
    # Has the vCPU access an I/O port, once and in the exact width; returns what it read.
    reads = isinstance(access, In)
    routine = (stand.stub.inputs if reads else stand.stub.outputs)[access.width]
    request = [SetRegister("rdx", access.port), SetRegister("rip", routine)]
    if not isinstance(access, In):
        request.append(SetRegister("rax", access.value))
    await RunAlone(stand.stub.done, request)
    if not reads:
        return None
    data = stand.own(stand.stack + VALUE_OFFSET, access.width)
    return int.from_bytes(data, "little")
