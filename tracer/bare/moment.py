"""The moment at which tracing of a bare guest begins, as a person names it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tracer.access.symbols import SymbolTable
from tracer.errors import UsageError, advice
from tracer.text.number import duration, is_whole, whole

_RETURN = "return:"
_SYMBOL = re.compile(r"[A-Za-z_.$@?][\w.$@?:~<>]*")
_LIKE = "main, 0x101000, return:setup_vm and 1.5s are"


@dataclass(frozen=True, slots=True)
class Moment:
    """Say when: at a ``symbol`` or a ``linear`` address, or after ``time_ns`` of the guest's time.

    With ``behind`` it is where the function there has returned to. ``text`` is what was typed.
    """

    text: str
    symbol: str | None = None
    linear: int | None = None
    time_ns: int | None = None
    behind: bool = False

    def place(self, symbols: SymbolTable, image: str) -> int | None:
        """Return the linear address that is meant, None where it is a time.

        ``image`` is the file's name, for people. Raises UsageError for a symbol that is not there.
        """
        if self.symbol is None:
            return self.linear
        return address_of(self.symbol, symbols, image)


def parse_moment(text: str) -> Moment:
    """Return the moment in ``SYMBOL``, ``ADDRESS``, ``return:`` of either, or ``1.5s``.

    Raises UsageError.
    """
    behind = text.startswith(_RETURN)
    name = text.removeprefix(_RETURN)
    if is_whole(name):
        return Moment(text, linear=whole(name, "linear address", bits=64), behind=behind)
    time_ns = None if behind else duration(name)
    if time_ns is not None:
        return Moment(text, time_ns=time_ns)
    if _SYMBOL.fullmatch(name) is None:
        raise UsageError(f"--attach-at {text}: that is no place and no time in a guest: {_LIKE}")
    return Moment(text, symbol=name, behind=behind)


def address_of(name: str, symbols: SymbolTable, image: str) -> int:
    """Return the linear address of a symbol. Raises UsageError where there is none."""
    linear = symbols.address_of(name)
    if linear is not None:
        return linear
    if not len(symbols):
        raise UsageError(
            f"{image} has no symbols, and so no {name}: give the file that has them (--symbols), "
            "or an address"
        )
    raise UsageError(f"{image} has no symbol {name!r}{advice(name, list(symbols.by_name))}")
