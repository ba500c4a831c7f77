"""A vCPU before any trap is in place: it is run to an address, and the code there is read."""

from __future__ import annotations

from tracer.access.region import RegionMap
from tracer.access.space import AddressSpace
from tracer.access.stop import Stopped
from tracer.access.vcpu import RegisterFile
from tracer.access.want import DeleteBreakpoint, Resume, SetBreakpoint
from tracer.errors import GuestError
from tracer.x86.paging import PhysicalMemory, paging_of


async def run_to(linear: int) -> None:
    """Run to a linear address. Raises GuestError when the guest stops elsewhere."""
    number = await SetBreakpoint(linear)
    stop = (await Resume()).in_time()
    if stop.breakpoint != number:
        raise ended_early(stop)
    await DeleteBreakpoint(number)


def ended_early(stop: Stopped) -> GuestError:
    """Return the error that a guest stopped on its way to its kernel."""
    return GuestError(
        f"the guest stopped before its kernel was entered ({stop.reason or stop.payload}): "
        "one that has no room to unpack it in takes more --memory"
    )


def tables_of(registers: RegisterFile, memory: PhysicalMemory) -> AddressSpace:
    """Return where linear addresses lead for a vCPU in long mode, in RAM alone."""
    paging = paging_of(registers["cr3"], registers["cr4"], 0)
    return AddressSpace(memory, paging, RegionMap((), (), ()))


def at(registers: RegisterFile, memory: PhysicalMemory, code: bytes) -> bool:
    """Tell whether a vCPU in long mode stands before these bytes."""
    return tables_of(registers, memory).read(registers["rip"], len(code)) == code
