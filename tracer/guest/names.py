"""Names for the running guest's code addresses: the kernel's own symbols and its modules'."""

from __future__ import annotations

import logging

from tracer.btf import Btf
from tracer.errors import KernelImageError
from tracer.guest.kernel import Kernel
from tracer.guest.modules import Module, loaded_modules
from tracer.intercept import AddressSpace
from tracer.symbols import KERNEL_HALF, SymbolTable, resolve

log = logging.getLogger(__name__)

_CACHED = 1 << 16


class Names:
    """Resolve linear addresses of one running guest.

    The guest's list of modules is read when an address outside the kernel turns up that no module
    known so far covers.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel: SymbolTable = kernel.symbols
        self._types: Btf | None = None
        self._image = kernel
        self._modules: list[Module] = []
        self._known: dict[int, str | None] = {}

    def move(self, offset: int) -> None:
        """Learn that KASLR moved the kernel by ``offset`` bytes."""
        self.kernel = self.kernel.moved(offset)
        self._known.clear()

    def lookup(self, linear: int, space: AddressSpace) -> str | None:
        """Return ``name+0x1f`` for a linear address, or None when nothing there has a name."""
        if linear in self._known:
            return self._known[linear]
        name = self.kernel.lookup(linear)
        if name is None and linear >= KERNEL_HALF:
            name = self._in_module(linear, space)
        if len(self._known) >= _CACHED:
            self._known.clear()
        self._known[linear] = name
        return name

    def types(self) -> Btf | None:
        """Return the kernel's types, or None when it was built without."""
        self._types = self._types or self._image.types()
        return self._types

    def module_at(self, linear: int, space: AddressSpace) -> Module | None:
        """Return the loaded module that a linear address lies in, or None."""
        for fresh in (False, True):
            if fresh:
                self._modules = self._read_modules(space)
            for module in self._modules:
                if any(linear in part for part in module.ranges):
                    return module
        return None

    def _in_module(self, linear: int, space: AddressSpace) -> str | None:
        name = self._search(linear)
        if name is None:
            self._modules = self._read_modules(space)
            name = self._search(linear)
        return name

    def _search(self, linear: int) -> str | None:
        for module in self._modules:
            name = resolve(module.symbols, linear)
            if name is not None:
                return name
        return None

    def _read_modules(self, space: AddressSpace) -> list[Module]:
        head = self.kernel.address_of("modules")
        types = self.types()
        if head is None or types is None:
            return []

        def read(linear: int, size: int) -> bytes:
            data = space.read(linear, size)
            if len(data) != size:
                raise LookupError(f"linear {linear:#x} is not mapped to RAM")
            return data

        try:
            return loaded_modules(read, types, head)
        except (LookupError, KernelImageError) as error:
            log.debug("no module symbols: %s", error)
            return []
