"""The kernel stacks of a running guest, unwound through its ORC tables or frame pointers."""

from __future__ import annotations

from tracer.access.space import AddressSpace, Glance
from tracer.access.stack import Frame, Stack
from tracer.access.symbols import KERNEL_HALF
from tracer.linux import frame_pointer, orc
from tracer.linux.names import Names
from tracer.linux.wrapper import NO_BACKS, Backs
from tracer.x86.state import PAGE_SIZE, RBP, CpuState, Mode

_TABLE = ("__start_orc_unwind_ip", "__stop_orc_unwind_ip", "__start_orc_unwind")
_C_FUNCTIONS = ("schedule", "ksys_read", "do_exit", "vprintk")  # in every kernel, never inlined
_CACHED = 1 << 16


class Stacks:
    """Unwind one guest's kernel code, through its ORC tables or else by its frame pointers.

    ``no_tables`` says in words why it is not the tables, or is None. The kernel sorts its table
    when it is built, and a module's when it is loaded. ``backs`` are return addresses in guest code
    around functions, which may be planted later.
    """

    def __init__(self, names: Names, backs: Backs = NO_BACKS) -> None:
        self._names = names
        self._backs = backs
        self._entries: dict[tuple[int, bool], orc.Entry | None] = {}
        self._changes = 0  # of the modules, when the entries were found
        types = names.types()
        self._layout = None if types is None else orc.layout_of(types)
        self._kernel = self._kernel_table()
        self._framed: bool | None = None
        self.no_tables: str | None = None
        if types is None:
            self.no_tables = "the kernel has no BTF types (CONFIG_DEBUG_INFO_BTF)"
        elif self._layout is None or self._kernel is None:
            self.no_tables = "the kernel has no ORC tables (CONFIG_UNWINDER_ORC)"

    def missing(self, space: AddressSpace) -> str | None:
        """Say in words why nothing can be unwound, or return None."""
        if self.no_tables is None or self._keeps_frames(space):
            return None
        return f"{self.no_tables}, and it keeps no frame pointers"

    def unwind(self, cpu: CpuState, space: AddressSpace, stack: orc.Read | None = None) -> Stack:
        """Return the functions under way in the code that stopped in this state.

        ``stack`` reads its stack in place of the guest's own memory. Of code outside the kernel,
        and of a kernel that has neither tables nor frame pointers, only the function itself is
        known.
        """
        if cpu.cpl or cpu.mode is not Mode.LONG or cpu.rip < KERNEL_HALF:
            return Stack((Frame(cpu.rip, True),), "code outside the kernel is not unwound")
        changes = self._names.follow(space)
        if changes != self._changes:
            self._changes = changes
            self._entries.clear()
        pages: dict[int, bytes] = {}
        glance = space.glance()

        def read_live(linear: int, size: int) -> bytes:
            # A stack is read quadword by quadword; its pages are looked up once.
            start = linear & -PAGE_SIZE
            page = pages.get(start)
            if page is None:
                page = pages[start] = glance.read(start, PAGE_SIZE)
            data = page[linear - start : linear - start + size]
            return data if len(data) == size else _read(glance, linear, size)

        read = stack or read_live
        missing = self.missing(space)
        if missing is not None:
            return Stack((Frame(cpu.rip, True),), missing)
        if self.no_tables is not None:
            return frame_pointer.unwind(
                cpu.rip,
                cpu.gpr[RBP],
                lambda at: self._names.lookup(at, space, late=stack is not None) is not None,
                read,
                self._backs,
            )
        late = stack is not None
        return orc.unwind(
            cpu.rip,
            cpu.gpr,
            lambda place: self._find(place, space, glance, late=late),
            read,
            self._backs,
        )

    def _keeps_frames(self, space: AddressSpace) -> bool:
        # Every C function of such a kernel begins alike. Not settled while none is in RAM.
        if self._framed is None:
            places = map(self._names.kernel.address_of, _C_FUNCTIONS)
            codes = [space.read(place, 16) for place in places if place is not None]
            if any(codes):
                self._framed = any(map(frame_pointer.has_frame, codes))
        return bool(self._framed)

    def _find(
        self, place: int, space: AddressSpace, glance: Glance, *, late: bool
    ) -> orc.Entry | None:
        if (place, late) in self._entries:
            return self._entries[place, late]
        entry = None
        table = self._table(place, space, late=late)
        if table is not None and self._layout is not None:
            entry = orc.find_entry(
                table, self._layout, place, lambda linear, size: _read(glance, linear, size)
            )
        if len(self._entries) >= _CACHED:
            self._entries.clear()
        self._entries[place, late] = entry
        return entry

    def _table(self, place: int, space: AddressSpace, *, late: bool) -> orc.Table | None:
        if self._names.kernel.find(place) is not None:
            return self._kernel
        module = self._names.module_at(place, space, late=late)
        return None if module is None else module.orc

    def _kernel_table(self) -> orc.Table | None:
        places = [self._names.kernel.address_of(name) for name in _TABLE]
        start, stop, entries = places
        if start is None or stop is None or entries is None:
            return None
        return orc.Table(start, entries, (stop - start) // 4)


def _read(glance: Glance, linear: int, size: int) -> bytes:
    data = glance.read(linear, size)
    if len(data) != size:
        raise LookupError(f"linear {linear:#x} is not mapped to RAM")
    return data
