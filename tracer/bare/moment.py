"""The moment at which tracing of a bare guest begins, as a person names it."""

from __future__ import annotations

from dataclasses import dataclass

from tracer.bare.place import Place, parse_place
from tracer.text.number import duration

_RETURN = "return:"
_LIKE = "main, 0x101000, return:setup_vm and 1.5s are"


@dataclass(frozen=True, slots=True)
class Moment:
    """Say when: at a ``place``, or without one after ``time_ns`` of the guest's time.

    With ``behind`` it is where the function there has returned to. ``text`` is what was typed.
    """

    text: str
    place: Place | None = None
    time_ns: int = 0
    behind: bool = False


def parse_moment(text: str) -> Moment:
    """Return the moment in ``SYMBOL``, ``ADDRESS``, ``return:`` of either, or ``1.5s``.

    Raises UsageError.
    """
    behind = text.startswith(_RETURN)
    name = text.removeprefix(_RETURN)
    time_ns = None if behind else duration(name)
    if time_ns is not None:
        return Moment(text, time_ns=time_ns)
    what = f"--attach-at {text}: that is no place and no time in a guest"
    return Moment(text, parse_place(name, what, _LIKE), behind=behind)
