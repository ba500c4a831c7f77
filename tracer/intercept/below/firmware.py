"""The port for what a confidential guest has below it: the TDX module, or its host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tracer.access.vcpu import Change
from tracer.intercept.entry.gate import PageFaultGate
from tracer.intercept.fault import Fault


@dataclass(frozen=True, slots=True)
class Intercepted:
    """Say what to change before the vCPU goes on.

    ``delivered`` tells that it goes on at a handler of the guest's, for an exception.
    """

    changes: tuple[Change, ...] = ()
    delivered: bool = False


class Firmware(Protocol):
    """Take the stops of a confidential guest that are for what is below it."""

    async def take(self, fault: Fault, gate: PageFaultGate) -> Intercepted | None:
        """Take a stop at the stub; return None for one that is vetrace's own business."""
        ...


class Underneath(Firmware, Protocol):
    """Be what a confidential guest has below it, for as long as it runs."""

    def conclude(self) -> None:
        """Tell what was left open at the end. Raises GuestError for a guest that was none."""
        ...

    def settle(self) -> None:
        """Tell what the guest has left open, as it goes no further."""
        ...
