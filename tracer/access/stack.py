"""The functions under way where a vCPU stands, innermost first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Frame:
    """Hold one function under way: the linear address at which it goes on.

    ``interrupted`` tells that it was about to execute the instruction there; otherwise it made a
    call, which ends there. ``errand`` is the linear address of the function that it was called
    for, where that is known.
    """

    rip: int
    interrupted: bool
    errand: int | None = None

    @property
    def place(self) -> int:
        """Return a linear address that is within the function, even if the call is its end."""
        return self.rip if self.interrupted else self.rip - 1


@dataclass(frozen=True, slots=True)
class Stack:
    """Hold frames, innermost first; ``lost`` says in words why the outermost are missing."""

    frames: tuple[Frame, ...]
    lost: str | None = None


Lookup = Callable[[int], str | None]
"""Return ``name+0x1f`` for a linear address, ``name+0x1f [module]`` in a module, or None."""


def frame_symbol(frame: Frame, lookup: Lookup) -> str | None:
    """Return the name of where a frame goes on.

    A call is looked up within itself, as it may be its function's end, and told by where it ends,
    as the kernel prints it.
    """
    symbol = lookup(frame.place)
    if symbol is None or frame.interrupted:
        return symbol
    name, _, rest = symbol.partition("+")
    distance, gap, owner = rest.partition(" ")
    return f"{name}+{int(distance, 16) + 1:#x}{gap}{owner}"
