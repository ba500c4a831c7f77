"""The interrupt stacks (IST) that vetrace's page faults go to, one for each vCPU.

For guests whose RSP may be in a device: Linux' never is, and its page-fault handler could not do
with a stack that a second fault starts over.
"""

from __future__ import annotations

from tracer.access.space import AddressSpace
from tracer.access.vcpu import DescriptorTable, RegisterFile, SetRegister, VcpuState
from tracer.access.want import BreakAlone, MakeChanges, WriteCode
from tracer.x86.idt import GATE_SIZE, unpack_gate
from tracer.x86.state import Flag
from tracer.x86.tss import STACKS, TSS_SIZE, Loader, assemble_loader, make_tss, stack_offset

_LOADER_ROOM = 128
_STACK_ROOM = 400
_TSS_ROOM = TSS_SIZE + -TSS_SIZE % 16
_SLOT = _TSS_ROOM + _STACK_ROOM
_VECTORS = 256


class InterruptStacks:
    """Own the interrupt stacks of one guest.

    ``room`` are linear addresses of memory that the guest's supervisor can write and does not use.
    ``number`` is that of the stack in each TSS, 0 where there can be none.
    """

    def __init__(self, room: range, vcpus: int) -> None:
        start = (room.start + 15) & -16
        self._loader = start
        self._slots = range(start + _LOADER_ROOM, room.stop - _SLOT + 1, _SLOT)
        self._enough = len(self._slots) >= vcpus
        self.number = 0

    async def begin(self, state: VcpuState, registers: RegisterFile, space: AddressSpace) -> bool:
        """Choose a stack that no gate and no TSS of the guest uses; give it to the first vCPU.

        Tells whether there is one now.
        """
        if not self._enough or not self._writable(space):
            return False
        used = set(_used(space, state.tables.idt))
        for number in STACKS:
            taken = bool(state.task_selector) and space.word(state.task + stack_offset(number))
            if number not in used and not taken:
                self.number = number
                if await self.equip(0, state, registers, space):
                    return True
                self.number = 0
        return False

    async def equip(
        self, vcpu: int, state: VcpuState, registers: RegisterFile, space: AddressSpace
    ) -> bool:
        """Give a vCPU its stack, in its TSS or in a new one; tell whether it has it.

        The vCPU is the one that stopped.
        """
        slot = self._slots[vcpu]
        top = slot + _SLOT
        if state.task_selector:
            if state.task_limit < stack_offset(self.number) + 7:
                return False
            place = state.task + stack_offset(self.number)
            return space.word(place) in (0, top) and space.set_word(place, top)
        loader = assemble_loader(self._loader, slot)
        await self._load(loader, slot, make_tss(self.number, top), registers)
        return True

    async def _load(self, loader: Loader, slot: int, tss: bytes, registers: RegisterFile) -> None:
        await WriteCode(self._loader, loader.code)
        await WriteCode(slot, tss)
        flags = SetRegister("eflags", registers["eflags"] & ~Flag.IF)
        await BreakAlone(loader.loaded, [flags, SetRegister("rip", loader.start)])
        saved = ("eflags", "rip", "rax")
        await MakeChanges([SetRegister(name, registers[name]) for name in saved])

    def _writable(self, space: AddressSpace) -> bool:
        leaves = (space.leaf(self._loader), space.leaf(self._slots[-1] + _SLOT - 1))
        return all(leaf is not None and leaf.writable and not leaf.user for leaf in leaves)


def _used(space: AddressSpace, idt: DescriptorTable) -> list[int]:
    size = min(idt.limit + 1, _VECTORS * GATE_SIZE)
    data = space.read(idt.base, size)
    starts = range(0, len(data) - GATE_SIZE + 1, GATE_SIZE)
    gates = [unpack_gate(data[start : start + GATE_SIZE]) for start in starts]
    return [gate.stack for gate in gates if gate.present]
