"""An access to a device that a person at the prompt asks for, and no instruction of the guest's."""

from __future__ import annotations

from tracer.access.execution import delivered_alike
from tracer.access.space import AddressSpace
from tracer.access.transfer import Transfer
from tracer.access.want import Register, Registers, Sleeps, Vcpu
from tracer.errors import UsageError
from tracer.intercept import carrier
from tracer.intercept.carrier import Stand
from tracer.intercept.entry import visit
from tracer.intercept.entry.post import Post


async def reach(transfer: Transfer, gate: Post, space: AddressSpace, *, waits: bool) -> int | None:
    """Make one access to a device; return what was read.

    ``waits`` tells that the vCPU stands before an access. Raises UsageError when it stands where
    it cannot be sent to make this one.
    """
    stand = Stand(gate.stub, space, await Register("rsp"), gate.spare, gate.sight)
    registers = None
    if not waits and not delivered_alike([transfer], space.regions):
        registers = await Registers()
        if gate.sight is not None:
            raise UsageError(_only_a_vcpu(transfer, "is not in the monitor"))
        if not visit.can_enter(registers, space) or await Sleeps(await Vcpu()):
            raise UsageError(_only_a_vcpu(transfer, "sleeps or runs a user's program"))
    return await carrier.reach(transfer, stand, registers)


def _only_a_vcpu(transfer: Transfer, why: str) -> str:
    return (
        f"only a vCPU reaches physical {transfer.physical:#x} with {transfer.width} bytes, and "
        f"this one {why}: `step` to an access first"
    )
