"""Poison on every translation that leads to a traced device, from the moment it is made."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tracer.intercept import AddressSpace
from tracer.linux import SPARE_LINEAR, NewMapping
from tracer.paging import Leaf, leaves, place_large, set_poison
from tracer.x86 import PAGE_SIZE

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Poisoned:
    """Tell what one pass over translations did.

    ``leaves`` are newly poisoned. ``refused`` are large pages over a traced device and RAM at once:
    poisoning them would trap too much of the RAM.
    """

    leaves: tuple[Leaf, ...]
    refused: tuple[Leaf, ...]


def poison_everything(space: AddressSpace, others: Iterable[Leaf] = ()) -> Poisoned:
    """Poison every leaf of the current page tables, and of others, that has to be watched.

    The caller flushes the TLB.
    """
    return _poison(space, itertools.chain(leaves(space.memory, space.paging), others))


def poison_mapping(space: AddressSpace, mapping: NewMapping) -> Poisoned:
    """Poison the leaves of one linear range; untouched since it was made, it is in no TLB."""
    return _poison(space, _range_leaves(space, mapping.linear, mapping.size))


def heal_everything(space: AddressSpace, others: Iterable[Leaf] = ()) -> None:
    """Take the poison off every leaf of the current page tables, and of others."""
    _heal(space, others, lambda _: True)


def heal_quiet(space: AddressSpace, others: Iterable[Leaf] = ()) -> None:
    """Take the poison off every leaf that leads to nothing to be seen any more."""
    _heal(
        space,
        others,
        lambda leaf: space.regions.is_quiet(leaf.physical, leaf.physical + leaf.size - 1),
    )


def _heal(space: AddressSpace, others: Iterable[Leaf], wanted: Callable[[Leaf], bool]) -> None:
    poisoned = (leaf for leaf in leaves(space.memory, space.paging) if leaf.poisoned)
    # The others were noted before they were poisoned.
    for leaf in itertools.chain(poisoned, others):
        if wanted(leaf):
            set_poison(space.memory, space.paging, leaf, poisoned=False)


def map_spare(space: AddressSpace, executable_bit: bool) -> bool:
    """Map the device that only a vCPU reaches once more, unpoisoned, where nothing else is.

    ``executable_bit`` tells whether entries may say that a page is not executable (EFER.NXE).
    Tells whether the mapping is there.
    """
    region = next((region for region in space.regions.regions if region.vcpu_only), None)
    if region is None or not executable_bit:
        return False
    return place_large(space.memory, space.paging, SPARE_LINEAR, region.start)


def unmap_spare(space: AddressSpace) -> None:
    """Remove the mapping that :func:`map_spare` made; the caller flushes the TLB."""
    leaf = space.leaf(SPARE_LINEAR)
    if leaf is not None:
        space.memory.write(leaf.entry_address, bytes(8))


def _poison(space: AddressSpace, candidates: Iterator[Leaf]) -> Poisoned:
    regions = space.regions
    done: list[Leaf] = []
    refused: list[Leaf] = []
    for leaf in candidates:
        end = leaf.physical + leaf.size - 1
        if (
            leaf.poisoned
            or leaf.linear == SPARE_LINEAR
            or not regions.is_watched(leaf.physical, end)
        ):
            continue
        if leaf.size > PAGE_SIZE and regions.touches_ram(leaf.physical, end):
            log.debug("%#x: a %d-byte page over device and RAM", leaf.linear, leaf.size)
            refused.append(leaf)
        else:
            set_poison(space.memory, space.paging, leaf, poisoned=True)
            done.append(leaf)
    return Poisoned(tuple(done), tuple(refused))


def _range_leaves(space: AddressSpace, linear: int, size: int) -> Iterator[Leaf]:
    end = linear + size
    while linear < end:
        leaf = space.leaf(linear)
        if leaf is None:
            linear = (linear & -PAGE_SIZE) + PAGE_SIZE
            continue
        yield leaf
        linear = leaf.linear + leaf.size
