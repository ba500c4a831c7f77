"""A person or rules decide what becomes of the accesses of a guest that is not confidential.

For one that is, :mod:`tracer.intercept.below.granting` has what they decide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from tracer.access.decision import (
    Decision,
    Delay,
    Give,
    Go,
    Inject,
    Pending,
    Postpone,
    Refuse,
    Retry,
    Ruling,
    Skip,
)
from tracer.access.execution import Answers, Foretold, answered
from tracer.access.transfer import Meddling, Transfer
from tracer.access.want import AskAnswered, AskBefore
from tracer.errors import GuestException, InterceptError
from tracer.intercept.answer import Answering
from tracer.intercept.entry import visit
from tracer.intercept.entry.post import Post
from tracer.intercept.fault import Fault
from tracer.intercept.ledger import Ledger
from tracer.intercept.names import Names
from tracer.intercept.view import GuestView
from tracer.trace.member import Via
from tracer.x86.instruction import Instruction
from tracer.x86.state import MAX_INSTRUCTION, CpuState


class Restart(Exception):
    """Tell that a person has changed the registers: the instruction starts over."""

    def __init__(self, cpu: CpuState) -> None:
        super().__init__()
        self.cpu = cpu


class Oversight:
    """Ask about the accesses of one guest.

    ``answering`` makes them, ``confidential`` tells whether the guest itself asks for them.
    """

    def __init__(
        self,
        view: GuestView,
        names: Names,
        ledger: Ledger,
        answering: Answering,
        confidential: Callable[[], bool],
    ) -> None:
        self._view = view
        self._names = names
        self._ledger = ledger
        self._answering = answering
        self._confidential = confidential

    def pending(
        self,
        fault: Fault,
        insn: Instruction | None,
        transfer: Transfer,
        foretold: tuple[Transfer, ...],
        done: tuple[Transfer, ...] = (),
        why: str | None = None,
        asked: Mapping[str, int] | None = None,
    ) -> Pending:
        """Return an access as a person is asked about it.

        ``why`` tells why it is not emulated, ``asked`` by which registers a guest asks for it.
        """
        cpu, space = fault.cpu, fault.space
        return Pending(
            seq=self._ledger.sequence + sum(item.traced for item in done),
            time_ns=fault.time_ns,
            vcpu=fault.vcpu,
            symbol=self._names.lookup(cpu.rip, space),
            code=space.read(cpu.rip, MAX_INSTRUCTION) if insn is None else insn.code,
            insn=insn,
            cpu=cpu,
            space=space,
            transfer=transfer,
            done=done,
            foretold=foretold,
            via=self._way(why),
            why=why,
            asked=asked,
        )

    def _way(self, why: str | None) -> Via:
        if why is not None:
            return "stepped"
        return "guest" if self._confidential() else "emulated"

    async def carry(
        self,
        foretold: Foretold,
        transfers: tuple[Transfer, ...],
        done: tuple[Transfer, ...],
        fault: Fault,
        gate: Post,
    ) -> Answers:
        """Make one access of an instruction as is decided; return what each transfer read.

        All of its transfers are asked about before any is made; ``done`` are those before.
        """
        insn = foretold.insn
        answers: list[int | None] = [None] * len(transfers)
        wanted: dict[int, Transfer] = {}
        given: dict[int, int] = {}
        for index, transfer in enumerate(transfers):
            wanted[index] = transfer
            if not transfer.traced:
                continue
            number = len(done) + index
            before = (*done, *transfers[:index])
            pending = self.pending(fault, insn, transfer, foretold.transfers, before)
            match _diverted(await AskBefore(pending), pending):
                case Skip(value):
                    fault.meddled[number] = Meddling(skipped=True)
                    answers[index] = value if transfer.direction == "read" else None
                    del wanted[index]
                case Give(value, by) if transfer.direction == "write":
                    fault.meddled[number] = Meddling(device=value)
                    fault.ruled.append(by)
                    wanted[index] = replace(transfer, value=value)
                case Give(value, by):
                    fault.ruled.append(by)
                    given[index] = value
                case Delay() as late:
                    await self.delay(late, fault, gate)
                case Go():
                    pass
        made = await self._answering.carry(tuple(wanted.values()), fault, gate)
        for index, answer in zip(wanted, made, strict=True):
            answers[index] = answer
        for index, transfer in wanted.items():
            if not transfer.traced or transfer.direction == "write":
                continue
            number, answer = len(done) + index, answers[index]
            if index not in given:
                before = (*done, *map(answered, transfers[:index], answers))
                told = answered(transfer, answer)
                pending = self.pending(fault, insn, told, foretold.transfers, before)
                match carried(await AskAnswered(pending)):
                    case Give(value, by):
                        fault.ruled.append(by)
                        given[index] = value
                    case Delay() as late:
                        await self.delay(late, fault, gate)
                        continue
                    case Go():
                        continue
            fault.meddled[number] = Meddling(device=answer)
            answers[index] = given[index]
        return answers

    async def step(
        self,
        fault: Fault,
        gate: Post,
        insn: Instruction | None,
        foretold: tuple[Transfer, ...],
        why: str,
    ) -> None:
        """Ask about a step by the vCPU.

        It can be left out as a whole, or be late, but not be given another value.
        """
        fault.meddled.clear()
        fault.ruled.clear()
        for number, transfer in enumerate(foretold):
            pending = self.pending(fault, insn, transfer, foretold, why=why)
            pending = replace(pending, seq=pending.seq + number)
            decision = _diverted(await AskBefore(pending), pending)
            if isinstance(decision, Delay):
                await self.delay(decision, fault, gate)
            if isinstance(decision, Skip):
                fault.meddled.update(dict.fromkeys(range(len(foretold)), Meddling(skipped=True)))
                return

    async def delay(self, late: Delay, fault: Fault, gate: Post) -> None:
        """Let the guest's time pass before it has the answer."""
        fault.ruled.append(f"{late.by}, {late.time_ns / 1e9:.9g} s late")
        await visit.delay(late.time_ns, gate.stub, realtime=self._view.realtime)


def carried(ruling: Go | Ruling) -> Go | Give | Delay:
    """Return what a guest that is not confidential can be told. Raises InterceptError else."""
    # The guest decodes its accesses itself where it can be told that one cannot be made.
    if isinstance(ruling, Refuse | Postpone):
        raise InterceptError(f"{ruling.by}: a guest that is not confidential cannot be told that")
    return ruling


def _diverted(decision: Decision, pending: Pending) -> Go | Give | Delay | Skip:
    # Raises what ends the execution here, where the decision is such.
    match decision:
        case Inject(vector, error_code, linear):
            raise GuestException(pending.code, vector, error_code, linear, injected=True)
        case Retry(cpu):
            raise Restart(cpu)
        case Skip():
            return decision
        case _:
            return carried(decision)
