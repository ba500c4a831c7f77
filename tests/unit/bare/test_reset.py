"""A guest of which nothing is known, from its reset on."""

from __future__ import annotations

import pytest
from playbook import play
from ram import PAGING, Ram

from tracer.access.region import RegionMap
from tracer.access.space import AddressSpace
from tracer.bare.reset import FromReset
from tracer.intercept.ring.window import NoWindow, Taken


def test_a_guest_from_reset_has_ram_that_it_is_not_told_of() -> None:
    own = range(6 << 30, (6 << 30) + (1 << 20))
    guest = FromReset(own, "disk.raw", "")
    space = AddressSpace(Ram(), PAGING, RegionMap((), (), ()))
    assert guest.take(Ram(), space, 1 << 20) == Taken(6 << 30, 0)
    with pytest.raises(NoWindow, match="1,048,576"):
        guest.take(Ram(), space, (1 << 20) + 1)
    assert guest.names.lookup(0x10_0000, space) is None and guest.title == "disk.raw (from reset)"
    play(guest.reach_entry(Ram()))
