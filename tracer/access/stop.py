"""A stop of the whole guest, as the debugger tells of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tracer.errors import GuestHung

Reason = Literal["kernel entry", "joined", "interrupt", "fault"]
"""Why a guest stands where no access waits."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """Tell that the guest stopped.

    ``thread`` is GDB's thread number (QEMU numbers vCPUs from 1 in order); ``reason`` is GDB's
    word, empty when GDB gave none; ``address`` is the linear address of the next instruction;
    ``breakpoint`` is the number of the breakpoint that was hit; ``payload`` is all that was told.
    ``expired`` tells that the run has taken longer than it may.
    """

    reason: str = ""
    thread: int | None = None
    address: int | None = None
    breakpoint: int | None = None
    signal: str | None = None
    payload: Mapping[str, object] = field(default_factory=dict)
    expired: bool = False

    @property
    def vcpu(self) -> int:
        """Return the vCPU that stopped, counted from 0."""
        return (self.thread or 1) - 1

    @property
    def stray(self) -> bool:
        """Tell whether the stop may be a late one, of a moment that has passed.

        When two vCPUs stop at once, QEMU reports one of them, and stops the machine again for the
        other after it has gone on.
        """
        return self.signal == "SIGTRAP" or self.reason == "read-watchpoint-trigger"

    @property
    def watched(self) -> bool:
        """Tell whether data was accessed in a range that was being watched."""
        return self.reason == "access-watchpoint-trigger"

    @property
    def ended(self) -> bool:
        """Tell whether the machine has shut down (gdb_vm_state_change: GDB_SIGNAL_QUIT)."""
        return self.reason.startswith("exited") or self.signal == "SIGQUIT"

    @property
    def interrupted(self) -> bool:
        """Tell whether QEMU's monitor stopped the machine (gdb_vm_state_change: GDB_SIGNAL_INT)."""
        return self.signal == "SIGINT"


@dataclass(frozen=True, slots=True)
class Ran:
    """Tell how the guest stopped after it had run for some seconds of the host's time."""

    stop: Stopped
    seconds: float = 0.0

    def in_time(self) -> Stopped:
        """Return the stop. Raises GuestHung when all it says is that the run's time is over."""
        if self.stop.expired and self.stop.interrupted:
            raise GuestHung
        return self.stop
