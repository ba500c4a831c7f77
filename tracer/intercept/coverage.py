"""What is traced of one guest: the regions that are there, and the poison that leads to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import replace

from tracer.access.region import (
    Choice,
    RegionMap,
    apart,
    check_choice,
    left_out,
    region_info,
    traced_ranges,
)
from tracer.access.space import AddressSpace
from tracer.access.vcpu import RegisterFile
from tracer.access.want import FlushAllTlbs, FlushTlb, LogSize, MemoryMap, PortMap, Registers, Woken
from tracer.compiled.inputs import Input
from tracer.errors import InterceptError, NoEntries
from tracer.intercept.journal import Journal
from tracer.intercept.poison import (
    Poisoned,
    heal_everything,
    heal_quiet,
    map_spare,
    poison_everything,
    unmap_spare,
)
from tracer.intercept.view import GuestView
from tracer.trace.configuration import REGION, configuration_space
from tracer.trace.inputs import INPUT_SPACES, interrupts, messages
from tracer.trace.member import Space
from tracer.trace.record import MapRecord, RegionInfo, RegionRecord
from tracer.x86.nested import NestedTables
from tracer.x86.paging import LARGE_SIZE, Leaf

_EFER_NXE = 1 << 11

Others = Callable[[AddressSpace], Iterator[Leaf]]
"""Yields the leaves to watch that the current page tables do not lead to."""


class Coverage:
    """Keep what the ``choice`` says traced.

    ``spare`` is the linear address of the mapping that stays unpoisoned, and so does what lies at
    the addresses ``own``; ``others`` finds leaves of other page tables, and ``by_programs`` is told
    when programs have mapped devices. ``inputs`` are the spaces beside memory that are recorded.
    Where the ``whole`` of it has to be, a page that cannot be poisoned raises NoEntries.
    """

    def __init__(
        self,
        view: GuestView,
        journal: Journal,
        choice: Choice,
        spare: int,
        others: Others,
        by_programs: Callable[[AddressSpace], Awaitable[None]],
    ) -> None:
        self.choice = choice
        self.inputs: Sequence[Space] = ()
        self._view = view
        self._journal = journal
        self._spare = spare
        self.own = [range(spare, spare + LARGE_SIZE)]
        self._others = others
        self._by_programs = by_programs
        self.whole = False
        self._announced: dict[str, RegionInfo] = {}
        self._refused: set[tuple[int, int, int]] = set()

    # ---- regions

    def record(self, inputs: Collection[Input]) -> None:
        """Have inputs of these kinds be known to be recorded."""
        spaces = [space for kind, space in INPUT_SPACES.items() if kind in inputs]
        self.inputs = [*spaces, "msi"] if "irq" in spaces else spaces

    async def refresh(self) -> RegionMap:
        """Ask where devices are now, and announce what is new or has moved."""
        view = self._view
        regions, ram = await MemoryMap()
        if "port" in self.inputs:
            names = {REGION, *(region.name for region in regions)}
            view.ports = apart(await PortMap(), names)
        traced = traced_ranges(regions, self.choice)
        view.show(RegionMap(regions, traced, ram, view.ports, self.inputs))
        pieces: Counter[str] = Counter()
        for region in view.regions.regions:
            info = region_info(region, view.regions.is_traced_region(region))
            # A region that another one covers in part comes in several pieces.
            pieces[region.name] += 1
            key = f"{region.name} {pieces[region.name]}"
            self._announce(key, info)
        for region in view.ports:
            key = f"{region.name} at port {region.start:#x}"
            self._announce(key, region_info(region, traced=True, space="port"))
        if "port" in self.inputs:
            self._announce(REGION, configuration_space())
        if "irq" in self.inputs:
            self._announce("irq", interrupts())
            self._announce("msi", messages())
        return view.regions

    def _announce(self, key: str, info: RegionInfo) -> None:
        if self._announced.get(key) != info:
            self._announced[key] = info
            self._journal.publish(RegionRecord(time_ns=self._view.time_ns, region=info))

    async def choose(self, choice: Choice, space: AddressSpace) -> None:
        """Trace what ``choice`` says from here on.

        Raises UsageError, with nothing changed, when it names a region that is not there.
        """
        regions, _ = await MemoryMap()
        check_choice(regions, choice)
        self.choice = choice
        await self.refresh()
        self.tell_left_out()
        space = replace(space, regions=self._view.regions)
        await self._again(space, "chosen at the prompt")

    def tell_left_out(self) -> None:
        """Remark on what is not traced unless it is asked for."""
        for line in left_out(self._view.regions.regions, self.choice):
            self._journal.remark(line)

    async def follow_map(self) -> None:
        """Look whether devices have moved, and poison what leads to them now."""
        if not await self._view.stale():
            return
        journal = self._journal
        journal.counts["maps"] += 1
        old = self._view.regions
        new = await self.refresh()
        reset = await Woken()
        if reset is not None:
            size = await LogSize()
            journal.mark("the machine woke up", size, None if size is None else reset)
        others = (new.shown, new.traced) != (old.shown, old.traced)
        if (others and self._view.nested is not None) or new.outdates(old):
            journal.counts["outdated"] += 1
            space = self._view.space_of(await Registers())
            await self._again(space, "the memory map changed")

    # ---- poison

    async def poison(self, registers: RegisterFile, by: str) -> None:
        """Poison all that the page tables of the stopped vCPU lead to, for a reason in words."""
        if self._view.nested is not None:
            await self._cover(self._view.nested)
            return
        space = self._view.space_of(registers)
        map_spare(space, self._spare, bool(registers["efer"] & _EFER_NXE))
        self.note(await poison_everything(space, own=self.own), by)
        await FlushTlb(space.paging.cr3)

    async def _cover(self, nested: NestedTables) -> None:
        # Whatever the guest maps, it is what is behind that faults.
        highest = (1 << self._view.physical_bits) - 1
        try:
            nested.cover(*self._view.regions.watched(highest), highest)
        except LookupError as error:
            raise InterceptError(f"devices lie in too many places to be traced: {error}") from None
        await FlushAllTlbs()

    async def poison_all(self, registers: RegisterFile, by: str) -> None:
        """Poison all that any page tables lead to, in a guest that has used them already."""
        space = self._view.space_of(registers)
        map_spare(space, self._spare, bool(registers["efer"] & _EFER_NXE))
        await self._again(space, by)

    async def _again(self, space: AddressSpace, by: str) -> None:
        if self._view.nested is not None:
            await self._cover(self._view.nested)
            return
        others = list(self._others(space))
        await heal_quiet(space, others)
        poisoned = await poison_everything(space, others, own=self.own)
        self.note(poisoned, by)
        if any(leaf.user for leaf in poisoned.leaves):
            await self._by_programs(space)
        await FlushAllTlbs()

    def note(self, poisoned: Poisoned, by: str) -> None:
        """Record what was poisoned, and what could not be."""
        regions, journal = self._view.regions, self._journal
        for leaf in poisoned.leaves:
            names = regions.traced_names(leaf.physical, leaf.physical + leaf.size - 1)
            if not names:
                continue  # nothing is there yet
            journal.publish(
                MapRecord(
                    time_ns=self._view.time_ns,
                    linear=leaf.linear,
                    physical=leaf.physical,
                    size=leaf.size,
                    regions=names,
                    by=by,
                )
            )
        for leaf in poisoned.refused:
            if (leaf.linear, leaf.physical, leaf.size) in self._refused:
                continue  # its tables are looked at again
            self._refused.add((leaf.linear, leaf.physical, leaf.size))
            if self.whole:
                raise NoEntries(
                    f"linear {leaf.linear:#x} is a page of {leaf.size} bytes over a traced device "
                    f"and RAM at physical {leaf.physical:#x}"
                )
            journal.counts["refused"] += 1
            journal.remark(
                f"not traced: linear {leaf.linear:#x}, a page of {leaf.size} bytes "
                f"over a traced device and RAM at physical {leaf.physical:#x}"
            )

    async def heal(self, space: AddressSpace) -> None:
        """Take all poison away, and the spare mapping; the caller flushes TLBs."""
        if self._view.nested is not None:
            self._view.nested.cover((), (), (1 << self._view.physical_bits) - 1)
            return
        await heal_everything(space, self._others(space))
        unmap_spare(space, self._spare)
