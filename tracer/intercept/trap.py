"""The port for stops: each kind claims its own, and says how the guest goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tracer.access.stop import Reason, Stopped
from tracer.access.vcpu import Change
from tracer.access.want import SetBreakpoint


@dataclass(frozen=True, slots=True)
class GoOn:
    """Let the guest go on with these changes."""

    changes: Sequence[Change] = ()


@dataclass(frozen=True, slots=True)
class StandStill:
    """Hold the guest where it is, if there is anybody to hold it for."""

    reason: Reason
    vcpu: int = 0


@dataclass(frozen=True, slots=True)
class LetGo:
    """Trace no further: the guest goes on without any trap."""


Handled = GoOn | StandStill | LetGo


@dataclass(frozen=True, slots=True)
class Untraced:
    """Say in words what is not traced; with ``other`` it is another guest's doing."""

    text: str
    other: bool = False


def without_room(where: str) -> Untraced:
    """Say that nothing is traced from a place on, where an IDT without room is loaded."""
    return Untraced(
        f"not traced: what the guest does from {where} on, where it loads an IDT without room "
        "for page faults"
    )


class Trap(Protocol):
    """Act on one kind of stop."""

    def claims(self, stop: Stopped) -> bool:
        """Tell whether a stop is of this kind."""
        ...

    async def handle(self, stop: Stopped) -> Handled:
        """Act on a stop of this kind. Raises InterceptError when that cannot be done."""
        ...


class Breakpoint(Trap, Protocol):
    """Act on stops at code of the guest's."""

    def number_at(self, linear: int | None) -> int | None:
        """Return the number of the breakpoint at a linear address, if there is one."""
        ...


class OnePlace:
    """Own one breakpoint at code of the guest's: all of a :class:`Breakpoint` but what it does."""

    def __init__(self) -> None:
        self._linear: int | None = None
        self._number: int | None = None

    async def install(self, linear: int) -> None:
        """Stop at a linear address."""
        self._linear, self._number = linear, await SetBreakpoint(linear)

    def number_at(self, linear: int | None) -> int | None:
        """Return the number of the breakpoint at a linear address, if there is one."""
        return self._number if linear is not None and linear == self._linear else None

    def claims(self, stop: Stopped) -> bool:
        """Tell whether a stop is there."""
        return stop.breakpoint is not None and stop.breakpoint == self._number
