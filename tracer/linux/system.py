"""Linux as the guest's software: the kernel of an image, traced from its first own function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tracer.access.region import RegionMap
from tracer.access.space import AddressSpace
from tracer.compiled.diary import Current
from tracer.confidential.kind import C_BIT, Kind
from tracer.errors import GuestError, NoEntries
from tracer.intercept.ground import Ground
from tracer.intercept.journal import Journal
from tracer.intercept.ring.window import REACH, NoWindow, Taken, Window
from tracer.intercept.system import Learnt
from tracer.intercept.trap import Breakpoint, Untraced, without_room
from tracer.intercept.view import GuestView
from tracer.linux import mapping
from tracer.linux.callers import Callers
from tracer.linux.configuration import Configuration
from tracer.linux.errands import Errands
from tracer.linux.freed_code import FreedCode
from tracer.linux.hooks import MappingHooks
from tracer.linux.kernel import Kernel
from tracer.linux.lent_ram import MOST, Loan, borrow, give_back
from tracer.linux.names import Names
from tracer.linux.origin import Origin, homes, own_tables
from tracer.linux.readers import hide_poison
from tracer.linux.user import UserMappings
from tracer.linux.vendor import Vendor
from tracer.linux.window import hole, open_borrowed, open_window, root_of, take_room
from tracer.linux.wrapper import Back, whole_pages
from tracer.linux.wrappers import Wrappers
from tracer.trace.record import Mark, StackRecord
from tracer.x86.paging import Leaf, PhysicalMemory


class Linux:
    """Know one Linux guest: a :class:`tracer.intercept.system.System`.

    ``kernel`` is None where it is met later only. ``origin`` tells where the guest comes from;
    ``kind`` is what it takes itself for. A kernel that runs ``lends`` RAM that vetrace can read
    while it goes on.
    """

    spare = mapping.SPARE_LINEAR
    patience: float | None = None
    awaited = ""
    stack_in_device = False
    lends = True
    free: Sequence[range] | None = None
    look_every: float | None = None

    def __init__(self, kernel: Kernel | None, origin: Origin, kind: Kind = Kind.PLAIN) -> None:
        self._kernel = kernel
        self.kind = kind
        self.names = Names(kernel)
        self._origin = origin
        self.command_line = ""
        self._hooks: MappingHooks | None = None
        self._loan: Loan | None = None
        self._wrappers: Wrappers | None = None
        self._backs: dict[int, Back] = {}
        self._errands = Errands(self.names)
        self._configuration = Configuration()
        self._users: UserMappings | None = None
        self._vendor: Vendor | None = None

    @property
    def kernel(self) -> Kernel:
        """Return the kernel. Raises GuestError where it has not been met."""
        if self._kernel is None:
            raise GuestError("the guest's kernel has not been entered yet")
        return self._kernel

    def meet(self, kernel: Kernel) -> None:
        """Learn which kernel it is; nothing has been asked of it yet."""
        self._kernel = kernel
        self.names.meet(kernel)

    @property
    def title(self) -> str:
        """Return what it is, for people."""
        return f"Linux {self.kernel.release}"

    @property
    def release(self) -> str:
        """Return the kernel's release."""
        return self.kernel.release

    @property
    def sha256(self) -> str:
        """Return the hash of the image."""
        return self.kernel.sha256

    async def reach_entry(self, memory: PhysicalMemory) -> None:
        """Run to where tracing can begin, wherever KASLR moved the kernel."""
        moved = await self._origin.reach(self.kernel, memory)
        self.names.move(moved.linear)

    @property
    def begun(self) -> bool:
        """Tell whether it ran before it was traced."""
        return self._origin.begun

    @property
    def homes(self) -> Sequence[int]:
        """Return where the kernel has just been entered."""
        return homes(self.names.kernel)

    def own_tables(self, space: AddressSpace) -> AddressSpace:
        """Return the kernel's own page tables, which a program's lack under PTI."""
        return own_tables(space, self.homes[0]) if self.homes else space

    def ready(self) -> int | None:
        """Return the address of the function that an ordinary guest is entered at."""
        return self.names.kernel.address_of(mapping.ENTRY)

    @property
    def lends_at_most(self) -> int | None:
        """Return what a kernel that runs already lends at most."""
        return MOST if self.begun else None

    async def window(self, memory: PhysicalMemory, space: AddressSpace, size: int) -> Window:
        """Take RAM from the kernel's memory map, or borrow some of it. Raises NoWindow."""
        if self.begun:
            return await self._borrowed(memory, space, size)
        second = 1 << C_BIT if self.kind is Kind.SEV_ES else 0
        return open_window(memory, space, self.names.kernel, size, second)

    def take(self, memory: PhysicalMemory, space: AddressSpace, size: int) -> Taken:
        """Take RAM from the kernel's memory map. Raises NoWindow."""
        symbols = self.names.kernel
        physical = take_room(memory, space, symbols, size, REACH)
        return Taken(physical, root_of(space, symbols))

    async def _borrowed(self, memory: PhysicalMemory, space: AddressSpace, size: int) -> Window:
        if not self.lends:
            raise NoWindow("RAM that is reached by packets cannot be read while the guest goes on")
        if "PREEMPT_RT" in self.kernel.facts.banner:
            raise NoWindow("a kernel for real time lends no RAM where interrupts are off")
        symbols = self.names.kernel
        table = hole(memory, space, symbols)
        loan = await borrow(symbols, size, space)
        self._loan = loan
        try:
            return open_borrowed(memory, space, table, loan.physical)
        except NoWindow:
            await self.give_back()
            raise

    async def give_back(self) -> None:
        """Give borrowed RAM back to the kernel."""
        loan, self._loan = self._loan, None
        if loan is not None:
            await give_back(self.names.kernel, loan)

    def stub_place(self) -> int | None:
        """Return where the padding behind the kernel's entry code begins."""
        return self.names.kernel.address_of(mapping.STUB_PLACE)

    async def watch(
        self, ground: Ground, space: AddressSpace, *, late: bool
    ) -> Sequence[Breakpoint]:
        """Set breakpoints on the functions that make mappings, and free code. Raises GuestError."""
        if self.kind is not Kind.PLAIN:
            self._vendor = Vendor(self.names.symbols, space)
        hides = hide_poison(space, self.names, begun=self.begun)
        scratch = ground.gate.scratch
        users = UserMappings(self.names, ground.view, ground.journal, hides=hides, scratch=scratch)
        hooks = MappingHooks(ground, users)
        ram = whole_pages(ground.memory.ranges)
        wrappers = Wrappers(self.names.kernel, space, self._backs, begun=self.begun)
        missing = await hooks.install(self.names.kernel, wrappers, ram)
        if missing:
            raise NoEntries(
                f"{self.kernel.path} has no symbol {', '.join(missing)}: mappings would be missed; "
                "give better symbols with --symbols"
            )
        self._hooks, self._users, self._wrappers = hooks, users, wrappers
        if not late:
            return hooks, users
        freed = FreedCode(ground.journal.counts)
        await freed.install(self.names.kernel, wrappers, ground.gate)
        return hooks, users, freed

    async def follow_errands(self, block: int | None, *, smp: bool) -> None:
        """Put code around the functions that send a thread on an errand.

        A kernel that runs has threads on errands of which nothing was told.
        """
        if self._wrappers is not None and not self.begun:
            await self._errands.plant(self._wrappers, block, smp=smp)

    async def tell_errands(self, space: AddressSpace) -> int:
        """Put code around these functions that leaves for a monitor; return where it leaves."""
        if self.begun:
            return 0
        self._wrappers = Wrappers(self.names.kernel, space, self._backs)
        return await self._errands.plant_leaving(self._wrappers)

    async def expect(
        self, view: GuestView, journal: Journal, learn: Callable[[Learnt], None], *, tells: bool
    ) -> Sequence[Breakpoint]:
        """Set no traps: the kernel is known."""
        return ()

    async def follow_moves(self, block: int) -> None:
        """Put code around the function that moves devices."""
        if self._wrappers is not None:
            await self._configuration.plant(self.names.kernel, self._wrappers, block)

    @property
    def secondary(self) -> int | None:
        """Return the address at which a further CPU can be traced, in code of the kernel's own."""
        name = mapping.SECONDARY_ENTRY
        if self.kind is Kind.SEV_ES:
            name = mapping.SEV_SECONDARY_ENTRY
        return self.names.kernel.address_of(name)

    @property
    def current(self) -> Current | None:
        """Return where code finds its thread, if threads tell the diary of all their errands."""
        return self._errands.current

    @property
    def telling(self) -> Sequence[range]:
        """Return the linear addresses of the code that writes to the block."""
        return self._errands.telling, self._configuration.telling

    def callers(self, publish: Callable[[Mark | StackRecord], None], *, stacks: bool) -> Callers:
        """Return what unwinds the kernel's stacks."""
        return Callers(self.names, publish, stacks=stacks, backs=self._backs)

    def unseen(self, regions: RegionMap) -> Iterator[str]:
        """Yield what is not traced for lack of a symbol."""
        flash = any(
            region.shows_memory and regions.is_traced_region(region) for region in regions.regions
        )
        if flash and self.names.kernel.address_of(mapping.FIRMWARE) is None:
            yield (
                f"{self.kernel.path} has no symbol {mapping.FIRMWARE}: what UEFI firmware writes "
                "to its flash while the kernel runs is not traced"
            )

    def leaves(self, space: AddressSpace) -> Iterator[Leaf]:
        """Yield the leaves of programs and of firmware."""
        if self._users is not None and self._hooks is not None:
            yield from self._users.leaves(space)
            yield from self._hooks.leaves(space)

    async def look(self) -> None:
        """Do nothing: all functions that map are known."""

    async def mapped_by_programs(self, space: AddressSpace) -> None:
        """Follow what the kernel does with the mappings of programs."""
        if self._users is not None:
            await self._users.watch(space)

    def without_idt(self, where: str) -> Untraced:
        """Say that another kernel is started, or that nobody knows what is."""
        if any(where.startswith(f"{name}+") for name in mapping.SWITCHES_KERNELS):
            return Untraced(
                "not traced: the kernel that this one starts (kexec), from here on", other=True
            )
        return without_room(where)

    def taken_back(self) -> str | None:
        """Say that the kernel takes itself for an ordinary guest, after all."""
        if self._vendor is None or not self._vendor.taken_back():
            return None
        return (
            f"the kernel no longer takes itself for a {self.kind.label} guest: the vendor of its "
            "CPU is another one's"
        )

    async def remove(self, space: AddressSpace) -> None:
        """Settle what is under way, and take the wrappers off the kernel's functions."""
        if self._users is not None:
            self._users.settle(space)
        if self._wrappers is not None:
            await self._wrappers.remove(space)
