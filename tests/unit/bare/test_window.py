"""Room for compiled sites in a bare guest: what it leaves by its symbols, and what leads there."""

from __future__ import annotations

import struct

import pytest
from ram import PAGING, Ram

from tracer.access.region import RegionMap
from tracer.access.space import AddressSpace
from tracer.access.symbols import Symbol, table_of
from tracer.bare.window import END, FIRST, open_window
from tracer.intercept.ring.window import NoWindow
from tracer.x86.paging import PRESENT, WRITABLE, Paging, walk

SIZE = 0x6000
ROOM, ROOM_AT = 0xFFFF_FFFF_8010_0000, 0x20_0000
GIB = 1 << 30


class Guest:
    """A guest with so many bytes of room, mapped as it says."""

    def __init__(self, size: int, *, levels: int = 4, start: int = ROOM, gap: int = 0) -> None:
        self.ram, self.paging = Ram(), Paging(PAGING.cr3, levels, PAGING.poison)
        for at in range(0, 0x10000, 4096):
            place = ROOM_AT + at + (gap if at == 0x2000 else 0)
            self.ram.map(ROOM + at, place, paging=self.paging)
        self.symbols = table_of([Symbol(start, "d", FIRST), Symbol(start + size, "d", END)])

    @property
    def space(self) -> AddressSpace:
        return AddressSpace(self.ram, self.paging, RegionMap((), (), ()))


@pytest.mark.parametrize(("levels", "tables"), [(4, 1), (5, 2)])
@pytest.mark.parametrize("start", [ROOM, ROOM + 0x10])
def test_the_block_lies_in_the_room_and_everything_is_seen(
    levels: int, tables: int, start: int
) -> None:
    size = tables * 4096 + SIZE + (0 if start == ROOM else 4096 - 0x10)
    guest = Guest(size, levels=levels, start=start)
    root = guest.ram.read(guest.paging.cr3, 4096)
    window = open_window(guest.ram, guest.space, guest.symbols, SIZE)
    first = ROOM_AT + (0 if start == ROOM else 4096)
    assert window.physical == first + tables * 4096
    for linear, physical, writable in (
        (window.block, window.physical, True),
        (window.code + 0x123, window.physical + 0x123, False),
        (window.base + 0xFEB0_0000, 0xFEB0_0000, True),
        (window.base + window.reach - 1, window.reach - 1, True),
    ):
        leaf = walk(guest.ram, guest.paging, linear)
        assert leaf is not None and leaf.size == GIB
        assert (leaf.translate(linear), leaf.writable, leaf.user) == (physical, writable, False)
    # One slot of the root is new, of the upper half, and none has changed.
    slots = [
        number
        for number, (old, new) in enumerate(
            zip(
                struct.unpack("<512Q", root),
                struct.unpack("<512Q", guest.ram.read(guest.paging.cr3, 4096)),
                strict=True,
            )
        )
        if old != new
    ]
    assert len(slots) == 1 and slots[0] >= 256
    assert not any(root[8 * slots[0] : 8 * slots[0] + 8])
    window.close(guest.ram)
    assert walk(guest.ram, guest.paging, window.block) is None


@pytest.mark.parametrize(
    ("guest", "why"),
    [
        (Guest(SIZE + 4095), "it takes 28,672"),
        (Guest(SIZE + 4096, levels=5), "it takes 32,768"),
        (Guest(SIZE + 4096, gap=0x1000), "in one piece"),
        (Guest(1 << 20), "in one piece"),
        (Guest(0), "in one piece"),
    ],
)
def test_a_room_that_will_not_do_is_left_as_it_is(guest: Guest, why: str) -> None:
    before = bytes(guest.ram.data)
    with pytest.raises(NoWindow, match=why):
        open_window(guest.ram, guest.space, guest.symbols, SIZE)
    assert guest.ram.data == before


def test_a_guest_that_leaves_none_and_one_without_a_free_slot_say_so() -> None:
    guest = Guest(SIZE + 4096)
    with pytest.raises(NoWindow, match=rf"no symbol {FIRST}, .*--trap nested"):
        open_window(guest.ram, guest.space, table_of([]), SIZE)
    entry = struct.pack("<Q", 0x1000 | PRESENT | WRITABLE)
    for slot in range(256, 511):
        guest.ram.write(guest.paging.cr3 + 8 * slot, entry)
    with pytest.raises(NoWindow, match="every slot"):
        open_window(guest.ram, guest.space, guest.symbols, SIZE)
