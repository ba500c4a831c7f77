"""The stop at which an SEV-ES guest speaks to its host by an MSR alone, as before it has a GHCB.

The vCPU stands in the monitor at ``requested``, with what the MSR holds in RAX, and goes on at
``responded``, with the answer there. CPUID, which is asked for most, the monitor answers itself.

Ref: AMD SEV-ES Guest-Hypervisor Communication Block Standardization 2.03, 2.3.1.
"""

from __future__ import annotations

from tracer.access.stop import Stopped
from tracer.access.vcpu import SetRegister
from tracer.access.want import Registers, Vcpu
from tracer.intercept.below.encrypted_guest import EncryptedGuest
from tracer.intercept.below.inquiry import Place
from tracer.intercept.clock import look_at_clock
from tracer.intercept.journal import Journal
from tracer.intercept.names import Names
from tracer.intercept.ring.monitor import Monitor
from tracer.intercept.trap import GoOn, Handled, OnePlace
from tracer.intercept.view import GuestView


class ProtocolBell(OnePlace):
    """Answer the requests of the MSR protocol of a guest that runs in a monitor: ``inside``."""

    def __init__(
        self, guest: EncryptedGuest, inside: Monitor, view: GuestView, journal: Journal,
        names: Names,
    ) -> None:  # fmt: skip
        super().__init__()
        self._guest = guest
        self._inside = inside
        self._view = view
        self._journal = journal
        self._names = names

    async def begin(self) -> None:
        """Stop where a vCPU asks."""
        await self.install(self._inside.label("requested"))

    async def handle(self, stop: Stopped) -> Handled:
        """Answer what a vCPU asks. Raises GuestError where that is for its end."""
        registers = await Registers()
        inside = self._inside
        if not inside.is_inside(registers["cr3"]):
            return GoOn()  # a program has code at that linear address
        self._journal.counts["hooks"] += 1
        vcpu = await Vcpu()
        await look_at_clock(self._view)
        there = inside.of_guest(vcpu)
        space = self._view.space(there["cr3"], there["cr4"])
        place = Place(
            self._view.time_ns, vcpu, there["rip"], self._names.lookup(there["rip"], space)
        )
        answer = self._guest.protocol(registers["rax"], place)
        return GoOn((SetRegister("rax", answer), SetRegister("rip", inside.label("responded"))))
