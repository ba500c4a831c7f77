"""The kernel stacks of a running guest, unwound through ORC tables in its memory."""

from __future__ import annotations

from tracer import orc
from tracer.guest.names import Names
from tracer.intercept import AddressSpace
from tracer.x86 import PAGE_SIZE, CpuState

_TABLE = ("__start_orc_unwind_ip", "__stop_orc_unwind_ip", "__start_orc_unwind")
_CACHED = 1 << 16


class Stacks:
    """Unwind one guest's kernel code. ``missing`` says in words why that cannot be done, or None.

    The kernel sorts its table when it is built, and a module's when it is loaded.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._entries: dict[int, orc.Entry | None] = {}
        types = names.types()
        self._layout = None if types is None else orc.layout_of(types)
        self._kernel = self._kernel_table()
        self.missing: str | None = None
        if types is None:
            self.missing = "the kernel has no BTF types (CONFIG_DEBUG_INFO_BTF)"
        elif self._layout is None or self._kernel is None:
            self.missing = "the kernel has no ORC tables (CONFIG_UNWINDER_ORC)"

    def unwind(self, cpu: CpuState, space: AddressSpace) -> orc.Stack:
        """Return the functions under way in kernel code that stopped in this state."""
        pages: dict[int, bytes] = {}

        def read(linear: int, size: int) -> bytes:
            # A stack is read quadword by quadword; its pages are looked up once.
            start = linear & -PAGE_SIZE
            page = pages.get(start)
            if page is None:
                page = pages[start] = space.read(start, PAGE_SIZE)
            data = page[linear - start : linear - start + size]
            return data if len(data) == size else _read(space, linear, size)

        return orc.unwind(cpu.rip, cpu.gpr, lambda place: self._find(place, space), read)

    def _find(self, place: int, space: AddressSpace) -> orc.Entry | None:
        if place in self._entries:
            return self._entries[place]
        entry = None
        table = self._table(place, space)
        if table is not None and self._layout is not None:
            entry = orc.find_entry(
                table, self._layout, place, lambda linear, size: _read(space, linear, size)
            )
        if len(self._entries) >= _CACHED:
            self._entries.clear()
        self._entries[place] = entry
        return entry

    def _table(self, place: int, space: AddressSpace) -> orc.Table | None:
        if self._names.kernel.find(place) is not None:
            return self._kernel
        module = self._names.module_at(place, space)
        return None if module is None else module.orc

    def _kernel_table(self) -> orc.Table | None:
        places = [self._names.kernel.address_of(name) for name in _TABLE]
        start, stop, entries = places
        if start is None or stop is None or entries is None:
            return None
        return orc.Table(start, entries, (stop - start) // 4)


def _read(space: AddressSpace, linear: int, size: int) -> bytes:
    data = space.read(linear, size)
    if len(data) != size:
        raise LookupError(f"linear {linear:#x} is not mapped to RAM")
    return data
