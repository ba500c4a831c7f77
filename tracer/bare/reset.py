"""A guest that is traced from its CPU's reset on: firmware, boot loader, and whatever they start.

Nothing of it has to be known. Where an image of it names its code, these names are told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tracer.access.space import AddressSpace
from tracer.access.symbols import table_of
from tracer.bare.image import Image
from tracer.bare.system import Bare
from tracer.bare.system import Names as NoNames
from tracer.errors import GuestError
from tracer.intercept.ground import Ground
from tracer.intercept.names import Names
from tracer.intercept.ring.window import Taken
from tracer.intercept.trap import Breakpoint
from tracer.x86.paging import PhysicalMemory

_NOTHING = Image((), table_of(()))


class FromReset(Bare):
    """Know nothing but that a guest has not begun: a :class:`tracer.intercept.system.System`.

    ``hidden`` are the physical addresses of RAM that it is not told of. ``names`` are those of its
    code, if any are known, and ``root`` is the physical address of the page table by which its
    modules are found, 0 where nobody knows.
    """

    stack_in_device = False

    def __init__(
        self, hidden: range, release: str, sha256: str, names: Names | None = None, root: int = 0
    ) -> None:
        super().__init__(_NOTHING, release, sha256)
        self.names: Names = names or NoNames(_NOTHING)
        self.hidden = hidden
        self._root = root

    @property
    def title(self) -> str:
        """Return what it is, for people."""
        return f"{self.release} (from reset)"

    async def reach_entry(self, memory: PhysicalMemory) -> None:
        """Stay where the machine begins."""

    def take(self, memory: PhysicalMemory, space: AddressSpace, size: int) -> Taken:
        """Use the RAM that the guest is not told of."""
        return replace(super().take(memory, space, size), root=self._root)

    async def watch(
        self, ground: Ground, space: AddressSpace, *, late: bool
    ) -> Sequence[Breakpoint]:
        """Refuse poisoned entries: there are no page tables yet."""
        raise GuestError("a guest has no page tables at its reset: give --trap nested")
