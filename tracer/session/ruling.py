"""Rulings that a person makes: what they can be made of, and as which command."""

from __future__ import annotations

from tracer.access.decision import Called, Delay, Give, Pending, Postpone, Refuse, Ruling
from tracer.confidential.request import FatalError, MapGpa, describe
from tracer.confidential.request import Halt as Sleep
from tracer.errors import UsageError
from tracer.session.course import Halt
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


def check_given(pending: Pending, value: int, *rest: int) -> None:
    """Raise UsageError for values that an access cannot be given in place of its own.

    The ``rest`` are those of the registers that CPUID gives behind the one that waits.
    """
    if pending.via == "stepped":
        raise UsageError(
            "the vCPU carries this instruction out by itself: it can be skipped, not changed"
        )
    check_no_interrupt(pending, "another value")
    width = pending.transfer.width
    left = len(pending.foretold) - len(pending.done) - 1 if pending.is_input else 0
    if len(rest) > left:
        raise UsageError(f"{len(rest) + 1} values are given, and {left + 1} wait to be read")
    for each in (value, *rest):
        check_fits(each, width, f"the {width} bytes of this access")


def check_no_interrupt(pending: Pending, what: str) -> None:
    """Raise UsageError where an interrupt waits, which is given no ``what``."""
    # The CPU has been told of it, and waits to hear the end of it.
    if pending.transfer.space in ("irq", "msi"):
        raise UsageError(f"an interrupt is given no {what}: it can be late")


def check_untouched(halt: Halt, what: str) -> None:
    """Raise UsageError where a device has seen an access of the instruction that waits.

    That cannot be taken back; ``what`` is to be done, in words.
    """
    if halt.pending is not None and (halt.answered or halt.pending.done):
        raise UsageError(f"the instruction is halfway: `step` first, then {what}")


def check_rewrite(pending: Pending, halt: Halt, code: bytes) -> None:
    """Raise UsageError where these bytes cannot take the place of the instruction that waits."""
    if pending.is_input:
        raise UsageError("the instruction has left the guest: it cannot be rewritten here")
    check_untouched(halt, "rewrite it")
    room = len(pending.code)
    if pending.insn is None or not 0 < len(code) <= room:
        there = pending.code.hex(" ")
        raise UsageError(f"from 1 to {room} bytes can be rewritten here: {there}")


def check_fits(value: int, width: int, what: str) -> None:
    """Raise UsageError for a value of more than ``width`` bytes; ``what`` it does not fit."""
    if not 0 <= value < 1 << 8 * width:
        raise UsageError(f"{value:#x} does not fit {what}")
