"""How a guest ended, and whether that is well.

Ref: QEMU qapi/run-state.json (ShutdownCause).
"""

from __future__ import annotations

from dataclasses import dataclass

from tracer.errors import GuestCrashed, QemuError
from tracer.process import exit_words


@dataclass(frozen=True, slots=True)
class Ending:
    """Tell how QEMU ended.

    ``cause`` is QEMU's ShutdownCause or empty when it said none; ``console`` has the guest's
    last lines; ``errors`` what QEMU wrote to standard error.
    """

    status: int
    cause: str
    console: tuple[str, ...]
    errors: str
    triple_fault: bool


def check(ending: Ending) -> Ending:
    """Return an ending that is the guest's own power-off.

    Raises GuestCrashed for a panic or a triple fault, QemuError for an end of QEMU's own.
    """
    panic = next((line for line in reversed(ending.console) if "Kernel panic" in line), None)
    if ending.triple_fault:
        raise GuestCrashed("the guest triple-faulted; its last words are above")
    if panic is not None:
        raise GuestCrashed(f"the guest panicked: {panic.partition('] ')[2] or panic}")
    if ending.cause not in ("guest-shutdown", "guest-reset") or ending.status != 0:
        raise QemuError(f"QEMU ended before its guest did: {why(ending)}; boot again")
    return ending


def why(ending: Ending) -> str:
    """Return in words what ended QEMU: its last complaint, or its exit status."""
    if ending.status >= 0 and ending.errors:
        return ending.errors.splitlines()[-1]
    return exit_words(ending.status)
