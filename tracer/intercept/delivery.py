"""The guest's own exceptions, taken to its handlers as the CPU would take them.

An exception that the emulator raises is raised on the stack that it belongs to, where that is
known. Elsewhere the vCPU takes the instruction again, with the guest's own gate
of vector 14 in place and its pages healed, and delivers by itself what comes of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tracer.access.footprint import UNKNOWN, Encounter, footprint
from tracer.access.space import AddressSpace
from tracer.access.transfer import Transfer
from tracer.access.vcpu import Change, RegisterFile, SetMemory, SetRegister
from tracer.access.want import BreakAlone, MakeChanges, RunAlone
from tracer.compiled.monitor import vmcb_at
from tracer.errors import EmulationError, GuestException, InterceptError
from tracer.intercept.entry import visit
from tracer.intercept.entry.gate import PageFaultGate
from tracer.intercept.entry.post import Post
from tracer.intercept.entry.spill import SPILL_SIZE
from tracer.intercept.fault import Fault
from tracer.intercept.native_step import leave, native_step, retake
from tracer.x86 import vmcb
from tracer.x86.decode import decode
from tracer.x86.idt import Gate
from tracer.x86.paging import Leaf
from tracer.x86.state import MAX_INSTRUCTION, PAGE_FAULT_VECTOR, PageFaultCode

_FRAME = 5 * 8
"""Bytes of a fault frame without an error code: RIP, CS, RFLAGS, RSP, SS."""
_ALIGNMENT = 16
"""Bytes that the CPU aligns RSP to before it pushes a frame (Intel SDM vol. 3A, 6.14.2)."""
_MAX_RETAKES = 16


@dataclass(frozen=True, slots=True)
class Taken:
    """Tell what came of an instruction that the vCPU took again.

    ``pushed`` are the writes of the CPU's frame that went to traced devices. ``completed`` says
    that there was no exception.
    """

    registers: RegisterFile
    pushed: tuple[Transfer, ...]
    completed: bool


class Delivery:
    """Deliver exceptions to one guest; ``counts`` counts them."""

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts

    async def raise_at(self, fault: Fault, gate: Post, exception: GuestException) -> list[Change]:
        """Raise an exception in the interrupted instruction's place.

        Returns the changes to make before the vCPU goes on. Raises InterceptError for one that a
        person wants and the guest cannot take.
        """
        if not isinstance(gate, PageFaultGate):
            self._counts["delivered"] += 1
            return [*fault.write_back(), *_injected(fault, exception)]
        own = await gate.own_gate(fault.space, fault.vcpu, exception.vector)
        frame = fault.stack + SPILL_SIZE - _FRAME
        there = (fault.spill.frame.rsp & -_ALIGNMENT) - _FRAME if gate.stack else frame
        deliverable = own.usable and not own.stack and _is_stack(there, fault, gate)
        await MakeChanges(fault.write_back())
        if exception.injected and not deliverable:
            raise InterceptError(
                f"exception {exception.vector} at RIP {fault.cpu.rip:#x} cannot be raised: its "
                "gate leads nowhere, or to a stack where it cannot go"
            )
        if not deliverable:
            await self.retake(fault, gate)
            return []
        self._counts["delivered"] += 1
        await leave(gate.stub)
        changes: list[Change] = []
        if there != frame:
            # From vetrace's interrupt stack to the one that the CPU would have pushed to.
            changes.append(SetMemory(there, fault.space.read(frame, _FRAME)))
            changes.append(SetRegister("ss", fault.spill.frame.ss))
            frame = there
        if exception.error_code is not None:
            frame -= 8
            changes.append(SetMemory(frame, exception.error_code.to_bytes(8, "little")))
        changes.append(SetRegister("rsp", frame))
        if exception.linear is not None:
            changes.append(SetRegister("cr2", exception.linear))
            if gate.stub.notes:
                # The guest's own page fault: its CR2 is noted.
                changes.append(SetRegister("rip", gate.stub.noting))
                await BreakAlone(gate.stub.noted, changes)
                changes = []
        return [*changes, SetRegister("rip", own.handler)]

    async def retake(self, fault: Fault, gate: PageFaultGate) -> Taken:
        """Let the vCPU take the interrupted instruction again, and what exception comes of it.

        What it accesses in traced devices on the way is not recorded here.
        """
        space = fault.space
        own = await gate.own_gate(space, fault.vcpu, PAGE_FAULT_VECTOR)
        top = fault.spill.frame.rsp & -_ALIGNMENT
        leaves = {leaf.entry_address: leaf for leaf in _touched(fault, top)}
        with gate.lent():
            for _ in range(_MAX_RETAKES):
                after = await retake(leaves.values(), fault.stand(gate))
                if not await self._met_poison(after, own, space, gate):
                    break
                leaf = space.leaf(after["cr2"])
                if leaf is None or not leaf.poisoned or leaf.entry_address in leaves:
                    raise InterceptError(f"a fault at linear {after['cr2']:#x} comes again")
                leaves[leaf.entry_address] = leaf
        completed = _within(after["rip"], fault)
        if not completed:
            self._counts["delivered"] += 1
            if after["rip"] == own.handler and gate.stub.notes and _has_room(after, space):
                await visit.note(gate.stub, after)
        pushed = () if completed else tuple(_pushes(top, after["rsp"], space))
        return Taken(after, pushed, completed)

    async def again(
        self, fault: Fault, gate: Post, meet: Callable[[], Awaitable[Encounter]]
    ) -> Taken:
        """Have the CPU deliver what it was delivering when it came upon a traced device.

        The vCPU stands in its monitor, which has the CPU deliver it again, and ``meet`` tells what
        it comes upon beyond. Raises InterceptError when it gets no further.
        """
        met, space = fault.encounter, fault.space
        # It starts over where it comes upon another page: the rest lies below the first push.
        first = met.linear + 8
        ahead = tuple(_pushes(first, first - fault.frame, space)) if met.write else ()
        stepped = await native_step(
            ahead, fault.stand(gate), lambda _: None, met, fault.spill.frame.rip, meet
        )
        self._counts["delivered"] += 1
        after = stepped.registers
        # The frame lies above RSP now, on whichever stack; tables of the CPU's may lead there too.
        pushed = _pushes(after["rsp"] + fault.frame, after["rsp"], space)
        read = [other for other in stepped.encounters if not other.write]
        return Taken(after, (*UNKNOWN.seen(read, space), *pushed), False)

    async def _met_poison(
        self, after: RegisterFile, own: Gate, space: AddressSpace, gate: PageFaultGate
    ) -> bool:
        # The vCPU may stand at the guest's own handler for a page fault that is
        # vetrace's. It goes back into the stub then.
        if after["rip"] != own.handler:
            return False
        error = int.from_bytes(space.read(after["rsp"], 8), "little")
        if not error & PageFaultCode.RSVD:
            return False
        await RunAlone(gate.stub.stop, [SetRegister("rip", gate.stub.spill)])
        return True


def _injected(fault: Fault, exception: GuestException) -> list[Change]:
    # The monitor has the CPU raise it.
    place = vmcb_at(fault.stack)
    offset, event = vmcb.event_of(exception.vector, exception.error_code)
    changes: list[Change] = [SetMemory(place + offset, event)]
    if exception.linear is not None:
        there = place + vmcb.REGISTERS["cr2"]
        changes.append(SetMemory(there, exception.linear.to_bytes(8, "little")))
    return changes


def _is_stack(frame: int, fault: Fault, gate: PageFaultGate) -> bool:
    # Tells whether a frame can be put at a linear address: the CPU has put one there, or would
    # have.
    if not gate.stack:
        return True
    if fault.cpu.cpl:
        return False  # it goes to another stack, which the TSS has
    leaves = [fault.space.leaf(place) for place in (frame - 8, frame + _FRAME - 1)]
    return all(leaf is not None and leaf.writable and not leaf.poisoned for leaf in leaves)


def _touched(fault: Fault, top: int) -> list[Leaf]:
    # Poisoned leaves that an exception of the instruction may have to do with: what it accesses,
    # and where the CPU pushes the frame.
    space = fault.space
    code = space.read(fault.cpu.rip, MAX_INSTRUCTION)
    try:
        insn = decode(code, fault.cpu.rip, fault.cpu.mode)
        places = [item.linear for item in footprint(insn, fault.cpu, space).transfers]
    except EmulationError:
        places = []
    places += range(top - 8 - _FRAME, top, 8)
    leaves = [space.leaf(linear) for linear in places]
    return [leaf for leaf in leaves if leaf is not None and leaf.poisoned]


def _within(rip: int, fault: Fault) -> bool:
    # Tells whether RIP is at the instruction or right behind it.
    return 0 <= rip - fault.cpu.rip <= MAX_INSTRUCTION


def _has_room(registers: RegisterFile, space: AddressSpace) -> bool:
    leaf = space.leaf(registers["rsp"] - 3 * 8)
    return leaf is not None and leaf.writable and not leaf.poisoned


def _pushes(top: int, bottom: int, space: AddressSpace) -> list[Transfer]:
    # The quadwords of a frame from ``top`` down that went to traced devices, in their order.
    found = []
    for linear in range(top - 8, max(bottom, top - 8 - _FRAME) - 1, -8):
        leaf = space.leaf(linear)
        if leaf is None or not space.regions.is_traced(leaf.translate(linear)):
            continue
        physical = leaf.translate(linear)
        region = space.regions.find(physical)
        found.append(Transfer("write", linear, physical, 8, None, region, traced=True, ram=False))
    return found
