"""A person or rules decide what becomes of an access of a confidential guest.

They are asked where the instruction has faulted: there its registers can be changed, its bytes
rewritten, an exception raised. What they say of the access itself holds once the guest's handler
asks its host for it, and so does what they say of a value that a device has given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tracer.access.decision import Decision, Delay, Give, Go, Postpone, Refuse, Skip
from tracer.access.execution import answered
from tracer.access.footprint import footprint
from tracer.access.transfer import Meddling, Transfer
from tracer.access.want import AskAnswered, AskBefore
from tracer.errors import EmulationError
from tracer.intercept import carrier
from tracer.intercept.entry.gate import PageFaultGate
from tracer.intercept.fault import Fault
from tracer.intercept.interceptor import Interceptor
from tracer.x86.decode import decode
from tracer.x86.instruction import Instruction

_LEFT = "the guest's own handler is left to judge it"


class Refused(Exception):
    """Tell that the guest is to hear that its access cannot be made, or is to ask again."""

    def __init__(self, ruling: Refuse | Postpone) -> None:
        super().__init__()
        self.ruling = ruling


async def decided(
    interceptor: Interceptor,
    fault: Fault,
    insn: Instruction | None,
    expected: Transfer | None,
    foretold: tuple[Transfer, ...],
) -> Decision:
    """Return what is to become of an access where its instruction has faulted.

    ``expected`` is what the guest's handler will ask for, None where it is known to ask for none.
    """
    why = None
    transfer = expected
    if transfer is None:
        why = _LEFT
        insn, foretold = _seen(fault)
        transfer = next((item for item in foretold if item.traced), None)
    if transfer is None or not transfer.traced:
        return Go()
    return await AskBefore(interceptor.oversight.pending(fault, insn, transfer, foretold, why=why))


def _seen(fault: Fault) -> tuple[Instruction | None, tuple[Transfer, ...]]:
    # Goes by what the CPU has told of an instruction that the emulator does not foretell.
    try:
        insn = decode(fault.code, fault.cpu.rip, fault.cpu.mode)
    except EmulationError:
        insn = None
    ahead = footprint(insn, fault.cpu, fault.space)
    return insn, ahead.seen([fault.encounter], fault.space)


async def granted(
    interceptor: Interceptor,
    decision: Decision,
    made: tuple[Fault, Instruction, tuple[Transfer, ...]],
    transfer: Transfer,
    asked: Mapping[str, int],
    gate: PageFaultGate,
) -> int | None:
    """Make an access as was decided; return what the guest reads.

    ``made`` is the fault of its instruction, standing where the guest asks, and what that makes;
    ``asked`` are the registers by which it asks. Raises Refused, with what was done to the device
    noted in the fault.
    """
    fault, insn, foretold = made
    read = transfer.direction == "read"
    if isinstance(decision, Skip):
        return _skipped(decision, fault, transfer)
    transfer = await _wanted(interceptor, decision, fault, transfer, gate)
    (value,) = await interceptor.answering.carry((transfer,), fault, gate)
    if not read or not interceptor.asks or not transfer.traced:
        return value
    if not isinstance(decision, Give):
        told = answered(transfer, value)
        pending = interceptor.oversight.pending(fault, insn, told, foretold, asked=asked)
        match await AskAnswered(pending):
            case Give() as given:
                decision = given
            case Delay() as late:
                await interceptor.oversight.delay(late, fault, gate)
                return value
            case (Refuse(by) | Postpone(by)) as ruling:
                fault.meddled[0] = Meddling(device=value)
                fault.ruled.append(by)
                raise Refused(ruling)
            case Go():
                return value
    return _given(decision, fault, value)


async def unforeseen(
    interceptor: Interceptor,
    decision: Decision,
    fault: Fault,
    transfer: Transfer,
    gate: PageFaultGate,
) -> int | None:
    """Make an access that no instruction is known to make as was decided; return what is read.

    The fault stands where the guest asks for it. Raises Refused, as :func:`granted`.
    """
    if isinstance(decision, Skip):
        return _skipped(decision, fault, transfer)
    transfer = await _wanted(interceptor, decision, fault, transfer, gate)
    value = await carrier.reach(transfer, fault.stand(gate), None)
    if transfer.direction == "read" and isinstance(decision, Give):
        return _given(decision, fault, value)
    return value


async def _wanted(
    interceptor: Interceptor,
    decision: Decision,
    fault: Fault,
    transfer: Transfer,
    gate: PageFaultGate,
) -> Transfer:
    # Returns what is to be made, after a delay. Raises Refused.
    match decision:
        case Give(instead, by) if transfer.direction == "write":
            fault.meddled[0] = Meddling(device=instead)
            fault.ruled.append(by)
            return replace(transfer, value=instead)
        case Delay() as late:
            await interceptor.oversight.delay(late, fault, gate)
        case Refuse(by) | Postpone(by):
            fault.meddled[0] = Meddling(skipped=True)
            fault.ruled.append(by)
            raise Refused(decision)
    return transfer


def _skipped(decision: Skip, fault: Fault, transfer: Transfer) -> int | None:
    # Leaves an access out; returns what the guest reads instead.
    fault.meddled[0] = Meddling(skipped=True)
    return decision.value if transfer.direction == "read" else None


def _given(decision: Give, fault: Fault, value: int | None) -> int:
    # Gives the guest another value than the one that the device gave.
    fault.meddled[0] = Meddling(device=value)
    fault.ruled.append(decision.by)
    return decision.value
