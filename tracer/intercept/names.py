"""The names of the guest's code, whoever knows them."""

from __future__ import annotations

from typing import Protocol

from tracer.access.space import AddressSpace
from tracer.access.symbols import SymbolTable


class Names(Protocol):
    """Resolve linear addresses of the running guest's code."""

    @property
    def symbols(self) -> SymbolTable:
        """Return the symbols of the image, where it is now."""
        ...

    def functions(self, space: AddressSpace | None = None) -> frozenset[str]:
        """Return the names of the functions there are, of loaded modules too."""
        ...

    def modules(self, space: AddressSpace | None = None) -> list[str]:
        """Return the names of the modules that are loaded."""
        ...

    def modules_on_disk(self) -> frozenset[str]:
        """Return the names of the modules that the guest's software has, loaded or not."""
        ...

    def lookup(self, linear: int, space: AddressSpace) -> str | None:
        """Return ``name+0x1f`` for a linear address, or None when nothing there has a name."""
        ...

    def text(self) -> list[range]:
        """Return the linear addresses of the guest's code."""
        ...

    def function_at(self, linear: int) -> int | None:
        """Return where the function around a linear address begins, or None."""
        ...
