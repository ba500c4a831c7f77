"""A guest of which nothing is known but its image, and what a person says of it.

Tracing begins at the moment that is named, or else behind the first LIDT of its own that gives it a
page-fault handler. What it maps later is found at the functions that are named, or else where it
writes to its page tables.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from tracer.access.region import RegionMap
from tracer.access.space import AddressSpace
from tracer.access.stack import Frame, Stack
from tracer.access.symbols import SymbolTable, function_names
from tracer.bare.entry import reach_idt, reach_place, reach_time
from tracer.bare.guidance import Guidance
from tracer.bare.hooks import FunctionHooks
from tracer.bare.image import Image
from tracer.bare.place import Place
from tracer.bare.watch import TableWatch
from tracer.bare.window import open_window, take_room
from tracer.compiled.diary import Current, Errand
from tracer.compiled.stack_copy import StackCopy
from tracer.confidential.kind import Kind
from tracer.errors import GuestError, TablesUnending, UsageError
from tracer.intercept.ground import Ground
from tracer.intercept.journal import Journal
from tracer.intercept.names import Names as AllNames
from tracer.intercept.ring.window import NoWindow, Taken, Window
from tracer.intercept.system import Callers as AnyCallers
from tracer.intercept.system import Learnt
from tracer.intercept.trap import Breakpoint, Untraced, without_room
from tracer.intercept.view import GuestView
from tracer.trace.record import Mark, StackRecord
from tracer.x86.paging import Leaf, PhysicalMemory, leaves
from tracer.x86.state import PAGE_SIZE, CpuState
from tracer.x86.table_load import table_loads

_NO_GUIDANCE = Guidance()
_STUB_ROOM = PAGE_SIZE
_NOT_UNWOUND = "nothing is known of the stacks of a guest without a known system"


class Names:
    """Resolve linear addresses by the symbols of the image, where it has any."""

    def __init__(self, image: Image) -> None:
        self._image = image

    @property
    def symbols(self) -> SymbolTable:
        """Return the image's symbols."""
        return self._image.symbols

    def functions(self, space: AddressSpace | None = None) -> frozenset[str]:
        """Return the names of its functions."""
        return function_names(self.symbols)

    def modules(self, space: AddressSpace | None = None) -> list[str]:
        """Return nothing: there are no modules."""
        return []

    def modules_on_disk(self) -> frozenset[str]:
        """Return nothing: there are no modules."""
        return frozenset()

    def lookup(self, linear: int, space: AddressSpace) -> str | None:
        """Return ``name+0x1f`` for a linear address, or None when nothing there has a name."""
        return self.symbols.lookup(linear)

    def text(self) -> list[range]:
        """Return the linear addresses of its code."""
        return [
            range(part.linear, part.linear + len(part.code))
            for part in self._image.segments
            if part.executable
        ]

    def function_at(self, linear: int) -> int | None:
        """Return where the function around a linear address begins, or None."""
        found = self.symbols.find(linear)
        return None if found is None else linear - found[1]


class Callers:
    """Tell nothing of who made an access."""

    state = 0
    stack_end = 0
    started = False

    def note(
        self,
        cpu: CpuState,
        space: AddressSpace,
        time_ns: int,
        copy: StackCopy | None = None,
        before: Callable[[], None] | None = None,
    ) -> int | None:
        """Return None: no stack is recorded."""
        return None

    def note_errand(self, errand: Errand | None, space: AddressSpace, time_ns: int) -> None:
        """Take nothing: there are no phases."""

    def unwind(self, cpu: CpuState, space: AddressSpace) -> Stack:
        """Return the function that is under way, alone."""
        return Stack((Frame(cpu.rip, True),), _NOT_UNWOUND)

    def remark(self, space: AddressSpace) -> str | None:
        """Say that there are no call chains."""
        return f"no stacks are recorded: {_NOT_UNWOUND}"


