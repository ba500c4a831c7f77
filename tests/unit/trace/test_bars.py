"""The registers of PCI functions lie where a guest has written that they do."""

from __future__ import annotations

import pytest

from tracer.trace.bars import Bars
from tracer.trace.record import MemoryAccess

FUNCTION = 0x1F << 3 | 2


def write(at: int, value: int, width: int = 4, function: int = FUNCTION) -> MemoryAccess:
    place = function << 12 | at
    return MemoryAccess(
        direction="write", width=width, linear=0, physical=place, value=value, region="config",
        offset=place, space="config",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ({0x24: 0xFEBD_5000}, [0xFEBD_5000]),
        ({0x10: 0xFEBD_500C, 0x14: 0x80}, [0x80_FEBD_5000]),
        ({0x10: 0xC041, 0x14: 0xFEB0_0008}, [0xFEB0_0000]),
        ({0x10: 0xFFFF_FFFF}, []),
        ({0x3C: 0x0B, 0x40: 0xFEB0_0000}, []),
    ],
)
def test_a_function_lies_where_the_guest_has_put_it(
    written: dict[int, int], found: list[int]
) -> None:
    bars = Bars()
    for at, value in written.items():
        bars.note(write(at, 0xFFFF_FFFF))
        bars.note(write(at, value))
    assert [*bars.memory(FUNCTION)] == found
    assert [*bars.memory(FUNCTION + 1)] == []


def test_what_is_no_whole_base_address_says_nothing() -> None:
    bars = Bars()
    bars.note(write(0x10, 0xFEB0, width=2))
    bars.note(write(0x12, 0xFEB0_0000))
    assert [*bars.memory(FUNCTION)] == []
