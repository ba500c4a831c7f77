"""Rulings that a person makes: to what they are an answer, and as which command."""

from __future__ import annotations

from tracer.access.decision import Called, Delay, Give, Postpone, Refuse, Ruling
from tracer.confidential.request import FatalError, MapGpa, describe
from tracer.confidential.request import Halt as Sleep
from tracer.errors import UsageError
from tracer.x86.state import PAGE_SIZE


def check_answer(ruling: Ruling, called: Called | None) -> None:
    """Raise UsageError for what is no answer to the call that waits, if one does."""
    request = None if called is None else called.request
    if isinstance(ruling, Postpone) and ruling.physical is not None:
        if not isinstance(request, MapGpa):
            raise UsageError("retry takes an address where MapGPA waits: `break hypercall MapGPA`")
        end = request.start + request.size
        if ruling.physical % PAGE_SIZE or not request.start <= ruling.physical < end:
            raise UsageError(
                f"{ruling.physical:#x} is no page of what is asked for: {describe(request)}"
            )
    if called is None:
        return
    if request is None:
        raise UsageError(f"{called.name} asks the TDX module, which answers as it does")
    if isinstance(request, FatalError):
        raise UsageError(f"no answer is waited for: {describe(request)}")
    if isinstance(request, Sleep) and isinstance(ruling, Postpone | Give):
        raise UsageError("HLT has no such answer: `refuse` has")


def command_of(ruling: Ruling) -> str:
    """Return the command that makes a ruling."""
    match ruling:
        case Give(value, rest=rest):
            return f"set value {' '.join(map(hex, (value, *rest)))}"
        case Delay(time_ns):
            return f"delay {time_ns}ns"
        case Postpone(physical=int(physical)):
            return f"retry {physical:#x}"
    return "refuse" if isinstance(ruling, Refuse) else "retry"


def check_fits(value: int, width: int, what: str) -> None:
    """Raise UsageError for a value of more than ``width`` bytes; ``what`` it does not fit."""
    if not 0 <= value < 1 << 8 * width:
        raise UsageError(f"{value:#x} does not fit {what}")
