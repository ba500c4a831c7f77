"""tracer.qemu.ram: where RAM is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tracer.qemu.ram import GuestMemory, Span

MIB = 1 << 20


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory(4 * MIB)
    # As QEMU lays a PC out: a hole for the VGA window, pieces side by side, and RAM above 4 GiB.
    memory.lay_out(
        [
            Span(1 << 32, (1 << 32) + MIB - 1, 3 * MIB),
            Span(0xC_0000, 0xF_FFFF, 0xC_0000),
            Span(0x10_0000, 3 * MIB - 1, MIB),
            Span(0, 0x9_FFFF, 0),
        ]
    )
    yield memory
    memory.close()


@pytest.mark.parametrize(
    ("physical", "size", "held"),
    [
        (0, 0xA_0000, True),
        (0, 0xA_0001, False),  # into the window
        (0xA_0000, 1, False),
        (0x9_FFFF, 2, False),
        (0x9_0000, 0x4_0000, False),  # over it
        (0xF_F000, 0x2000, True),  # from one piece into the next
        (0xC_0000, 3 * MIB - 0xC_0000, True),
        (3 * MIB - 1, 2, False),
        (0xFEE0_0000, 0x1000, False),
        ((1 << 32) - 1, 2, False),
        (1 << 32, MIB, True),
        ((1 << 32) + MIB, 1, False),
        (0xFEE0_0000, 0, True),  # nothing: no device among it
    ],
)
def test_ram_is_told_from_what_is_not(
    memory: GuestMemory, physical: int, size: int, held: bool
) -> None:
    assert memory.holds(physical, size) is held


def test_reading_and_writing_stay_within_one_piece(memory: GuestMemory) -> None:
    memory.write(0x10_0000, b"above")
    assert memory.read(0x10_0000, 5) == b"above"
    memory.write(1 << 32, b"high")
    assert memory.read(1 << 32, 4) == b"high"
    for physical, size in ((0xA_0000, 1), (0x9_FFFF, 2), ((1 << 32) - 1, 1)):
        with pytest.raises(LookupError, match=f"{physical:#x}"):
            memory.read(physical, size)


def test_before_it_is_laid_out_nothing_is_ram() -> None:
    memory = GuestMemory(MIB)
    assert not memory.holds(0, 1)
    memory.close()
