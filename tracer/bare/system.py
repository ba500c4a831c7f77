"""A guest of which nothing is known but its image: it has its own IDT, and maps devices at once.

Tracing begins behind the first LIDT of its own that gives it a page-fault handler. What it maps
later is found at the next IDT that it loads, and not before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tracer.access.region import RegionMap
from tracer.access.space import AddressSpace
from tracer.access.stack import Frame, Stack
from tracer.access.symbols import SymbolTable, function_names
from tracer.access.want import (
    DeleteBreakpoint,
    MemoryMap,
    Resume,
    SetBreakpoint,
    Vcpu,
    VcpuStates,
)
from tracer.bare.image import Image
from tracer.bare.window import open_window, take_room
from tracer.compiled.diary import Errand
from tracer.compiled.stack_copy import StackCopy
from tracer.confidential.kind import Kind
from tracer.errors import GuestError
from tracer.intercept.ground import Ground
from tracer.intercept.trap import Breakpoint
from tracer.intercept.window import Taken, Window
from tracer.trace.record import Mark, StackRecord
from tracer.x86.idt import GATE_SIZE, unpack_gate
from tracer.x86.paging import Leaf, PhysicalMemory, paging_of
from tracer.x86.state import PAGE_FAULT_VECTOR, CpuState
from tracer.x86.table_load import table_loads

_TRIES = 64
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

    ``release`` is what to call it, ``sha256`` the hash of its image.
    """

    spare = 0xFFFF_FFFF_FFE0_0000  # the last 2 MiB: where tables reach it, and it is unused
    stack_in_device = True
    patience: float | None = None
    command_line = ""
    current = None
    secondary = None
    telling: Sequence[range] = ()
    kind = Kind.PLAIN
    begun = False
    homes: Sequence[int] = ()

    def __init__(self, image: Image, release: str, sha256: str) -> None:
        self.names = Names(image)
        self.release = release
        self.sha256 = sha256
        self._image = image

    @property
    def title(self) -> str:
        """Return what it is, for people."""
        return f"{self.release} (no known system)"

    def own_tables(self, space: AddressSpace) -> AddressSpace:
        """Return those that the vCPU has: no others are known."""
        return space

    async def reach_entry(self, memory: PhysicalMemory) -> None:
        """Run to behind the first LIDT that gives the guest a page-fault handler."""
        places = set()
        for part in self._image.segments:
            if part.executable:
                found = table_loads(part.code, part.linear, self.names.function_at)
                places |= {place for place, name in found.items() if name == "lidt"}
        if not places:
            raise GuestError(f"{self.release} has no LIDT: it takes no page faults, and no traps")
        numbers = [await SetBreakpoint(place) for place in sorted(places)]
        for _ in range(_TRIES):
            stop = (await Resume()).in_time()
            if stop.breakpoint not in numbers:
                raise GuestError(
                    f"{self.release} stopped before it had loaded an IDT with a page-fault "
                    f"handler: {stop.reason or stop.signal or stop.payload}"
                )
            if await _takes_page_faults(memory):
                break
        else:
            raise GuestError(
                f"{self.release} has loaded {_TRIES} IDTs without a page-fault handler"
            )
        for number in numbers:
            await DeleteBreakpoint(number)

    def ready(self) -> None:
        """Return None: it is no confidential guest, and its room is there from the start."""

    async def window(self, memory: PhysicalMemory, space: AddressSpace, size: int) -> Window:
        """Use the room that the guest leaves, and map all memory; see :mod:`tracer.bare.window`."""
        return open_window(memory, space, self.names.symbols, size)

    def take(self, memory: PhysicalMemory, space: AddressSpace, size: int) -> Taken:
        """Use the room that the guest leaves."""
        return Taken(take_room(space, self.names.symbols, size), 0)

    def stub_place(self) -> int | None:
        """Return None: padding is looked for behind the page-fault handler."""
        return None

    async def watch(
        self, ground: Ground, space: AddressSpace, *, late: bool
    ) -> Sequence[Breakpoint]:
        """Set no traps: where the guest makes mappings is not known."""
        return ()

    async def follow_errands(self, block: int | None, *, smp: bool) -> None:
        """Do nothing: no threads are known."""

    async def follow_moves(self, block: int) -> None:
        """Do nothing: where it moves devices is not known."""

    def callers(self, publish: Callable[[Mark | StackRecord], None], *, stacks: bool) -> Callers:
        """Return what knows no callers."""
        return Callers()

    def unseen(self, regions: RegionMap) -> Iterator[str]:
        """Yield nothing that could be told before it happens."""
        yield from ()

    def leaves(self, space: AddressSpace) -> Iterator[Leaf]:
        """Yield nothing: the current page tables are the only ones that are known."""
        yield from ()

    async def mapped_by_programs(self, space: AddressSpace) -> None:
        """Do nothing: programs are not known."""

    def without_idt(self, where: str) -> str:
        """Say from where on the guest is not traced."""
        return (
            f"not traced: what the guest does from {where} on, where it loads an IDT without room "
            "for page faults"
        )

    def taken_back(self) -> None:
        """Return None: it is entered as an ordinary guest."""

    async def give_back(self) -> None:
        """Do nothing: nothing was borrowed."""

    async def remove(self, space: AddressSpace) -> None:
        """Do nothing: its code is as it was."""


async def _takes_page_faults(memory: PhysicalMemory) -> bool:
    # Tells whether the vCPU that stopped has an IDT that leads to a handler.
    state = (await VcpuStates())[await Vcpu()]
    if not state.paging:
        return False
    await MemoryMap()  # which tells where RAM is
    space = AddressSpace(memory, paging_of(state.cr3, state.cr4, 0), RegionMap((), (), ()))
    idt = state.tables.idt
    gate = space.read(idt.base + GATE_SIZE * PAGE_FAULT_VECTOR, GATE_SIZE)
    room = idt.limit >= GATE_SIZE * (PAGE_FAULT_VECTOR + 1) - 1
    return room and len(gate) == GATE_SIZE and unpack_gate(gate).usable
