"""A guest of which nothing is known, from its reset on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from playbook import play
from ram import PAGING, Ram

from tracer.access.region import RegionMap
from tracer.access.space import AddressSpace
from tracer.access.stack import Frame, Stack
from tracer.access.symbols import table_of
from tracer.bare.image import Image
from tracer.bare.reset import FromReset
from tracer.bare.system import Names
from tracer.compiled.diary import Current
from tracer.intercept.ring.window import NoWindow, Taken
from tracer.intercept.system import Learnt
from tracer.intercept.trap import Breakpoint
from tracer.x86.state import CpuState


class Software:
    """A system that a guest comes to run when the test says so."""

    names = Names(Image((), table_of(())))
    telling: Sequence[range] = (range(3),)
    tells = removed = False
    learn: Callable[[Learnt], None]

    async def expect(
        self, view: Any, journal: Any, learn: Callable[[Learnt], None], *, tells: bool
    ) -> Sequence[Breakpoint]:
        self.learn, self.tells = learn, tells
        return ()

    def callers(self, publish: Any, *, stacks: bool) -> Any:
        assert stacks
        return SimpleNamespace(
            state=1, stack_end=2, started=True, note=lambda *_: 7,
            unwind=lambda *_: Stack((Frame(5, True),)), remark=lambda _: "by frame pointers",
        )  # fmt: skip

    async def remove(self, space: AddressSpace) -> None:
        self.removed = True


def test_a_guest_from_reset_has_ram_that_it_is_not_told_of() -> None:
    own = range(6 << 30, (6 << 30) + (1 << 20))
    guest = FromReset(own, "disk.raw", "", Software())
    space = AddressSpace(Ram(), PAGING, RegionMap((), (), ()))
    assert guest.take(Ram(), space, 1 << 20) == Taken(6 << 30, 0)
    with pytest.raises(NoWindow, match="1,048,576"):
        guest.take(Ram(), space, (1 << 20) + 1)
    assert guest.names.lookup(0x10_0000, space) is None and guest.title == "disk.raw (from reset)"
    play(guest.reach_entry(Ram()))


def test_who_makes_accesses_is_known_as_soon_as_the_software_is() -> None:
    software, remarks = Software(), list[str]()
    guest = FromReset(range(1 << 20), "disk.raw", "", software)
    callers = guest.callers(print, stacks=True)
    space = AddressSpace(Ram(), PAGING, RegionMap((), (), ()))
    cpu = CpuState((0,) * 16, 0x1000, 2)
    assert callers.note(cpu, space, 0) is None and callers.state == callers.stack_end == 0
    assert callers.remark(space) is None and not callers.started
    view: Any = SimpleNamespace(space=lambda cr3, cr4: space)
    journal: Any = SimpleNamespace(remark=remarks.append)
    learnt: list[Learnt] = []
    play(guest.expect(view, journal, learnt.append, tells=True))
    assert software.tells and not learnt and guest.current is None
    known = Learnt((0x2000, 0x20), 0x3000, Current(8, range(1)))
    software.learn(known)
    assert learnt == [known] and guest.current == known.current
    assert callers.note(cpu, space, 0) == 7 and (callers.state, callers.stack_end) == (1, 2)
    assert callers.started and callers.unwind(cpu, space) == Stack((Frame(5, True),))
    assert remarks == ["by frame pointers"]
    assert list(guest.telling) == [range(3)]
    play(guest.remove(space))
    assert software.removed
