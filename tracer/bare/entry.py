"""From the first instruction of the firmware to where tracing of a bare guest can begin.

There a vCPU is in long mode, in the guest's supervisor, and has an IDT with a page-fault handler:
where the guest loads the first such IDT, or at the moment that a person names.
"""

from __future__ import annotations

from collections.abc import Iterable

from tracer.access.region import RegionMap
from tracer.access.space import AddressSpace
from tracer.access.stop import Stopped
from tracer.access.vcpu import VcpuState
from tracer.access.want import (
    Await,
    DeleteBreakpoint,
    GuestTime,
    MemoryMap,
    Pause,
    Registers,
    Resume,
    SetBreakpoint,
    Sleeps,
    Start,
    Vcpu,
    VcpuStates,
)
from tracer.errors import GuestError, NoEntries, QemuError, TargetGone
from tracer.x86.idt import GATE_SIZE, unpack_gate
from tracer.x86.paging import PhysicalMemory, paging_of
from tracer.x86.state import PAGE_FAULT_VECTOR

_TRIES = 64
_BEAT = 0.001
"""Seconds of the host's time between two looks at the guest's clock."""
_HANDLERS = 256


async def reach_idt(places: Iterable[int], name: str, memory: PhysicalMemory) -> None:
    """Run to behind the first LIDT, of those before the ``places``, that gives a handler.

    ``name`` is what the guest is called. Raises GuestError.
    """
    numbers = [await SetBreakpoint(place) for place in places]
    for _ in range(_TRIES):
        stop = await _stop()
        if stop.breakpoint not in numbers:
            raise NoEntries(
                f"{name} stopped before it had loaded an IDT with a page-fault handler: "
                f"{_why(stop)}"
            )
        if await _takes_page_faults(memory):
            break
    else:
        raise NoEntries(f"{name} has loaded {_TRIES} IDTs without a page-fault handler")
    await _delete(numbers)


async def reach_place(
    linear: int, text: str, memory: PhysicalMemory, *, behind: bool, faults: bool = True
) -> None:
    """Run to a linear address, or to ``behind`` a call of the function there.

    ``text`` is how a person named it. The guest may come there before it has a page-fault handler
    of its own, and is let go on then; without ``faults`` it needs none, but 64-bit mode. Raises
    GuestError where it never has that.
    """
    number = await SetBreakpoint(linear)
    for count in range(_TRIES):
        stop = await _stop()
        if stop.breakpoint != number:
            raise _never_there(text, count, stop)
        if behind and not await _return(text, memory):
            continue
        if await _takes_page_faults(memory) if faults else (await _state()).paging:
            break
    else:
        raise NoEntries(
            f"--attach-at {text}: the guest came there {_TRIES} times without a page-fault handler "
            "(vector 14) in 64-bit mode: name a later place"
        )
    await DeleteBreakpoint(number)


async def reach_time(
    time_ns: int, text: str, memory: PhysicalMemory, *, faults: bool = True
) -> bool:
    """Run for so many nanoseconds of the guest's time, and on until a vCPU is in its supervisor.

    An idle guest's time passes fast: it is somewhat later then. Tells whether the guest has a
    page-fault handler by then, or without ``faults`` is in 64-bit mode. Raises GuestError.
    """
    try:
        stop = await _stop_at(time_ns)
    except TargetGone:
        stop = Stopped(signal="SIGQUIT")
    if not stop.interrupted:
        raise _ended(text, stop)
    ready = await _takes_page_faults(memory)
    if not ready and (faults or not (await _state()).paging):
        return False
    if (await Registers())["cs"] & 3 or await Sleeps(await Vcpu()):
        await _reach_handler(text, memory)
    return True


async def _stop_at(time_ns: int) -> Stopped:
    await Start()
    ran, asked = None, False
    while ran is None:
        ran = await Await(_BEAT)
        if ran is None and not asked and await _time() >= time_ns:
            await Pause()
            asked = True
    return ran.in_time()


async def _time() -> int:
    try:
        return await GuestTime() or 0
    except QemuError:
        return 0  # it has ended, and its stop tells so


async def _reach_handler(text: str, memory: PhysicalMemory) -> None:
    # Whoever sleeps or runs a program is interrupted by and by.
    state = await _state()
    space, idt = _space(state, memory), state.tables.idt
    data = space.read(idt.base, min(idt.limit + 1, _HANDLERS * GATE_SIZE))
    gates = [data[at : at + GATE_SIZE] for at in range(0, len(data) - GATE_SIZE + 1, GATE_SIZE)]
    usable = [gate for gate in map(unpack_gate, gates) if gate.usable]
    numbers = [await SetBreakpoint(place) for place in sorted({gate.handler for gate in usable})]
    stop = await _stop()
    if stop.breakpoint not in numbers:
        raise _ended(text, stop)
    await _delete(numbers)


async def _return(text: str, memory: PhysicalMemory) -> bool:
    # Runs on to where the function that a vCPU has entered returns to, if it is in long mode.
    state = await _state()
    if not state.paging:
        return False
    await MemoryMap()  # tells where RAM is
    back = _space(state, memory).word(state.rsp)
    if back is None:
        raise GuestError(f"--attach-at {text}: where it returns to cannot be read at RSP")
    number = await SetBreakpoint(back)
    while True:
        stop = await _stop()
        if stop.breakpoint is None:
            raise _ended(text, stop)
        if stop.breakpoint == number and (await _state()).rsp == state.rsp + 8:
            break  # another call, or another vCPU's, returns with another stack
    await DeleteBreakpoint(number)
    return True


async def _takes_page_faults(memory: PhysicalMemory) -> bool:
    # Tells whether the vCPU that stopped has an IDT that leads to a handler.
    state = await _state()
    if not state.paging:
        return False
    await MemoryMap()  # tells where RAM is
    idt = state.tables.idt
    gate = _space(state, memory).read(idt.base + GATE_SIZE * PAGE_FAULT_VECTOR, GATE_SIZE)
    room = idt.limit >= GATE_SIZE * (PAGE_FAULT_VECTOR + 1) - 1
    return room and len(gate) == GATE_SIZE and unpack_gate(gate).usable


async def _stop() -> Stopped:
    # Runs to the next stop.
    try:
        return (await Resume()).in_time()
    except TargetGone:
        return Stopped(signal="SIGQUIT")


async def _state() -> VcpuState:
    return (await VcpuStates())[await Vcpu()]


def _space(state: VcpuState, memory: PhysicalMemory) -> AddressSpace:
    return AddressSpace(memory, paging_of(state.cr3, state.cr4, 0), RegionMap((), (), ()))


async def _delete(numbers: Iterable[int]) -> None:
    for number in numbers:
        await DeleteBreakpoint(number)


def _never_there(text: str, count: int, stop: Stopped) -> GuestError:
    if not count:
        return GuestError(f"--attach-at {text}: the guest never came there: {_why(stop)}")
    times = "once" if count == 1 else f"{count} times"
    return NoEntries(
        f"--attach-at {text}: the guest came there {times}, without a page-fault handler (vector "
        f"14) in 64-bit mode, and not again: {_why(stop)}"
    )


def _ended(text: str, stop: Stopped) -> GuestError:
    return GuestError(f"--attach-at {text}: the guest was not there yet: {_why(stop)}")


def _why(stop: Stopped) -> str:
    if stop.ended:
        return "it has ended"
    return str(stop.reason or stop.signal or stop.payload)
