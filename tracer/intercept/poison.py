"""Poison on every translation that leads to a traced device, from the moment it is made."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tracer.access.mapping import NewMapping
from tracer.access.space import AddressSpace
from tracer.access.want import Turn
from tracer.errors import TablesUnending
from tracer.x86.free_entry import place_large
from tracer.x86.paging import Leaf, leaves, range_leaves, set_poison
from tracer.x86.state import PAGE_SIZE

_TURN = 1 << 10
"""Leaves that are looked at before others, a signal's handler among them, have their turn."""
_MAX_POISONED = 1 << 20
"""Leaves of one pass: 4 GiB of a device in pages of 4 KiB. Each is held, and has a record."""


@dataclass(frozen=True, slots=True)
class Poisoned:
    """Tell what one pass over translations did.

    ``leaves`` are newly poisoned. ``refused`` are large pages over a traced device and RAM at once:
    poisoning them would trap too much of the RAM.
    """

    leaves: tuple[Leaf, ...]
    refused: tuple[Leaf, ...]


async def poison_everything(
    space: AddressSpace, others: Iterable[Leaf] = (), *, own: Collection[range] = ()
) -> Poisoned:
    """Poison every leaf of the current page tables, and of others, that has to be watched.

    What is mapped at the linear addresses ``own`` is vetrace's, and stays as it is. The caller
    flushes the TLB.
    """
    every = itertools.chain(leaves(space.memory, space.paging), others)
    guests = (leaf for leaf in every if not any(leaf.linear in part for part in own))
    return await _poison(space, guests)


def tables_of(mapping: NewMapping, space: AddressSpace) -> AddressSpace | None:
    """Return the address space that a mapping is in; None where its tables are not to be found."""
    if mapping.tables is None:
        return space
    leaf = space.leaf(mapping.tables)
    if leaf is None:
        return None
    return replace(space, paging=replace(space.paging, cr3=leaf.translate(mapping.tables)))


async def poison_mapping(space: AddressSpace, mapping: NewMapping) -> Poisoned:
    """Poison the leaves of one linear range; untouched since it was made, it is in no TLB."""
    found = range_leaves(space.memory, space.paging, mapping.linear, mapping.size)
    return await _poison(space, found)


async def heal_everything(space: AddressSpace, others: Iterable[Leaf] = ()) -> None:
    """Take the poison off every leaf of the current page tables, and of others."""
    await _heal(space, others, lambda _: True)


async def heal_quiet(space: AddressSpace, others: Iterable[Leaf] = ()) -> None:
    """Take the poison off every leaf that leads to nothing to be seen any more."""
    await _heal(
        space,
        others,
        lambda leaf: space.regions.is_quiet(leaf.physical, leaf.physical + leaf.size - 1),
    )


async def _heal(
    space: AddressSpace, others: Iterable[Leaf], wanted: Callable[[Leaf], bool]
) -> None:
    poisoned = (leaf for leaf in leaves(space.memory, space.paging) if leaf.poisoned)
    # The others were noted before they were poisoned.
    async for leaf in _in_turns(itertools.chain(poisoned, others)):
        if wanted(leaf) and not space.paging.shares(leaf):
            set_poison(space.memory, space.paging, leaf, poisoned=False)


def map_spare(space: AddressSpace, spare: int, executable_bit: bool) -> bool:
    """Map the device that only a vCPU reaches once more, unpoisoned, at a linear address.

    ``executable_bit`` tells whether entries may say that a page is not executable (EFER.NXE).
    Tells whether the mapping is there.
    """
    region = next((region for region in space.regions.regions if region.vcpu_only), None)
    if region is None or not executable_bit:
        return False
    return place_large(space.memory, space.paging, spare, region.start)


def unmap_spare(space: AddressSpace, spare: int) -> None:
    """Remove the mapping that :func:`map_spare` made; the caller flushes the TLB."""
    leaf = space.leaf(spare)
    if leaf is not None:
        space.memory.write(leaf.entry_address, bytes(8))


@contextmanager
def healed(some: Collection[Leaf], space: AddressSpace) -> Iterator[bool]:
    """Take the poison off some leaves for this long; tell whether one is of user space.

    No translation of them is in the TLB before, and whoever uses them leaves none behind.
    """
    poisoned = [leaf for leaf in some if leaf.poisoned]
    if space.nested is not None:
        with space.nested.opened(leaf.physical for leaf in poisoned):
            yield any(leaf.user for leaf in some)
        return
    for leaf in poisoned:
        set_poison(space.memory, space.paging, leaf, poisoned=False)
    try:
        yield any(leaf.user for leaf in some)
    finally:
        for leaf in poisoned:
            set_poison(space.memory, space.paging, leaf, poisoned=True)


async def _poison(space: AddressSpace, candidates: Iterator[Leaf]) -> Poisoned:
    regions = space.regions
    done: list[Leaf] = []
    refused: list[Leaf] = []
    async for leaf in _in_turns(candidates):
        end = leaf.physical + leaf.size - 1
        if leaf.poisoned or not regions.is_watched(leaf.physical, end):
            continue
        if leaf.size > PAGE_SIZE and regions.touches_ram(leaf.physical, end):
            refused.append(leaf)
        else:
            set_poison(space.memory, space.paging, leaf, poisoned=True)
            done.append(leaf)
            if len(done) > _MAX_POISONED:
                raise TablesUnending(
                    f"the guest maps traced devices with more than {_MAX_POISONED} pages: trace "
                    "fewer (--region), or leave the largest out (--bypass)"
                )
    return Poisoned(tuple(done), tuple(refused))


async def _in_turns(found: Iterable[Leaf]) -> AsyncIterator[Leaf]:
    for number, leaf in enumerate(found, 1):
        yield leaf
        if number % _TURN == 0:
            await Turn()