class Bare:
    """Know one bare guest: a :class:`tracer.intercept.system.System`.

    ``hidden`` are physical addresses of RAM that it is not told of, if there is such; ``faults``
    tells that its page faults are taken, for which it needs a handler of its own.
    ``release`` is what to call it, ``sha256`` the hash of its image; ``guidance`` is what a person
    says of it. Raises UsageError for a symbol that the image does not have.
    """

    spare = 0xFFFF_FFFF_FFE0_0000  # the last 2 MiB: where tables reach it, and it is unused
    stack_in_device = True
    patience: float | None = None
    command_line = ""
    current: Current | None = None
    secondary = None
    telling: Sequence[range] = ()
    kind = Kind.PLAIN
    homes: Sequence[int] = ()
    hidden: range = range(0)
    faults = True

    def __init__(
        self, image: Image, release: str, sha256: str, guidance: Guidance = _NO_GUIDANCE
    ) -> None:
        self.names: AllNames = Names(image)
        self.release = release
        self.sha256 = sha256
        self._image = image
        self._guidance = guidance
        self._watch: TableWatch | None = None
        self._roots: set[int] = set()
        self.look_every = guidance.look_every
        moment = guidance.moment
        place = None if moment is None else moment.place
        self._place = None if place is None else place.of(image.symbols, release)
        self.free = self._free(guidance.stub)
        self._functions = [
            (each.place.of(image.symbols, release), each) for each in guidance.functions
        ]

    @property
    def title(self) -> str:
        """Return what it is, for people."""
        return f"{self.release} (no known system)"

    @property
    def awaited(self) -> str:
        """Say that it is the moment that was named, or an LIDT where the image has one."""
        if self._guidance.moment is not None:
            return f"tracing waits for --attach-at {self._guidance.moment.text}"
        return (
            "tracing waits for the first LIDT of the image that gives a page-fault handler: where "
            "its code runs at other addresses than it is linked for, or loads it elsewhere, name a "
            "time or a place (--attach-at), or --from-reset"
        )

    @property
    def begun(self) -> bool:
        """Tell whether it has run for long before tracing begins: all its TLBs may be filled."""
        return self._guidance.moment is not None

    def _free(self, place: Place | None) -> Sequence[range]:
        # Linear addresses for the stub: those that a person names, or that are nobody's.
        if place is None:
            return self._image.free
        linear = place.of(self.names.symbols, self.release)
        if linear % PAGE_SIZE:
            raise UsageError(
                f"--stub-at {place.symbol or hex(linear)}: linear {linear:#x} is in the middle of "
                "a page: name one that the guest does not use, by its beginning"
            )
        return [range(linear, linear + _STUB_ROOM)]

    def own_tables(self, space: AddressSpace) -> AddressSpace:
        """Return those that the vCPU has: no others are known."""
        return space

    async def reach_entry(self, memory: PhysicalMemory) -> None:
        """Run to the moment that was named, or to behind the first IDT with a handler."""
        moment = self._guidance.moment
        if moment is not None and self._place is not None:
            await reach_place(
                self._place, moment.text, memory, behind=moment.behind, faults=self.faults
            )
            return
        if moment is not None:
            reached = await reach_time(moment.time_ns, moment.text, memory, faults=self.faults)
            if reached:
                return
        places = self._loads("lidt")
        if not places:
            raise GuestError(f"{self.release} has no LIDT: it takes no page faults, and no traps")
        await reach_idt(places, self.release, memory)

    def _loads(self, wanted: str) -> list[int]:
        # Linear addresses behind each load of IDT or CR3 in the image.
        places = set()
        for part in self._image.segments:
            if part.executable:
                found = table_loads(part.code, part.linear, self.names.function_at)
                places |= {place for place, name in found.items() if name == wanted}
        return sorted(places)

    def ready(self) -> None:
        """Return None: it is no confidential guest, and its room is there from the start."""

    @property
    def lends_at_most(self) -> None:
        """Return None: its room tells by itself how large it is."""

    async def window(self, memory: PhysicalMemory, space: AddressSpace, size: int) -> Window:
        """Use the room that the guest leaves, and map all memory; see :mod:`tracer.bare.window`."""
        return open_window(memory, space, self.names.symbols, size)

    def take(self, memory: PhysicalMemory, space: AddressSpace, size: int) -> Taken:
        """Use RAM that the guest is not told of, or else the room that it leaves."""
        if not self.hidden:
            return Taken(take_room(space, self.names.symbols, size), 0)
        if len(self.hidden) < size:
            raise NoWindow(f"it takes {size:,} bytes, and {len(self.hidden):,} are there")
        return Taken(self.hidden.start, 0)

    def stub_place(self) -> int | None:
        """Return None: there is no place but those that are free."""
        return None

    async def watch(
        self, ground: Ground, space: AddressSpace, *, late: bool
    ) -> Sequence[Breakpoint]:
        """Set traps at the functions that were named, or else at stores to its page tables."""
        hooks = FunctionHooks(ground, self._roots)
        await hooks.install(self._functions)
        self._watch = watch = TableWatch(ground, self._roots, stores=not self._functions)
        await watch.install(self._loads("cr3"), space)
        return hooks, watch

    async def follow_errands(self, block: int | None, *, smp: bool) -> None:
        """Do nothing: no threads are known."""

    async def tell_errands(self, space: AddressSpace) -> int:
        """Return 0: no threads are known."""
        return 0

    async def expect(
        self, view: GuestView, journal: Journal, learn: Callable[[Learnt], None], *, tells: bool
    ) -> Sequence[Breakpoint]:
        """Set no traps: nothing more will be known."""
        return ()

    async def follow_moves(self, block: int) -> None:
        """Do nothing: where it moves devices is not known."""

    def callers(self, publish: Callable[[Mark | StackRecord], None], *, stacks: bool) -> AnyCallers:
        """Return what knows no callers."""
        return Callers()

    def unseen(self, regions: RegionMap) -> Iterator[str]:
        """Yield nothing that could be told before it happens."""
        yield from ()

    def leaves(self, space: AddressSpace) -> Iterator[Leaf]:
        """Yield what is poisoned in page tables that were in use before.

        The guest may have put their memory to another use: so no other leaf counts there.
        """
        for root in self._roots - {space.paging.root}:
            paging = replace(space.paging, cr3=root)
            with contextlib.suppress(TablesUnending):
                for leaf in leaves(space.memory, paging):
                    end = leaf.physical + leaf.size - 1
                    if leaf.poisoned and space.regions.is_watched(leaf.physical, end):
                        yield leaf

    async def look(self) -> None:
        """Look at the page tables in use again."""
        if self._watch is not None:
            await self._watch.look()

    async def mapped_by_programs(self, space: AddressSpace) -> None:
        """Do nothing: programs are not known."""

    def without_idt(self, where: str) -> Untraced:
        """Say from where on the guest is not traced."""
        return without_room(where)

    def taken_back(self) -> None:
        """Return None: it is entered as an ordinary guest."""

    async def give_back(self) -> None:
        """Do nothing: nothing was borrowed."""

    async def remove(self, space: AddressSpace) -> None:
        """Do nothing: its code is as it was."""
