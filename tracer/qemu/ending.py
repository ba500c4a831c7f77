"""How a guest ended, and whether that is well.

Ref: QEMU qapi/run-state.json (ShutdownCause).
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from tracer.errors import GuestCrashed, GuestError, QemuError
from tracer.host.process import exit_words
from tracer.qemu.oops import panic
from tracer.qemu.standstill import gave_up

_NO_CLOCK = "Bad icount read"
"""The last words of a QEMU whose clock was read within a block of code (icount_get_raw_locked)."""

_GIVES_UP = re.compile(r"assert|hardware error|invalid runstate", re.IGNORECASE)
"""A line that QEMU writes before it aborts; registers or the line once more may follow it."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Tell how QEMU ended.

    ``cause`` is QEMU's ShutdownCause or empty when it said none; ``console`` has the guest's
    last lines; ``errors`` what QEMU wrote to standard error; ``registers`` what its monitor told
    of every vCPU at the end, or nothing. ``accepted`` is the exit status of a guest that has ended
    well, beside that of a power-off. Of a guest that was reset, as it went no further,
    ``at_rest`` says why that is none of its own ends, or is empty; None is any other.
    """

    status: int
    cause: str
    console: tuple[str, ...]
    errors: str
    triple_fault: bool
    registers: str = ""
    accepted: int | None = None
    at_rest: str | None = None

    @property
    def well(self) -> bool:
        """Tell whether the guest has powered off, or ended with the status that says so."""
        powered_off = self.cause == "guest-shutdown" and self.status == 0
        return powered_off or (self.accepted is not None and self.status == self.accepted)


def check(ending: Ending, whose: str = "") -> Ending:
    """Return an ending that is the guest's own.

    ``whose`` tells whose doing a triple fault was. Raises GuestCrashed for a panic or a triple
    fault, GuestError for another fault of the guest's, QemuError for an end of QEMU's own.
    """
    # A guest that powered off may have printed anything.
    if ending.well:
        return ending
    if ending.triple_fault:
        how = f" {whose}" if whose else "; its last words are above"
        raise GuestCrashed(f"the guest triple-faulted{how}")
    if ending.at_rest:
        raise GuestError(ending.at_rest)
    told = panic(ending.console)
    if told is not None:
        raise GuestCrashed(f"the guest panicked: {told}")
    left = gave_up(ending.console)
    if left is not None:
        raise GuestError(str(left))
    by_reset = ending.at_rest is not None or ending.cause == "guest-reset"
    if not by_reset or ending.status != 0:
        raise QemuError(f"QEMU ended before its guest did: {why(ending)}; {_remedy(ending)}")
    return ending


def why(ending: Ending) -> str:
    """Return in words what ended QEMU: its last complaint, or its exit status."""
    words = exit_words(ending.status)
    if not ending.errors:
        return words
    lines = ending.errors.splitlines()
    if ending.status >= 0:
        return lines[-1]
    # A QEMU that gives itself up says why; one that another ends has said other things before.
    if ending.status != -signal.SIGABRT:
        return words
    given_up = [line for line in lines if _GIVES_UP.search(line)]
    return f"{words}: {(given_up or lines[-1:])[0]}"


def _remedy(ending: Ending) -> str:
    if _NO_CLOCK in ending.errors:
        return "its virtual clock does not bear this guest: boot that with --realtime"
    # A status without a complaint of QEMU's may be what the guest has chosen (isa-debug-exit).
    if ending.status <= 0 or ending.errors:
        return "boot again"
    return (
        f"boot again, with --exit-ok {ending.status} if that is how this guest says that all is"
        " well"
    )
