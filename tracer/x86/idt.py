"""A gate of an IDT, in two views: what the guest put there, and what is there for the CPU.

vetrace puts the address of its stub into the gate of vector 14. The guest goes on writing to it,
whole or in parts, and what it then means is what it would have read back had nobody else written.

Ref: Intel SDM vol. 3A, figure 6-8 (64-bit interrupt gate), 6.14.1.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace

GATE_SIZE = 16
_GATE = struct.Struct("<QQ")
_LOWEST = 0
"""The byte of a gate with the lowest bits of the handler's address."""
_PRESENT = 1 << 47
_INTERRUPT_GATE = 0xE
_TRAP_GATE = 0xF
_OWN = 0x8E << 40
"""An interrupt gate, present, for exceptions alone (DPL 0)."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Hold a 64-bit interrupt gate.

    ``handler`` is a linear address; ``rest`` keeps selector, IST, type and DPL as they were, in
    their places.
    """

    handler: int
    rest: int
    reserved: int

    @property
    def stack(self) -> int:
        """Return the number of the interrupt stack it names (IST), 0 for none."""
        return self.rest >> 32 & 7

    @property
    def selector(self) -> int:
        """Return the selector of the handler's code segment."""
        return self.rest >> 16 & 0xFFFF

    @property
    def present(self) -> bool:
        """Tell whether the gate can be taken."""
        return bool(self.rest & _PRESENT)

    @property
    def usable(self) -> bool:
        """Tell whether a CPU that takes the gate gets to a handler, as far as the gate tells.

        A handler that is canonical with 5-level paging alone is not counted.
        """
        kind = self.rest >> 40 & 0x1F
        canonical = self.handler >> 47 in (0, 0x1FFFF)
        return (
            self.present
            and kind in (_INTERRUPT_GATE, _TRAP_GATE)
            and bool(self.selector & ~7)
            and canonical
        )


def unpack_gate(data: bytes) -> Gate:
    """Return the gate in 16 bytes of an IDT."""
    low, high = _GATE.unpack(data)
    handler = (low & 0xFFFF) | (low >> 48 << 16) | (high & 0xFFFF_FFFF) << 32
    return Gate(handler, low & 0x0000_FFFF_FFFF_0000, high >> 32)


def pack_gate(gate: Gate) -> bytes:
    """Return the 16 bytes of a gate."""
    low = gate.rest | (gate.handler & 0xFFFF) | (gate.handler >> 16 & 0xFFFF) << 48
    return _GATE.pack(low, gate.handler >> 32 | gate.reserved << 32)


def planted(own: Gate, door: int, selector: int, stack: int = 0) -> Gate:
    """Return the gate that leads to ``door`` in place of the guest's ``own``.

    ``selector`` is a 64-bit code segment for where the guest's own gate leads nowhere. ``stack``
    is the interrupt stack to switch to, 0 for none.
    """
    rest = own.rest if own.usable else selector << 16 | _OWN
    if stack:
        # Interrupts stay off: one would be on that stack as well.
        rest = rest & ~(7 << 32 | 0x1F << 40) | stack << 32 | _INTERRUPT_GATE << 40
    return replace(own, handler=door, rest=rest)


def guests_view(
    own: bytes,
    there: bytes,
    now: bytes,
    written: range | None,
    known: Mapping[int, tuple[bytes, bytes]],
) -> bytes:
    """Return what the guest means to have in a gate after it wrote to it.

    ``own`` is what it meant before, ``there`` what was in memory, ``now`` what is there after its
    store to the bytes ``written`` of the gate, counted from its start; without these each half
    that has changed is taken as written. ``known`` has what was meant and what was there for gates
    that lead to a door, by the door's linear address: a guest that has read one puts it back, as
    it was or changed, and begins with the lower half.
    """
    if written is None or _LOWEST in written:
        door = known.get(unpack_gate(now).handler)
        if door is not None:
            own, there = door
            written = range(0)
    changed = {place for place in range(GATE_SIZE) if now[place] != there[place]}
    if written is None:
        halves = {place // 8 for place in changed}
        written_too = {place for place in range(GATE_SIZE) if place // 8 in halves}
    else:
        written_too = set(written)
    return bytes(
        now[place] if place in changed | written_too else own[place] for place in range(GATE_SIZE)
    )
