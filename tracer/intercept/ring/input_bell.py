"""The stop before an input that somebody is asked about: a port, an MSR, CPUID, an interrupt.

The vCPU stands in the monitor, which has left the guest's registers where they can be read. What
was decided is written there; the monitor carries the access out, and stands once more before the
guest has the answer::

    ring    ask before: value, skip, fault, other registers    -> DECIDED
    told    ask what is answered, if anything was read          -> the record
    parted  the guest's next instruction

A read that is watched stops it at each, as at a breakpoint QEMU throws away all translated code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tracer.access.decision import (
    Delay,
    Give,
    Go,
    Inject,
    Pending,
    Refuse,
    Retry,
    Skip,
)
from tracer.access.state import stopped
from tracer.access.stop import Stopped
from tracer.access.transfer import Meddling, Transfer
from tracer.access.vcpu import SetRegister
from tracer.access.want import (
    AskAnswered,
    AskBefore,
    AskCompleted,
    AskHold,
    BreakAlone,
    MakeChanges,
    Registers,
    RunAlone,
    Turn,
    Vcpu,
    WatchReads,
)
from tracer.compiled.asking import decoded
from tracer.compiled.flagging import MADE, NOT_MADE
from tracer.compiled.inputs import (
    Input,
    given,
    is_input,
    rip_of_input,
)
from tracer.compiled.ring import Raw, raws
from tracer.errors import InterceptError
from tracer.intercept.journal import Journal
from tracer.intercept.ledger import Ledger
from tracer.intercept.names import Names
from tracer.intercept.oversight import carried
from tracer.intercept.ring.asked_input import AskedInput, made_by, transfers_of
from tracer.intercept.ring.monitor import Monitor
from tracer.intercept.ring.sites import CompiledSites
from tracer.intercept.system import Callers
from tracer.intercept.trap import GoOn, Handled, StandStill
from tracer.intercept.view import GuestView
from tracer.trace.configuration import DATA
from tracer.trace.inputs import (
    configuration_access,
)
from tracer.x86.bus import Direction
from tracer.x86.state import GPR, MAX_INSTRUCTION, CpuState, Mode

_ROUND_NS = 2
"""Guest time of a turn at ``late``, where instructions are counted."""
_MOST_ROUNDS = 10_000_000
"""Turns without a look at whether somebody wants to end the run."""
_PROTECTION = 13
_REFUSED = (
    "a host cannot raise that exception for an input of a confidential guest: it was refused, "
    "which is #GP, or what the guest's handler makes of it"
)
_UNCHANGED = (
    "registers before an input of a confidential guest stay as they were: its handler has read them"
)


class InputBell:
    """Ask about the inputs of one guest that somebody may want, and record them.

    ``inside`` is the monitor that it runs in, None before there is room for one. Without ``asks``
    nobody is asked. ``before`` is called with what is about to be made.
    """

    def __init__(
        self, view: GuestView, journal: Journal, names: Names, callers: Callers, ledger: Ledger,
        *, asks: bool = True,
    ) -> None:  # fmt: skip
        self.before: Callable[[Sequence[Transfer]], None] = lambda transfers: None
        self._asks = asks
        self.inside: Monitor | None = None
        self.sites: CompiledSites | None = None
        self._view = view
        self._journal = journal
        self._names = names
        self._callers = callers
        self._ledger = ledger
        self._parting: AskedInput | None = None

    async def begin(self, inside: Monitor, sites: CompiledSites | None) -> None:
        """Stop at inputs of a guest that runs in this monitor, beside these sites."""
        self.inside, self.sites = inside, sites
        await WatchReads(inside.await_asking())

    def claims(self, stop: Stopped) -> bool:
        """Tell whether a vCPU stands where the monitor asks."""
        return self.inside is not None and stop.address == self.inside.ring

    async def handle(self, stop: Stopped) -> Handled:
        """Ask what becomes of the input, and have the monitor carry that out."""
        inside = self.inside
        registers = await Registers()
        if inside is None or not inside.is_inside(registers["cr3"]):
            return GoOn()  # a program has code at that linear address
        if stop.expired:
            return StandStill("interrupt", stop.vcpu)
        vcpu = await Vcpu()
        if self.sites is not None and self.sites.block.waits(vcpu):
            self._journal.counts["midway"] += 1
            return GoOn()
        self._journal.counts["intercepts"] += 1
        asked = await self._asked(inside, vcpu, registers.values)
        decided = await self._before(asked, inside) if self._asks else None
        if decided is not None and asked.for_handler:
            return await self._refuse(asked, decided, inside, stop)
        match decided:
            case Inject():
                return await self._raise(decided, inside, stop)
            case Retry(cpu):
                inside.restore(vcpu, cpu)
                return GoOn((SetRegister("rip", inside.label("instead")),))
            case Refuse():
                raise InterceptError("only a handler of the guest's can be refused an input")
        await self._carry(asked, inside)
        return GoOn()

    async def _asked(self, inside: Monitor, vcpu: int, registers: Mapping[str, int]) -> AskedInput:
        raw = _raw(inside.record(vcpu))
        kind = Input(raw.site)
        says = given(raw, kind)
        view = self._view
        view.tell_time(raw.tsc)
        registers = {**registers, **inside.of_guest(vcpu), "eflags": raw.rflags}
        registers |= dict(zip(GPR, raw.gpr, strict=True))
        registers["rip"] = rip_of_input(raw)
        cpu = replace(stopped(registers, Mode(says.manner.mode)), cpl=says.cpl)
        space = view.space(registers["cr3"], registers["cr4"])
        code = space.read(cpu.rip, MAX_INSTRUCTION)
        insn = None if kind is Input.IRQ else decoded(code, cpu.rip, cpu.mode)
        if insn is not None and not is_input(insn, kind):
            insn = None
        cause, message = None, None
        if kind is Input.IRQ:
            cause, message = self._journal.message(vcpu, says.address)
        made = made_by(kind, says, message, self._find)
        return AskedInput(
            vcpu, kind, raw, says, cpu, space, insn, self._names.lookup(cpu.rip, space),
            transfers_of(kind, says, made), inside.for_handler(vcpu), message, cause,
        )  # fmt: skip

    def _find(self, port: int, direction: Direction) -> tuple[str, int] | None:
        for region in self._view.regions.ports:
            if region.start <= port <= region.end:
                return region.name, port - region.base
        return None

    def _pending(self, asked: AskedInput, number: int, done: tuple[Transfer, ...]) -> Pending:
        return Pending(
            seq=self._ledger.sequence + number,
            time_ns=self._view.time_ns,
            vcpu=asked.vcpu,
            symbol=asked.symbol,
            code=asked.code,
            insn=asked.insn,
            cpu=asked.cpu,
            space=asked.space,
            transfer=asked.transfers[number],
            done=done,
            foretold=asked.transfers,
            via="monitor",
            cause=asked.cause,
        )

    # ---- before it is made

    async def _before(self, asked: AskedInput, inside: Monitor) -> Inject | Retry | Refuse | None:
        for number, transfer in enumerate(asked.transfers):
            if number in asked.given:
                continue
            pending = self._pending(asked, number, asked.transfers[:number])
            match await AskBefore(pending):
                case Retry() if asked.for_handler:
                    self._journal.remark(_UNCHANGED)
                case Inject() | Retry() as instead:
                    return instead
                case Refuse() as instead if asked.for_handler:
                    asked.ruled.append(instead.by)
                    return instead
                case Skip(value):
                    asked.skip()
                    if transfer.direction == "read":
                        rest = range(number + 1, len(asked.transfers))
                        asked.given |= {number: value, **dict.fromkeys(rest, 0)}
                    return None
                case Give() as give if transfer.direction == "write":
                    asked.meddled[number] = Meddling(device=give.value)
                    asked.ruled.append(give.by)
                    inside.tell(asked.vcpu, give.value, transfer.width)
                case Give() as give:
                    asked.take(number, give)
                case Go():
                    pass
                case ruling:
                    await self._late(carried(ruling), asked, inside)
        return None

    async def _raise(self, fault: Inject, inside: Monitor, stop: Stopped) -> Handled:
        inside.inject(await Vcpu(), fault.vector, fault.error_code, fault.linear)
        await MakeChanges([SetRegister("rip", inside.label("instead"))])
        if await inside.step_out(stop) is None:
            raise InterceptError("the exception does not come to the guest")
        return StandStill("fault", stop.vcpu) if await AskHold() else GoOn()

    async def _refuse(
        self, asked: AskedInput, decided: Inject | Retry | Refuse, inside: Monitor, stop: Stopped
    ) -> Handled:
        # The guest's handler has asked for it, and is told that it cannot be.
        if isinstance(decided, Inject) and decided.vector != _PROTECTION:
            self._journal.remark(_REFUSED)
        asked.skip()
        await RunAlone(inside.label("told"), [SetRegister("rip", inside.label("protection"))])
        await RunAlone(inside.label("parted"))
        says = given(_raw(inside.record(asked.vcpu)), asked.kind)
        asked.says = replace(asked.says, manner=says.manner)
        self._publish(asked, asked.cpu)
        if isinstance(decided, Refuse) or not await AskHold():
            return GoOn()
        if await inside.step_out(stop) is None:
            raise InterceptError("the refusal does not come to the guest's handler")
        return StandStill("fault", stop.vcpu)

    # ---- it is made

    async def _carry(self, asked: AskedInput, inside: Monitor) -> None:
        vcpu = asked.vcpu
        inside.decide(vcpu, NOT_MADE if asked.skipped else MADE)
        if not asked.skipped:
            self.before([asked.to_device(number) for number in range(len(asked.transfers))])
        self._parting = asked
        await RunAlone(inside.label("told"), [SetRegister("rip", inside.label("decided"))])
        self._parting = None
        if not asked.skipped:
            says = given(_raw(inside.record(vcpu)), asked.kind)
            if says.direction == "write":
                says = replace(says, values=asked.says.values)  # as the instruction has it
            asked.says = says
        reads = asked.says.direction == "read" and asked.kind is not Input.IRQ
        if reads and self._asks and not asked.says.manner.raised:
            await self._answered(asked, inside)
        self._parting = asked
        await RunAlone(inside.label("parted"))
        self._parting = None
        # The guest goes on in its handler, where that has asked for it.
        after = asked.left() if asked.for_handler else inside.state(vcpu, asked.cpu)
        self._publish(asked, after)
        completed = await AskCompleted(after) if self._asks else after
        if completed != after and not asked.for_handler:
            inside.restore(vcpu, completed)

    async def _answered(self, asked: AskedInput, inside: Monitor) -> None:
        values = list(asked.says.values)
        made: list[Transfer] = []
        for number, transfer in enumerate(asked.transfers):
            told = replace(transfer, value=values[number])
            made.append(told)
            if number in asked.given:
                continue
            before = asked.transfers
            asked.transfers = (*made, *before[number + 1 :])
            match carried(await AskAnswered(self._pending(asked, number, tuple(made[:-1])))):
                case Give() as give:
                    asked.take(number, give)
                case Delay() as late:
                    await self._late(late, asked, inside)
                case Go():
                    pass
        for number, value in asked.given.items():
            if not asked.skipped:
                asked.meddled[number] = Meddling(device=values[number])
            values[number] = value
            width = asked.transfers[number].width
            inside.tell(asked.vcpu, value, width, 4 * number)
        asked.says = replace(asked.says, values=tuple(values))

    async def _late(self, ruling: Go | Give | Delay, asked: AskedInput, inside: Monitor) -> None:
        # Lets the guest's time pass before it has the answer; it stands where it stood.
        if not isinstance(ruling, Delay):
            return
        asked.ruled.append(f"{ruling.by}, {ruling.time_ns / 1e9:.9g} s late")
        registers = await Registers()
        rounds = ruling.time_ns if self._view.realtime else -(-ruling.time_ns // _ROUND_NS)
        while rounds > 0:
            some = min(rounds, _MOST_ROUNDS)
            start = [SetRegister("rip", inside.label("late")), SetRegister("rcx", some)]
            await BreakAlone(inside.label("waited"), start)
            await Turn()
            rounds -= some
        await MakeChanges([SetRegister(name, registers[name]) for name in ("rip", "rcx", "eflags")])

    # ---- what is recorded

    def part(self) -> None:
        """Record what was under way when the guest ended, and may be how it did."""
        asked = self._parting
        if asked is None or asked.says.direction == "read":
            return  # nobody knows what would have been read
        self._publish(asked, asked.left())

    def _publish(self, asked: AskedInput, after: CpuState) -> None:
        view, journal = self._view, self._journal
        made = asked.accesses(made_by(asked.kind, asked.says, asked.message, self._find))
        if asked.kind is Input.PORT and asked.says.address in DATA:
            made.append(configuration_access(made[0], journal.latch))
        seq = self._ledger.take(len(made))
        stack = self._callers.note(asked.cpu, asked.space, view.time_ns)
        record = asked.record(seq, view.time_ns, made, after, stack)
        journal.counts["accesses"] += len(made)
        journal.counts["monitor"] += len(made)
        journal.publish(record)
        self._ledger.behind(record, asked.space)


def _raw(record: bytes) -> Raw:
    (raw,) = raws(record)
    return raw
