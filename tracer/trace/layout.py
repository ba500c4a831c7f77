"""The columns of an access line, and how wide they are; numbers as they stand in them."""

from __future__ import annotations

from dataclasses import dataclass

from tracer.x86.bus import Direction


@dataclass(frozen=True, slots=True)
class Layout:
    """Give the columns of an access line; widths are in characters.

    ``symbol``, ``text``, ``place`` and ``register`` are padded to their widths, and cut to them
    when ``cut`` is set; a value then loses its leading zeros where ``value`` is too narrow for
    them. The others have room for what they hold. A column of width 0 is left out. ``columns`` is
    the width of a whole line, None for as wide as need be. Where ``merges`` is set, the register
    that has a name stands behind its region, in place of the offset.
    """

    symbol: int
    text: int
    place: int
    register: int
    value: int
    vcpu: bool
    cut: bool
    colour: bool = False
    columns: int | None = None
    merges: bool = False


FILE_COLUMNS = 240
"""The columns of tables in a file or a pipe: enough that none is ever folded."""

_TIME, _VCPU, _DIRECTION, _GAP = 10, 5, 3, 2


_VALUE32, _VALUE64 = 10, 18


# Per cent of what is left for call site, instruction, place and register.
_SHARES, _NARROW = (27, 28, 23, 22), (36, 0, 32, 32)
_MERGED, _NARROWEST = (30, 0, 70, 0), (0, 0, 100, 0)


def layout(columns: int | None, colour: bool = False) -> Layout:
    """Return the layout for a terminal ``columns`` wide, or for a file when that is None.

    A file's lines are padded alike and never cut, so that nothing is lost to ``grep``. A narrow
    terminal has no room for the vCPU, then for the instruction, then for offsets of registers that
    have a name, and then for the call site.
    """
    if columns is None:
        return Layout(
            symbol=30, text=38, place=26, register=22, value=_VALUE64, vcpu=True, cut=False,
            colour=colour,
        )  # fmt: skip
    vcpu = columns >= 120
    value = _VALUE64 if columns >= 140 else _VALUE32
    fixed = [_TIME, _DIRECTION, value, *([_VCPU] if vcpu else [])]
    wide = ((100, _SHARES), (72, _NARROW), (66, _MERGED), (0, _NARROWEST))
    shares = next(shares for least, shares in wide if columns >= least)
    merges = shares[3] == 0
    gaps = _GAP * (len(fixed) + len([share for share in shares if share]) - 1)
    room = max(columns - sum(fixed) - gaps, 8)
    symbol, text, place, _ = (room * share // 100 for share in shares)
    register = 0 if merges else room - symbol - text - place
    return Layout(
        symbol=min(symbol, 40), text=min(text, 48), place=place if merges else min(place, 32),
        register=min(register, 28), value=value, vcpu=vcpu, cut=True, colour=colour,
        columns=columns, merges=merges,
    )  # fmt: skip


UNCUT = layout(None)
"""The layout for files and pipes."""


def short(direction: Direction, width: int) -> str:
    """Return an access's direction and width as a line has them: ``R4``, ``W?``, ``??``."""
    return f"{_LETTERS[direction]}{width or '?'}"


_LETTERS: dict[Direction, str] = {"read": "R", "write": "W", "unknown": "?"}


def padded(value: int | None, width: int) -> str:
    """Return a value of ``width`` bytes with all its digits, or ``?`` when it is not known."""
    return "?" if value is None else f"{value:#0{2 + 2 * width}x}"
