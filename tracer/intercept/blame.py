"""Whose doing it was that a guest gave up: its own, or vetrace's.

A vCPU that cannot deliver an exception gives up (a triple fault). Poison is such an exception that
the guest would not have had.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tracer.access.space import AddressSpace
from tracer.access.vcpu import VcpuState
from tracer.intercept.entry.gate import PageFaultGate

_FRAME = 48
"""Bytes below RSP that a fault frame takes, and a little more for its alignment."""


def whose_doing(
    states: Sequence[VcpuState],
    space_of: Callable[[VcpuState], AddressSpace],
    gate: PageFaultGate | None,
    name_of: Callable[[int, AddressSpace], str],
) -> str:
    """Return in words how a guest came to its triple fault, from its vCPUs as they were then.

    ``name_of`` names a linear address of code. Without a ``gate`` nothing of the guest is changed.
    """
    translating = [state for state in states if state.paging]
    for state in translating:
        space = space_of(state)
        leaf = space.leaf(state.cr2)
        if gate is None or leaf is None or not leaf.poisoned:
            continue
        regions = space.regions.traced_names(leaf.physical, leaf.physical + leaf.size - 1)
        device = ", ".join(regions) or f"physical {leaf.physical:#x}"
        return (
            f"because it is traced: at {name_of(state.rip, space)} it came upon {device}, and "
            f"{_obstacle(state, space, gate)}; leave that out with --bypass"
        )
    if not translating:
        return "by itself"
    state = translating[0]
    return f"by itself, at {name_of(state.rip, space_of(state))}"


def _obstacle(state: VcpuState, space: AddressSpace, gate: PageFaultGate) -> str:
    # Why the page fault of a poisoned page did not get to the stub.
    idt = state.tables.idt
    if not gate.knows(space, idt):
        return f"its IDT at linear {idt.base:#x} was loaded where vetrace could not see it"
    if space.leaf(gate.stub.base) is None:
        return f"its page tables (CR3 {state.cr3:#x}) do not map vetrace's page-fault handler"
    frame = space.leaf(state.rsp - _FRAME)
    if frame is not None and frame.poisoned and not gate.stack:
        return f"its stack at linear {state.rsp:#x} is in a traced device, too"
    return "the page fault could not be delivered"
