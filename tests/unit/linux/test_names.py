"""tracer.linux.names: names of code addresses, as modules come and go."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from module_sample import (
    CODE,
    HEAD,
    KALLSYMS,
    LIST,
    MEMORY,
    MODULE,
    NAME,
    TABLES,
    Memory,
    one_module,
    types,
)

from tracer.access.space import AddressSpace
from tracer.access.symbols import Symbol, table_of
from tracer.linux.btf import Btf
from tracer.linux.kernel import Kernel
from tracer.linux.names import Names

KERNEL = 0xFFFF_FFFF_8100_0000
SECOND = MODULE + 0x4000


class Space:
    """The memory of a guest at one stop."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.reads = 0

    def read(self, linear: int, size: int) -> bytes:
        self.reads += 1
        try:
            return self.memory.read(linear, size)
        except KeyError:
            return b""  # not mapped


def stop(memory: Memory) -> AddressSpace:
    return cast(AddressSpace, Space(memory))


def names(layout: Btf | None = None) -> Names:
    table = table_of(
        [
            Symbol(KERNEL, "T", "_text"),
            Symbol(KERNEL + 0x100, "T", "do_it"),
            Symbol(HEAD, "D", "modules"),
        ],
        end=KERNEL + 0x1000,
    )
    kernel: Any = SimpleNamespace(symbols=table, types=lambda: layout or types("old"))
    return Names(cast(Kernel, kernel))


@pytest.fixture
def memory() -> Memory:
    return one_module()


def load_another(memory: Memory) -> None:
    """Load a second module where the first one had the end of its code."""
    memory.numbers(MODULE + MEMORY, "<QI", CODE, 0x40)
    memory.numbers(MODULE + KALLSYMS, "<Q", 0)
    memory.add_module(SECOND, "mmc_block", MODULE + LIST)
    memory.numbers(SECOND + MEMORY, "<QI", CODE + 0x40, 0x100)
    memory.numbers(SECOND + KALLSYMS, "<Q", TABLES + 0x900)
    memory.numbers(HEAD, "<Q", SECOND + LIST)


def test_names_of_the_kernel_and_of_a_module(memory: Memory) -> None:
    known, space = names(), stop(memory)
    assert known.lookup(KERNEL + 0x123, space) == "do_it+0x23"
    assert known.lookup(CODE + 0x55, space) == "probe+0x15 [virtio_net]"
    assert known.lookup(CODE + 0x5000, space) is None
    assert known.lookup(0x401000, space) is None


def test_where_a_module_was_another_one_may_be(memory: Memory) -> None:
    known = names()
    assert known.lookup(CODE + 0x55, stop(memory)) == "probe+0x15 [virtio_net]"
    before = known.follow(stop(memory))
    load_another(memory)
    space = stop(memory)
    assert known.lookup(CODE + 0x55, space) == "probe+0x15 [mmc_block]"
    module = known.module_at(CODE + 0x55, space)
    assert module is not None and module.name == "mmc_block"
    assert known.follow(space) == before + 1


def test_a_module_removed_leaves_no_name(memory: Memory) -> None:
    known = names()
    assert known.lookup(CODE + 0x55, stop(memory)) is not None
    memory.numbers(HEAD, "<Q", HEAD)
    assert known.lookup(CODE + 0x55, stop(memory)) is None
    assert known.module_at(CODE + 0x55, stop(memory)) is None


def test_what_is_told_late_is_named_as_it_was(memory: Memory) -> None:
    known = names()
    assert known.lookup(CODE + 0x55, stop(memory)) is not None
    memory.numbers(HEAD, "<Q", HEAD)
    assert known.lookup(CODE + 0x55, stop(memory), late=True) == "probe+0x15 [virtio_net]"
    module = known.module_at(CODE + 0x55, stop(memory), late=True)
    assert module is not None and module.name == "virtio_net"
    assert known.lookup(CODE + 0x55, stop(memory)) is None
    # But another module that is there now is meant.
    known = names()
    assert known.lookup(CODE + 0x55, stop(memory)) is None


def test_another_module_in_its_place_names_what_is_told_late(memory: Memory) -> None:
    known = names()
    assert known.lookup(CODE + 0x55, stop(memory)) == "probe+0x15 [virtio_net]"
    load_another(memory)
    assert known.lookup(CODE + 0x55, stop(memory), late=True) == "probe+0x15 [mmc_block]"


def test_a_module_behind_the_newest_is_found_when_it_is_asked_for(memory: Memory) -> None:
    # Two load side by side: the one behind gets ready while the first on the list does not change.
    known = names()
    load_another(memory)
    memory.numbers(MODULE, "<I", 3)  # the older one is still unformed
    assert known.lookup(CODE + 0x10, stop(memory)) is None
    memory.numbers(MODULE, "<I", 1)
    assert known.lookup(CODE + 0x11, stop(memory)) is None  # it has no symbols
    module = known.module_at(CODE + 0x11, stop(memory))
    assert module is not None and module.name == "virtio_net"


def test_the_list_is_looked_at_once_a_stop(memory: Memory) -> None:
    known = names()
    first = stop(memory)
    known.lookup(CODE + 0x55, first)
    after = cast(Space, first).reads
    for place in (0x55, 0x56, 0x57):
        known.lookup(CODE + place, first)
    assert cast(Space, first).reads == after
    second = stop(memory)
    known.lookup(CODE + 0x55, second)
    assert 0 < cast(Space, second).reads <= 2


def test_page_tables_without_the_kernel_change_nothing(memory: Memory) -> None:
    known = names()
    assert known.lookup(CODE + 0x55, stop(memory)) is not None
    nothing = stop(Memory())
    assert known.lookup(CODE + 0x55, nothing) == "probe+0x15 [virtio_net]"
    assert known.lookup(CODE + 0x10, nothing) == "start+0x10 [virtio_net]"


def test_a_renamed_module_in_the_same_place(memory: Memory) -> None:
    known = names()
    assert known.lookup(CODE + 0x55, stop(memory)) == "probe+0x15 [virtio_net]"
    memory.write(MODULE + NAME, b"virtio_blk")
    assert known.lookup(CODE + 0x55, stop(memory)) == "probe+0x15 [virtio_blk]"
