"""Names for the running guest's code addresses: the kernel's own symbols and its modules'."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import cached_property

from tracer.access import symbols
from tracer.access.space import AddressSpace
from tracer.access.symbols import KERNEL_HALF, SymbolTable, function_names, resolve
from tracer.errors import KernelImageError
from tracer.linux import mapping
from tracer.linux.btf import Btf
from tracer.linux.kernel import Kernel
from tracer.linux.module_folder import read_folder
from tracer.linux.modules import (
    Module,
    ModuleLayout,
    ModuleMark,
    Read,
    loaded_modules,
    module_layout,
    newest,
)

log = logging.getLogger(__name__)

_CACHED = 1 << 16
_FORMER = 64
"""Modules that are remembered as they were before they changed."""
_BUDGET = 256 << 20
"""Bytes read for one look at all modules: those of a distribution's kernel need a few MiB."""


class Names:
    """Resolve linear addresses of one running guest.

    The guest's list of modules is followed: where a module's init code was, another module may be
    a moment later. A ``space`` is that of one stop: the guest has not run since it was made.
    """

    def __init__(self, kernel: Kernel | None = None) -> None:
        self.kernel: SymbolTable = symbols.table_of(()) if kernel is None else kernel.symbols
        self._image = kernel
        self._types: Btf | None = None
        self._modules: list[Module] = []
        self._former: list[Module] = []
        self._newest: ModuleMark | None = None
        self._changes = 0
        self._followed: AddressSpace | None = None
        self._in_kernel: dict[int, str | None] = {}
        self._in_modules: dict[int, str | None] = {}
        self._late: dict[int, str | None] = {}

    @property
    def symbols(self) -> SymbolTable:
        """Return the kernel's own symbols, where KASLR has moved them."""
        return self.kernel

    def meet(self, kernel: Kernel) -> None:
        """Learn what kernel it is, where that has not been known."""
        self.kernel, self._image = kernel.symbols, kernel
        self._in_kernel.clear()
        self._in_modules.clear()
        self._late.clear()
        for known in ("_layout", "_kernel_functions", "_on_disk"):
            self.__dict__.pop(known, None)

    def move(self, offset: int) -> None:
        """Learn that KASLR moved the kernel by ``offset`` bytes."""
        self.kernel = self.kernel.moved(offset)
        self._in_kernel.clear()

    def text(self) -> list[range]:
        """Return the linear addresses of the kernel's code, or of all of it if that is not told."""
        found = [
            range(first, last)
            for first, last in (map(self.kernel.address_of, names) for names in mapping.TEXT)
            if first is not None and last is not None
        ]
        if found or self._image is None:
            return found
        facts, moved = self._image.facts, self.kernel.offset
        return [range(facts.link_start + moved, facts.link_end + moved)]

    def function_at(self, linear: int) -> int | None:
        """Return where the kernel's function around a linear address begins, or None."""
        found = self.kernel.find(linear)
        return None if found is None else linear - found[1]

    def lookup(self, linear: int, space: AddressSpace, *, late: bool = False) -> str | None:
        """Return ``name+0x1f`` for a linear address, or None when nothing there has a name.

        With ``late`` it is asked what was there a moment ago: a module that is gone names it, too.
        """
        name = _cached(self._in_kernel, linear, self.kernel.lookup)
        if name is not None or linear < KERNEL_HALF:
            return name
        self.follow(space)
        known = self._late if late else self._in_modules
        return _cached(known, linear, lambda at: self._name(at, space, late=late))

    def functions(self, space: AddressSpace | None = None) -> frozenset[str]:
        """Return the names of the functions of the kernel, and of the modules there are.

        Without a ``space`` these are the modules that were there at the last stop.
        """
        if space is not None:
            self.follow(space)
        tables = [table for module in self._modules for table in module.symbols]
        return self._kernel_functions.union(*map(function_names, tables))

    def modules(self, space: AddressSpace | None = None) -> list[str]:
        """Return the names of the modules that are loaded, likewise."""
        if space is not None:
            self.follow(space)
        return [module.name for module in self._modules]

    def modules_on_disk(self) -> frozenset[str]:
        """Return the names of the modules that lie beside the kernel, loaded or not."""
        return self._on_disk

    @cached_property
    def _on_disk(self) -> frozenset[str]:
        try:
            folder = None if self._image is None else self._image.modules
            return frozenset(read_folder(folder).files)
        except OSError as error:
            log.warning("the names of the kernel's modules are missing: %s", error)
            return frozenset()

    @cached_property
    def _kernel_functions(self) -> frozenset[str]:
        return function_names(self.kernel)

    def types(self) -> Btf | None:
        """Return the kernel's types, or None when it was built without."""
        if self._types is None and self._image is not None:
            self._types = self._image.types()
        return self._types

    def module_at(self, linear: int, space: AddressSpace, *, late: bool = False) -> Module | None:
        """Return the loaded module that a linear address lies in, or None; as in :meth:`lookup`."""
        self.follow(space)
        module = _covering(self._modules, linear)
        if module is None and self._reread(space):
            module = _covering(self._modules, linear)
        return module or (_covering(self._former, linear) if late else None)

    def follow(self, space: AddressSpace) -> int:
        """Take note of modules loaded or removed since the last stop.

        Returns how often the list was found changed: what was known of addresses in modules holds
        while that stays the same.
        """
        layout, head = self._layout, self.kernel.address_of("modules")
        if space is not self._followed and layout is not None and head is not None:
            self._followed = space
            try:
                mark = newest(_reader(space), layout, head)
            except LookupError:
                return self._changes  # user space's page tables under PTI
            if mark != self._newest:
                self._newest = mark
                self._reread(space)
        return self._changes

    def _name(self, linear: int, space: AddressSpace, *, late: bool) -> str | None:
        module = self.module_at(linear, space, late=late)
        name = None if module is None else resolve(module.symbols, linear)
        if name is not None or not late:
            return name
        # A module drops the symbols of its init code before the code.
        names = (resolve(former.symbols, linear) for former in self._former)
        return next((name for name in names if name is not None), None)

    def _reread(self, space: AddressSpace) -> bool:
        # Tells whether the modules are others than before.
        layout, head = self._layout, self.kernel.address_of("modules")
        if layout is None or head is None:
            return False
        try:
            modules = loaded_modules(_reader(space), layout, head, self._modules)
        except LookupError as error:
            log.debug("no module symbols: %s", error)
            return False
        if [module.mark for module in modules] == [module.mark for module in self._modules]:
            return False
        # Init code that is gone by now may have been run by what is told late.
        gone = [module for module in self._modules if module not in modules]
        self._former = [*gone, *self._former][:_FORMER]
        self._modules = modules
        self._in_modules.clear()
        self._late.clear()
        self._changes += 1
        return True

    @cached_property
    def _layout(self) -> ModuleLayout | None:
        types = self.types()
        try:
            return None if types is None else module_layout(types)
        except KernelImageError as error:
            log.debug("no module symbols: %s", error)
            return None


def _covering(modules: Iterable[Module], linear: int) -> Module | None:
    for module in modules:
        if any(linear in part for part in module.ranges):
            return module
    return None


def _cached(
    known: dict[int, str | None], linear: int, find: Callable[[int], str | None]
) -> str | None:
    if linear not in known:
        name = find(linear)  # which may empty what is known
        if len(known) >= _CACHED:
            known.clear()
        known[linear] = name
    return known[linear]


class _BudgetSpent(LookupError):
    pass


def _reader(space: AddressSpace) -> Read:
    left = _BUDGET

    def read(linear: int, size: int) -> bytes:
        nonlocal left
        if size > left:
            if left >= 0:
                log.warning("names are missing: modules say they have over %d bytes", _BUDGET)
            left = -1
            raise _BudgetSpent
        left -= size
        data = space.read(linear, size)
        if len(data) != size:
            raise LookupError(f"linear {linear:#x} is not mapped to RAM")
        return data

    return read
