"""The records of accesses that were made at stops, in their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from tracer.access.execution import Foretold, Outcome, lost_atomicity
from tracer.access.recorded import memory_access
from tracer.access.space import AddressSpace
from tracer.access.transfer import Transfer
from tracer.intercept.answer import UNANSWERED
from tracer.intercept.fault import Fault
from tracer.intercept.names import Names
from tracer.intercept.standin import replay_note
from tracer.intercept.system import Callers
from tracer.trace.call import Hypercall
from tracer.trace.marker import rule_note
from tracer.trace.member import Via
from tracer.trace.record import Intercept
from tracer.trace.registers import changed_values, register_values
from tracer.x86.bus import PortAccess
from tracer.x86.instruction import Instruction
from tracer.x86.state import CpuState

_WITHIN = "an NMI's, within another access of its vCPU: which came first is not known"


@dataclass(frozen=True, slots=True)
class Asked:
    """Tell how a guest asked for an access, and whether its instruction makes just that."""

    call: Hypercall
    agrees: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """Hold one execution of an instruction, at a fault, with what came of it.

    ``before`` is the state before it. ``code`` are its bytes where the instruction is not known,
    ``note`` tells why the vCPU carried it out, ``asked`` how the guest asked for it.
    """

    fault: Fault
    insn: Instruction | None
    outcome: Outcome
    before: CpuState
    code: bytes = b""
    note: str | None = None
    via: Via | None = None
    asked: Asked | None = None

    @property
    def carried_by(self) -> Via:
        """Return how it was carried out."""
        if self.asked is not None:
            return "guest"
        return self.via or ("emulated" if self.note is None else "stepped")


class Ledger:
    """Record the accesses of one guest.

    Every record goes to ``publish``, with the call chain that ``callers`` find; ``counts`` counts
    them. ``within`` tells of a vCPU whether another access of it is under way. ``behind`` is called
    behind each record, with where linear addresses lead: the guest stands right behind the access.
    """

    def __init__(
        self,
        names: Names,
        callers: Callers,
        counts: Counter[str],
        publish: Callable[[Intercept], None],
        within: Callable[[int], bool],
    ) -> None:
        self._names = names
        self._callers = callers
        self._counts = counts
        self._publish = publish
        self._within = within
        self._parting: Entry | None = None
        self.behind: Callable[[Intercept, AddressSpace], None] = lambda record, space: None
        self.sequence = 0

    def take(self, accesses: int) -> int:
        """Count accesses that are recorded elsewhere; return the number of the first one."""
        first = self.sequence
        self.sequence += accesses
        return first

    def part(self) -> None:
        """Record the access that was under way when the guest ended, and may be how it did."""
        if self._parting is not None:
            self.record(self._parting)

    def leave(self, entry: Entry) -> None:
        """Leave open what may be how the guest ended: :meth:`part` records it then."""
        self._parting = entry

    def leave_cut(
        self,
        fault: Fault,
        foretold: Foretold,
        asked: tuple[Transfer, ...] | PortAccess,
        done: tuple[Transfer, ...],
    ) -> None:
        """Leave an instruction open that came no further than to an access without an answer."""
        cut = () if isinstance(asked, PortAccess) else asked
        hidden = (replace(transfer, width=0, extent=transfer.width) for transfer in cut)
        last = Outcome(foretold.cpu, (*done, *hidden))
        insn, before = foretold.insn, foretold.cpu
        self.leave(Entry(fault, insn, last, before, note=UNANSWERED, via="emulated"))

    def record_asked(
        self, fault: Fault, foretold: Foretold | None, outcome: Outcome, asked: Asked
    ) -> None:
        """Record an access that a guest has asked for, if it is traced.

        Raises DebuggerError where QEMU ended before it answered: then its end tells whether it is.
        """
        insn = None if foretold is None else foretold.insn
        entry = Entry(fault, insn, outcome, fault.cpu, fault.code, asked=asked)
        if fault.silence is not None:
            self.leave(entry)
            raise fault.silence
        self.record(entry)

    def record(self, entry: Entry) -> None:
        """Record an execution of an instruction, if an access of it is traced."""
        fault, insn, before, note = entry.fault, entry.insn, entry.before, entry.note
        transfers = entry.outcome.transfers
        accesses = sum(transfer.traced for transfer in transfers)
        if not accesses:
            self._counts["neighbours"] += 1
            return
        asked, via = entry.asked, entry.carried_by
        stack = self._callers.note(before, fault.space, fault.time_ns)
        self._counts["accesses"] += accesses
        self._counts[via] += accesses
        record = Intercept(
            seq=self.sequence,
            time_ns=fault.time_ns,
            vcpu=fault.vcpu,
            cpl=before.cpl,
            mode=before.mode.value,
            rip=before.rip,
            symbol=self._names.lookup(before.rip, fault.space),
            code=insn.code if insn is not None else entry.code,
            text=insn.text if insn is not None else "(bad)",
            cr2=fault.spill.cr2,
            error_code=fault.spill.frame.error_code,
            via=via,
            accesses=[
                memory_access(transfer, fault.meddled.get(number))
                for number, transfer in enumerate(transfers)
            ],
            before=register_values(before, insn),
            after=changed_values(before, entry.outcome.cpu),
            note=_joined(
                rule_note(fault.ruled),
                note
                or replay_note(fault.replayed)
                or (lost_atomicity(insn, transfers) if insn is not None else None)
                or (_WITHIN if self._within(fault.vcpu) else None),
            ),
            stack=stack,
            asked=None if asked is None else asked.call,
            agrees=None if asked is None else asked.agrees,
        )
        self._publish(record)
        self.sequence += accesses
        self.behind(record, fault.space)


def _joined(*notes: str | None) -> str | None:
    return "; ".join(filter(None, notes)) or None
