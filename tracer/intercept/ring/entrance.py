"""The way of a vCPU into the monitor, from wherever it stands, with or without paging."""

from __future__ import annotations

from tracer.access.vcpu import RegisterFile, SetRegister, VcpuState
from tracer.access.want import BreakAlone, FlushTlb, Registers
from tracer.compiled import monitor
from tracer.compiled.monitor import MonitorCode
from tracer.errors import InterceptError
from tracer.x86.paging import PhysicalMemory
from tracer.x86.vmcb import SVME

_CR4_LA57 = 1 << 12
_CR0_PG, _CR4_PAE = 1 << 31, 1 << 5
_LONG = 1 << 8 | 1 << 11
"""EFER.LME, and NXE, as the monitor's window has data that is no code."""
_CR0_PROTECTED = _CR0_PG | 1 << 4 | 1
"""PG, ET and PE: with EFER.LME, long mode (Intel SDM vol. 3A, 9.8.5)."""
_LOW_ROOT = 0x1000
"""The physical address of a root table on the way there."""
OWN_SELECTOR = 8
"""The selector of the monitor's code where a vCPU enters it from outside long mode."""
_KEPT = "rip", "rsp", "rax", "rbx", "eflags", "cr0", "cr3", "cr4", "gs_base"
"""Registers that a vCPU has after it has entered as it had them before, as a sample."""


async def go_inside(
    code: MonitorCode,
    memory: PhysicalMemory,
    vcpu: int,
    state: VcpuState,
    before: RegisterFile,
    even_ns: int,
) -> None:
    """Have a vCPU that stops in this state, with its pages written, go on in the monitor.

    It stands where it stood. RAM that is lent for the way is as it was then. ``even_ns`` is as of
    :meth:`tracer.intercept.ring.monitor.Monitor.enter`. Raises InterceptError when it does not come
    there.
    """
    root = code.root(5 if before["cr4"] & _CR4_LA57 else 4)
    started = {"rax": code.vmcb(vcpu), "rbx": even_ns, "rip": code.start}
    changes = [SetRegister(*each) for each in started.items()]
    if before["cr0"] & _CR0_PG:
        await FlushTlb(root)
        await BreakAlone(before["rip"], changes, None)
    else:
        linear = before["rip"] + state.segments["cs"].base & 0xFFFFFFFF
        changes = [*_into_long_mode(before), SetRegister("cr3", root), *changes]
        lent = {
            state.tables.gdt.base + OWN_SELECTOR: monitor.CODE_SEGMENT,
            _LOW_ROOT: code.low_entry,
        }
        kept = {place: memory.read(place, len(data)) for place, data in lent.items()}
        for place, data in lent.items():
            memory.write(place, data)
        await BreakAlone(linear, changes, before["rip"])
        for place, data in kept.items():
            memory.write(place, data)
    after = await Registers()
    lost = [name for name in _KEPT if before[name] != after[name]]
    if lost or not after["efer"] & SVME:
        raise InterceptError(
            f"vCPU {vcpu} has not come into the monitor whole: {', '.join(lost) or 'EFER'} is "
            "another one's"
        )


def _into_long_mode(before: RegisterFile) -> list[SetRegister]:
    # The changes that lead there from wherever a vCPU without paging is, in the order that it
    # takes. Before it has 64-bit code QEMU's stub writes 32 bits of each register.
    modes = {"cr4": before["cr4"] | _CR4_PAE, "efer": before["efer"] | _LONG, "cr3": _LOW_ROOT}
    modes |= {"cr0": _CR0_PROTECTED, "cs": OWN_SELECTOR}
    return [SetRegister(*each) for each in modes.items()]
