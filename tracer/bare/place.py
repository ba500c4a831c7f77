"""A place in a bare guest's code or memory, as a person names it: a symbol, or an address."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tracer.access.symbols import SymbolTable
from tracer.errors import UsageError, advice
from tracer.text.number import is_whole, whole

_SYMBOL = re.compile(r"[A-Za-z_.$@?][\w.$@?:~<>]*")


@dataclass(frozen=True, slots=True)
class Place:
    """Name a ``symbol`` or a ``linear`` address."""

    symbol: str | None = None
    linear: int | None = None

    def of(self, symbols: SymbolTable, image: str) -> int:
        """Return the linear address; ``image`` is the file's name, for people.

        Raises UsageError for a symbol that is not there.
        """
        if self.linear is not None:
            return self.linear
        assert self.symbol is not None  # it is one or the other
        linear = symbols.address_of(self.symbol)
        if linear is not None:
            return linear
        if not len(symbols):
            raise UsageError(
                f"{image} has no symbols, and so no {self.symbol}: give the file that has them "
                "(--symbols), or an address"
            )
        known = list(symbols.by_name)
        raise UsageError(f"{image} has no symbol {self.symbol!r}{advice(self.symbol, known)}")


def parse_place(text: str, what: str, like: str) -> Place:
    """Return the place in a text; ``what`` it should be and what is ``like`` one are for people.

    Raises UsageError.
    """
    if is_whole(text):
        return Place(linear=whole(text, "linear address", bits=64))
    if _SYMBOL.fullmatch(text) is None:
        raise UsageError(f"{what}: {like}")
    return Place(text)
