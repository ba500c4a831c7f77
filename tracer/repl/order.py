"""Orders of a break: commands that are carried out where it stops, as `commands` takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SILENT = "silent"
"""The first order of a break whose stop is not told."""

END = "end"
"""What closes a list of orders."""


@dataclass(slots=True)
class Taking:
    """Hold the orders of breaks as they are typed, up to `end`."""

    numbers: tuple[int, ...]
    lines: list[str] = field(default_factory=list)


def due(
    why: str, met: Sequence[int], orders: Mapping[int, tuple[str, ...]]
) -> tuple[tuple[str, ...], ...]:
    """Return what is ordered where a guest stands, by break: ``why`` it does, which were ``met``.

    A guest that was stopped by something else has the breaks of an earlier stop still.
    """
    if not why.startswith("break "):
        return ()
    return tuple(orders[number] for number in met if number in orders)


def is_silent(orders: Sequence[Sequence[str]]) -> bool:
    """Tell whether a stop is not told, as one of its breaks wants."""
    return any(each and each[0] == SILENT for each in orders)


def steps(orders: Sequence[str]) -> Sequence[str]:
    """Return what is to be carried out."""
    return orders[1:] if orders and orders[0] == SILENT else orders


def order_lines(orders: Sequence[str]) -> Sequence[str]:
    """Return orders as they can be typed again, behind the break that they are of."""
    return ("commands", *orders, END) if orders else ()
