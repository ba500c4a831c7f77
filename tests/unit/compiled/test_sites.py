"""The site table: what is written where, in which order, and when there is no room."""

from __future__ import annotations

import struct

import pytest

from tracer.compiled import layout
from tracer.compiled.common import common_code
from tracer.compiled.safety import NotCompiled
from tracer.compiled.sites import SiteTable, is_free, watched
from tracer.x86.decode import decode
from tracer.x86.instruction import Instruction
from tracer.x86.state import Mode

BLOCK = 0xFFFF_FFEE_9000_0000
RIP = 0xFFFF_FFFF_8100_0100
NEIGHBOURS = b"\x90" * 8


def table() -> SiteTable:
    return SiteTable(BLOCK, common_code(smp=False, la57=False))


def load(rip: int = RIP, code: bytes = b"\x8b\x07") -> Instruction:
    return decode(code + bytes(15), rip, Mode.LONG)


def field(entry: bytes, name: str) -> int:
    (value,) = struct.unpack_from("<Q", entry, layout.SITE_FIELDS[name] - 8)
    return int(value)


def test_a_thunk_is_written_before_its_entry_and_the_key_last() -> None:
    site, writes = table().enter(load(), NEIGHBOURS)
    (thunk_at, thunk), (place, void), (behind, entry), (key_at, key) = writes
    assert (thunk_at, thunk) == (layout.THUNKS, site.thunk.code)
    assert (place, behind, key_at) == (place, place + 8, place)
    assert (void, key) == (struct.pack("<Q", 1), struct.pack("<Q", RIP))
    assert field(entry, "THUNK") == BLOCK + layout.DISTANCE + layout.THUNKS
    assert field(entry, "FIRST") == layout.NOWHERE
    assert len(entry) + 8 == layout.SITE_SIZE


def test_a_changed_instruction_gets_a_thunk_and_keeps_its_entry() -> None:
    sites = table()
    first, writes = sites.enter(load(), NEIGHBOURS)
    changed, others = sites.enter(load(code=b"\x8b\x0f"), NEIGHBOURS)
    assert (first.number, changed.number, len(sites)) == (0, 1, 2)
    assert others[1][0] == writes[1][0]
    assert others[0][0] >= writes[0][0] + len(writes[0][1])
    assert sites[0] is first
    assert sites.used > len(first.thunk.code)


def test_a_site_that_is_held_leads_to_the_slow_way_and_no_other_does() -> None:
    sites, common = table(), common_code(smp=False, la57=False)
    slow = BLOCK + layout.DISTANCE + common.stopped

    def thunks(writes: list[tuple[int, bytes]]) -> list[int]:
        return [int.from_bytes(data, "little") for _, data in writes]

    first, _ = sites.enter(load(), NEIGHBOURS)
    second, writes = sites.enter(load(RIP + 16), NEIGHBOURS, held=True)
    assert field(writes[2][1], "THUNK") == slow
    one, two = (BLOCK + layout.DISTANCE + each.thunk.start for each in (first, second))
    assert thunks(sites.hold([first.number])) == [slow, two]
    # Whatever is in front of a thunk, and however its neighbours change.
    assert thunks(sites.lead(common.deadline)) == [slow, BLOCK + layout.DISTANCE + common.deadline]
    assert field(sites.enter(load(), b"\x91" * 8)[1][1][1], "THUNK") == slow
    sites.lead(None)
    assert thunks(sites.hold([])) == [one, two]


def test_other_neighbours_are_told_without_a_new_thunk() -> None:
    sites = table()
    site, _ = sites.enter(load(), NEIGHBOURS)
    again, writes = sites.enter(load(), b"\x91" * 8)
    assert again is site
    assert len(writes) == 3
    assert field(writes[1][1], "CODE") == int.from_bytes(b"\x91" * 8, "little")


def test_sites_of_one_hash_have_places_of_their_own() -> None:
    sites = table()
    distance = layout.SITE_COUNT * layout.SITE_SIZE
    places = [sites.enter(load(RIP + n * distance), NEIGHBOURS)[1][1][0] for n in range(3)]
    assert [place - places[0] for place in places] == [0, 256, 512]


@pytest.mark.parametrize(
    ("offset", "code", "at"),
    [
        (0x100, b"\x8b\x07", 0x100),
        (0xFF8, b"\x8b\x07", 0xFF8),
        (0xFF9, b"\x8b\x07", 0xFF8),  # ends with the page
        (0xFFE, b"\x8b\x07", 0xFF8),
        (0xFFF, b"\x8b\x07", 0xFFF),  # itself on both pages
    ],
)
def test_the_bytes_that_are_compared_are_on_pages_of_the_instruction(
    offset: int, code: bytes, at: int
) -> None:
    base = 0xFFFF_FFFF_8100_0000
    assert watched(load(base + offset, code)) == base + at


def test_a_full_table_and_full_room_are_told() -> None:
    sites = table()
    with pytest.raises(NotCompiled, match="full"):
        for number in range(layout.SITE_COUNT):
            sites.enter(load(RIP + 2 * number), NEIGHBOURS)
    assert len(sites) == layout.SITE_COUNT * 3 // 4
    # An instruction that is there already still gets a thunk, as long as there is room.
    sites.enter(load(code=b"\x8b\x0f"), NEIGHBOURS)
    codes = (b"\x8b\x07", b"\x8b\x0f")
    with pytest.raises(NotCompiled, match="the room for thunks is full"):
        for number in range(20_000):
            sites.enter(load(code=codes[number % 2]), NEIGHBOURS)
    assert layout.THUNKS + sites.used <= layout.SITES


def test_the_ring_tells_whether_a_vcpu_is_on_the_way() -> None:
    assert is_free(0x1000)
    assert not is_free((1 << 64) - 1)
