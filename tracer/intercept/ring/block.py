"""The block of compiled sites in a guest's RAM: its bytes, and which vCPU is on the fast way."""

from __future__ import annotations

from tracer.compiled import layout
from tracer.compiled.layout import block_size, control_field, stack_place
from tracer.compiled.sites import is_free
from tracer.intercept.ring.window import Window
from tracer.intercept.view import GuestView

_WORD = (1 << 64) - 1

_MOST_RINGS = 64
"""Stops in a row that are left for another vCPU's access to be finished."""


class Block:
    """Read and write a block by offsets; the window tells where it lies.

    It has a ring of so many ``slots``, and behind that with ``stacks`` the stack of each record.
    """

    def __init__(
        self, view: GuestView, window: Window, slots: int, *, stacks: bool = False
    ) -> None:
        self.window = window
        self._view = view
        self._slots = slots
        self._stacks = stacks
        self._left = 0

    @property
    def size(self) -> int:
        """Return how many bytes it has."""
        return block_size(self._slots, stacks=self._stacks)

    @property
    def span(self) -> range:
        """Return its physical addresses up to the end of the ring."""
        start = self.window.physical
        return range(start, start + block_size(self._slots))

    @property
    def sites(self) -> bytes:
        """Return the word of the control page that leads to the site table."""
        return (self.window.block + layout.SITES).to_bytes(8, "little")

    @property
    def head(self) -> int:
        """Return the first word of the control page: the ring's head, or who is on the fast way."""
        return int.from_bytes(self.read(control_field("HEAD"), 8), "little")

    @property
    def idle(self) -> bool:
        """Tell whether no vCPU is on the fast way; a guest that runs may be a moment later."""
        return is_free(self.head)

    def waits(self, vcpu: int) -> bool:
        """Tell whether a vCPU is to stop once more, as another one is in the middle of an access.

        What its device has seen of that is not known, so what this one does next has no place in
        the order of records. The other one is done by the time of the next stop, unless it was
        reset and never will be: it is not waited for then. Each vCPU has the number that it has for
        its APIC.
        """
        head = self.head
        if is_free(head) or self._owns(vcpu, head) or self._left == _MOST_RINGS:
            self._left = 0
            return False
        self._left += 1
        return True

    def is_within(self, vcpu: int) -> bool:
        """Tell whether an NMI's handler on this vCPU has come into an access of the vCPU's own.

        Which of the two the device sees first is not known.
        """
        head = self.head
        return not is_free(head) and self._owns(vcpu, head)

    def _owns(self, vcpu: int, head: int) -> bool:
        # Tells whose the access under way is.
        return self._view.vcpus == 1 or ~head & _WORD == vcpu

    def stack(self, number: int) -> bytes:
        """Return the stack that the guest has copied for a record with a number."""
        return self.read(stack_place(self._slots, number), layout.STACK_SIZE)

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes at an offset."""
        return self._view.memory.read(self.window.physical + offset, size)

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes at an offset."""
        self._view.memory.write(self.window.physical + offset, data)
