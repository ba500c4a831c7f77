"""A guest that is to be traced, and the room that it has for compiled sites."""

from __future__ import annotations

from dataclasses import dataclass

from tracer.access.space import AddressSpace
from tracer.access.vcpu import RegisterFile
from tracer.compiled.common import CommonCode, common_code
from tracer.compiled.layout import DISTANCE, block_size
from tracer.compiled.monitor import monitor_size
from tracer.intercept.coverage import Coverage
from tracer.intercept.entry.stub import Fast
from tracer.intercept.ground import Memory
from tracer.intercept.journal import Journal
from tracer.intercept.ring.window import NoWindow, Window
from tracer.intercept.system import System
from tracer.intercept.view import GuestView

_MOST_STACKS = 1024
"""Records of a ring at which each has a stack: 8 MiB of the guest's RAM."""

_FEWEST = 2

_EFER_NXE = 1 << 11
_CR4_LA57 = 1 << 12


@dataclass(frozen=True, slots=True)
class Setting:
    """Hold what is there before a guest is traced."""

    view: GuestView
    memory: Memory
    system: System
    journal: Journal
    coverage: Coverage


@dataclass(frozen=True, slots=True)
class Room:
    """Say where compiled sites lie: in the window, with common code, and a ring of ``slots``."""

    window: Window
    common: CommonCode
    slots: int

    @property
    def fast(self) -> Fast:
        """Return where a fault enters the common code."""
        return Fast(self.window.block + DISTANCE + self.common.fast, self.window.span)


async def room_for(
    setting: Setting,
    slots: int,
    registers: RegisterFile,
    space: AddressSpace,
    *,
    stacks: bool,
    monitor: bool = False,
) -> Room:
    """Return the place for compiled sites. Raises NoWindow where there is none.

    With ``stacks`` each record has a copy of its stack, with a ``monitor`` there is room for that.
    """
    if not registers["efer"] & _EFER_NXE:
        raise NoWindow("the guest has no pages that are not code (EFER.NXE is off)")
    slots = slots_of(slots, stacks=stacks, most=setting.system.lends_at_most)
    size = block_size(slots, stacks=stacks)
    size += monitor_size(setting.view.vcpus) if monitor else 0
    window = await setting.system.window(setting.memory, space, size)
    common = common_code(smp=setting.view.vcpus > 1, la57=bool(registers["cr4"] & _CR4_LA57))
    return Room(window, common, slots)


def slots_of(wanted: int, *, stacks: bool, most: int | None = None) -> int:
    """Return how many records a ring has of those wanted: fewer where each has a stack.

    It has as many as fit into the ``most`` bytes that there are, where these are known.
    """
    slots = min(wanted, _MOST_STACKS) if stacks else wanted
    while most is not None and slots > _FEWEST and block_size(slots, stacks=stacks) > most:
        slots //= 2
    return slots


async def room_if_any(
    setting: Setting, slots: int, registers: RegisterFile, space: AddressSpace, *, stacks: bool
) -> Room | None:
    """Return the place for compiled sites as :func:`room_for`; remark why there is none."""
    try:
        return await room_for(setting, slots, registers, space, stacks=stacks)
    except NoWindow as why:
        setting.journal.remark(f"each access takes a stop: {why}")
        return None
