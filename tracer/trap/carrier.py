"""Accesses carried out for the guest: through the stub of QEMU, or by the vCPU itself.

Most devices are reached at their physical address. The local APIC is not: each vCPU has its own
behind one address, so the vCPU makes the access, in the fault stub, through a spare mapping that
is not poisoned. Where there is none the page is healed for that moment, with every other vCPU
held. The same way the vCPU carries out a whole instruction that the emulator does not know: a
*native step*.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tracer.errors import InterceptError
from tracer.footprint import Encounter
from tracer.gdb.target import RegisterFile, Target, assign, store
from tracer.intercept import AddressSpace, Transfer
from tracer.linux import SPARE_LINEAR
from tracer.paging import Leaf, set_poison
from tracer.stub import CONTROL_SIZE, VALUE_OFFSET, Stub, pack_request
from tracer.x86 import Flag, PageFaultCode

_FIXED_FLAG = 1 << 1
_MAX_HEALED = 32
"""Pages one instruction can touch: more poisoned ones than this mean something else is wrong."""


@dataclass(frozen=True, slots=True)
class Stepped:
    """Tell where a native step left the vCPU.

    ``registers`` are those after it. ``faulted`` says that the instruction raised an exception,
    so that RIP is at a handler of the guest. ``encounters`` are the faults on poison that it came
    upon, the first one included.
    """

    registers: RegisterFile
    faulted: bool
    encounters: tuple[Encounter, ...]


class Carrier:
    """Carry out transfers and native steps for the vCPU that stopped."""

    def __init__(self, target: Target, vcpus: int) -> None:
        self._target = target
        self._alone = vcpus == 1

    async def perform(
        self, transfer: Transfer, space: AddressSpace, stub: Stub, stack: int
    ) -> int | None:
        """Carry out one transfer; return what was read, or None after a write.

        ``stack`` is the linear address of the spill.
        """
        if transfer.region is not None and transfer.region.vcpu_only:
            return await self._by_vcpu(transfer, space, stub, stack)
        if transfer.direction == "write":
            value = transfer.value or 0
            # RAM too: QEMU notices when the bytes are code it has translated.
            await self._target.write_physical(transfer.physical, transfer.width, value)
            return None
        if transfer.ram:
            # Memory that belongs to a device is not shared with us.
            with contextlib.suppress(LookupError):
                data = space.memory.read(transfer.physical, transfer.width)
                return int.from_bytes(data, "little")
        return await self._target.read_physical(transfer.physical, transfer.width)

    def departure(
        self, transfer: Transfer, space: AddressSpace, stub: Stub, stack: int
    ) -> list[str] | None:
        """Return the changes that make the vCPU store a value on its way back to the guest.

        For the only access of an instruction: it spares a stop. None where this cannot be done.
        """
        if transfer.region is None or not transfer.region.vcpu_only:
            return None
        linear = _spare_linear(transfer, space)
        if linear is None or transfer.value is None:
            return None
        request = store(stack, pack_request(linear, transfer.value))
        return [request, assign("rip", stub.departures[transfer.width])]

    async def _by_vcpu(
        self, transfer: Transfer, space: AddressSpace, stub: Stub, stack: int
    ) -> int | None:
        routines = stub.stores if transfer.direction == "write" else stub.loads
        routine = assign("rip", routines[transfer.width])
        value = transfer.value or 0
        spare = _spare_linear(transfer, space)
        request = store(stack, pack_request(spare or transfer.linear, value))
        await self._hold_others(True)
        if spare is not None:
            await self._target.run_to(stub.done, [request, routine])
        else:
            await self._healed(transfer.linear, space, stub, [request, routine])
        await self._hold_others(False)
        if transfer.direction == "write":
            return None
        return int.from_bytes(space.read(stack + VALUE_OFFSET, 8), "little")

    async def _healed(
        self, linear: int, space: AddressSpace, stub: Stub, changes: list[str]
    ) -> None:
        # Make an access through the poisoned page itself. No translation of it is in the TLB
        # before, and the stub leaves none behind.
        leaf = space.leaf(linear)
        if leaf is None:
            raise InterceptError(f"linear {linear:#x} lost its translation")
        if leaf.user:
            # The stub is a supervisor: SMAP would stop it short of a user page without AC.
            changes.append(assign("eflags", _FIXED_FLAG | Flag.AC))
        set_poison(space.memory, space.paging, leaf, poisoned=False)
        try:
            await self._target.run_to(stub.done, changes)
        finally:
            set_poison(space.memory, space.paging, leaf, poisoned=True)

    async def native_step(
        self,
        rip: int,
        foretold: Sequence[Transfer],
        space: AddressSpace,
        stub: Stub,
        admit: Callable[[Encounter], None],
        first: Encounter,
    ) -> Stepped:
        """Let the vCPU carry out the interrupted instruction on the real devices.

        ``rip`` is its linear address, ``first`` the fault. The pages of what is ``foretold`` are
        healed from the start: an instruction that faults halfway starts over, and would make an
        access twice. What it comes upon beyond is asked of ``admit``, which may raise. The vCPU
        stands at the stub's ``stop`` before, and afterwards where the instruction left it: behind
        itself, at itself (REP), or at a handler.
        Raises InterceptError when it does not get past its faults.
        """
        healed: list[Leaf] = []
        encounters = [first]
        await self._hold_others(True)
        try:
            for transfer in foretold:
                _heal(space.leaf(transfer.linear), healed, space)
            _heal(space.leaf(first.linear), healed, space)
            while True:
                await self.leave(stub)
                await self._target.step(stub.leave)
                await self._target.step(rip)
                after = await self._target.registers()
                if after["rip"] != stub.entry:
                    return Stepped(after, False, tuple(encounters))
                error = int.from_bytes(space.read(after["rsp"], 8), "little")
                if not error & PageFaultCode.RSVD:
                    return Stepped(after, True, tuple(encounters))
                # It touches another poisoned page: start over with all healed.
                await self._target.run_to(stub.stop)
                met = Encounter(after["cr2"], bool(error & PageFaultCode.W))
                if not _heal(space.leaf(met.linear), healed, space):
                    raise InterceptError(f"a native step faults again at linear {met.linear:#x}")
                encounters.append(met)
                admit(met)
        finally:
            for leaf in healed:
                set_poison(space.memory, space.paging, leaf, poisoned=True)
            await self.flush(space)
            await self._hold_others(False)

    async def leave(self, stub: Stub) -> None:
        """Run from ``stop`` to just before the stub's IRETQ, with the interrupted registers."""
        await self._target.break_at(stub.leave)

    async def settle(self, stub: Stub) -> bool:
        """Make sure that the vCPU, which a monitor stopped at ``stop``, stands for its bell.

        QEMU may have forgotten that stop but for a trace of it (CPUState.watchpoint_hit) that ends
        in an abort at the next bell. The stop behind a single step takes it away, and the step is
        taken back. Tells whether the vCPU is at ``stop``.
        """
        address = await self._target.step_once()
        if address == stub.stop_behind:
            stack = await self._target.register("rsp")
            await self._target.client.batch(
                [assign("rip", stub.stop), assign("rsp", stack - CONTROL_SIZE)]
            )
        return address in (stub.stop, stub.stop_behind)

    async def flush(self, space: AddressSpace) -> None:
        """Empty the TLB of the stopped vCPU."""
        await self._target.flush_tlb(space.paging.cr3)

    async def read_clock(self, stub: Stub, space: AddressSpace, registers: RegisterFile) -> int:
        """Return the time-stamp counter of the stopped vCPU, which stays where it is."""
        await self._hold_others(True)
        # With interrupts off: one that came in between would come back to another stack.
        masked = assign("eflags", registers["eflags"] & ~Flag.IF)
        await self._target.run_to(stub.stop, [masked, assign("rip", stub.spill)])
        await self._hold_others(False)
        top = await self._target.register("rsp")
        saved = ("eflags", "rip", "rsp", "rax", "rdx")
        await self._target.client.batch([assign(name, registers[name]) for name in saved])
        return int.from_bytes(space.read(top, 8), "little")

    async def _hold_others(self, held: bool) -> None:
        if not self._alone:
            await self._target.hold_others(held)


def _heal(leaf: Leaf | None, healed: list[Leaf], space: AddressSpace) -> bool:
    # Take the poison off a leaf and note that; tells whether there was any, and still room.
    if leaf is None or not leaf.poisoned or len(healed) == _MAX_HEALED:
        return False
    set_poison(space.memory, space.paging, leaf, poisoned=False)
    healed.append(leaf)
    return True


def _spare_linear(transfer: Transfer, space: AddressSpace) -> int | None:
    # Where the transfer's physical address is mapped without poison, if it is.
    leaf = space.leaf(SPARE_LINEAR)
    if leaf is None or leaf.poisoned or leaf.physical != transfer.physical & -leaf.size:
        return None
    return leaf.linear + transfer.physical - leaf.physical
