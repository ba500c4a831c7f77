"""Execution control: where the guest stands, what becomes of the access it stands before.

A :class:`Control` runs a session as a task of its own. It holds the guest before an access that a
break or a step wants, and whoever is at the prompt looks, changes, and lets it go on. The trace
tells of everything done this way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from tracer.access.decision import Decision, Give, Go, Inject, Pending, Retry, Ruling, Skip
from tracer.access.recorded import memory_access
from tracer.access.region import Choice
from tracer.access.stack import Stack
from tracer.access.state import with_register
from tracer.access.transfer import Transfer
from tracer.access.vcpu import SetRegister
from tracer.errors import UsageError
from tracer.session.course import (
    Departure,
    Ended,
    Going,
    Halt,
    Leaving,
    Places,
    Redoing,
    Running,
    Skipping,
    Standing,
    Stepping,
    ToHandler,
    Unstarted,
    Until,
    everywhere,
)
from tracer.session.custody import Custody, Wanted
from tracer.session.host import Host, check_told
from tracer.session.ruling import (
    check_answer,
    check_fits,
    check_given,
    check_no_interrupt,
    check_rewrite,
    check_untouched,
    command_of,
)
from tracer.session.session import Session
from tracer.trace.record import RELEASED, MemoryAccess, UserRecord
from tracer.x86.bus import Direction
from tracer.x86.state import GPR, CpuState

State = Literal["stopped", "running", "detached", "ended"]


class Control:
    """Drive one guest for a person or a script. Make it before :meth:`Session.trap`.

    ``custody`` holds it, and has what says where: ``breaks`` to begin with. ``opening`` is what is
    traced at first. The lists ``on_halt`` and ``on_end`` hold who is told.
    """

    def __init__(self, session: Session, breaks: Wanted = lambda pending, answered: None) -> None:
        self.session = session
        self.custody = Custody(session, breaks)
        self.opening = session.choice
        self.on_halt = self.custody.on_halt
        self.on_end: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None

    # ---- lifetime

    async def start(self) -> Halt:
        """Let the session begin; return where the guest stands first, at its kernel's entry."""
        self._task = asyncio.create_task(self._run())
        halt = await self.wait()
        if halt is None:
            raise self.error or UsageError("the guest ended before its kernel was entered")
        return halt

    async def _run(self) -> None:
        ended = Ended("interrupted")
        try:
            await self.session.run()
            ended = Ended(self.session.outcome)
        except Exception as error:
            ended = Ended(str(error), error)
        finally:
            self.custody.enter(ended)
            for tell in self.on_end:
                tell()

    async def wait(self) -> Halt | None:
        """Wait until the guest stands; None once it has ended."""
        return await self.custody.wait()

    async def close(self) -> None:
        """End the session's task; the guest is ended by who launched it."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    # ---- where it is

    @property
    def state(self) -> State:
        """Return in a word what can be done with the guest."""
        match self.custody.course:
            case Unstarted() | Standing():
                return "stopped"
            case Leaving():
                return "detached"
            case Ended():
                return "ended"
        return "running"

    @property
    def halt(self) -> Halt | None:
        """Return where the guest stands; None while it does not."""
        return self.custody.halt

    @property
    def host(self) -> Host:
        """Return who is asked about what nobody holds the guest at."""
        return self.custody.host

    @property
    def given(self) -> int | None:
        """Return the value that the access which waits is to have instead of its own, if any."""
        ruling = self.custody.course.ruling if isinstance(self.custody.course, Standing) else None
        return ruling.value if isinstance(ruling, Give) else None

    @property
    def outcome(self) -> str | None:
        """Return how the guest ended; None before it has."""
        return self.custody.course.outcome if isinstance(self.custody.course, Ended) else None

    @property
    def error(self) -> BaseException | None:
        """Return what ended the guest, unless it ended well."""
        return self.custody.course.error if isinstance(self.custody.course, Ended) else None

    def stopped(self) -> Halt:
        """Return where the guest stands. Raises UsageError when it does not stand."""
        return self.custody.standing().halt

    # ---- going on

    def resume(self) -> None:
        """Let the guest go on. Raises UsageError unless it is stopped, as all of these do."""
        self._go(Go(), Running())

    def step(self, count: int = 1) -> None:
        """Go on to before the ``count``-th next access."""
        self._go(Go(), Stepping(count))

    def run_until(
        self,
        text: str,
        wanted: Callable[[Pending], bool],
        places: Places = everywhere,
        time_ns: int | None = None,
    ) -> None:
        """Go on to before the first access that is ``wanted``; ``text`` says which, in words.

        ``places`` tells where that can be, ``time_ns`` the guest's time before which it is not.
        """
        self._go(Go(), Until(text, wanted, places, time_ns))

    async def interrupt(self) -> None:
        """Ask a running guest to stop; where and when, ``wait`` and ``on_halt`` tell."""
        if self.state == "running":
            await self.session.interrupt()

    async def detach(self) -> None:
        """Let the guest go on without any trap or debugger, to its end."""
        if self.state == "running":
            await self.interrupt()
            await self.wait()
        self.stopped()
        self.session.release()
        self._tell(RELEASED)
        self._go(Go(), Leaving())

    def _go(self, decision: Decision, going: Going) -> None:
        standing = self.custody.standing()
        halt = standing.halt
        if standing.ruling is not None and isinstance(decision, Go):
            decision = standing.ruling
            self._tell(command_of(decision))
        self.custody.enter(going)
        if not standing.departure.done():
            standing.departure.set_result(Departure(decision, halt.cpu))

    # ---- what becomes of the access

    def pending(self) -> Pending:
        """Return the access that waits. Raises UsageError when none does."""
        pending = self.stopped().pending
        if pending is None:
            raise UsageError("no access waits here: `step` goes to the next one")
        return pending

    def give(self, value: int, *rest: int) -> None:
        """Have the guest read this value, or the device get it, in place of the true one.

        The ``rest`` are those of the registers that CPUID gives behind the one that waits.
        """
        check_given(self.pending(), value, *rest)
        self.rule(Give(value, rest=rest))

    def rule(self, ruling: Ruling) -> None:
        """Say what becomes of the access that waits, whatever the host's rules say.

        Raises UsageError for what the guest cannot be told.
        """
        called = self.stopped().call
        if called is None:
            self.pending()
        check_answer(ruling, called)
        check_told(ruling, self.host.kind)
        self.custody.course = replace(self.custody.standing(), ruling=ruling)

    async def skip(self, value: int = 0) -> Halt | None:
        """Complete the instruction without its device; a read gives ``value``.

        The guest stands behind the instruction then.
        """
        pending = self.pending()
        check_no_interrupt(pending, "skip")
        if self.stopped().answered:
            raise UsageError("the device has been read already: `set value` gives another value")
        if pending.insn is None:
            raise UsageError("the instruction is not known, so nobody can tell where it ends")
        given = value if self.given is None else self.given
        width = pending.transfer.width
        check_fits(given, width, f"the {width} bytes read")
        self._tell("skip" if pending.transfer.direction == "write" else f"skip {given:#x}")
        behind = replace(
            self.stopped(), reason="completed", text="the instruction is done with", pending=None
        )
        self._go(Skip(given), Skipping(behind))
        return await self.wait()

    async def inject(self, name: str, fault: Inject) -> Halt | None:
        """Raise an exception in place of the instruction; the guest stands at its handler then."""
        check_no_interrupt(self.pending(), "exception")
        check_untouched(self.stopped(), "raise an exception")
        self._tell(f"fault {name}")
        self._go(fault, ToHandler())
        return await self.wait()

    # ---- registers

    async def registers(self) -> Mapping[str, int]:
        """Return the registers of the interrupted code, by GDB's names."""
        halt = self.stopped()
        raw = await self.session.registers()
        values = dict(raw.values)
        if halt.inside:
            told = self.session.outside(halt.vcpu)
            values.update((name, told[name]) for name in values.keys() & told.keys())
        values.update(zip(GPR, halt.cpu.gpr, strict=True))
        values.update(rip=halt.cpu.rip, eflags=halt.cpu.rflags)
        values.update(cs=halt.cpu.segments.cs, ss=halt.cpu.segments.ss)
        return values

    async def set_register(self, name: str, value: int) -> None:
        """Change a general-purpose register, ``rip`` or ``rflags`` of the interrupted code.

        The instruction starts over from it. Raises UsageError for another name.
        """
        halt = self.stopped()
        check_untouched(halt, f"set ${name}")
        check_fits(value, 8, f"the 8 bytes of {name}")
        cpu = with_register(halt.cpu, name, value)
        if cpu is None:
            raise UsageError(f"${name} cannot be set: {', '.join(GPR)}, rip and rflags can")
        self._tell(f"set ${name} {value:#x}", registers={name: value})
        if halt.waits:
            await self._again(halt, cpu)
        elif halt.reason == "completed":
            self._stand_with(cpu)
        else:
            register = "eflags" if name == "rflags" else name
            await self.session.change([SetRegister(register, value)])
            self._stand_with(cpu)

    async def rewrite(self, code: bytes) -> int:
        """Write other bytes where the instruction that waits lies, which starts over with them.

        What they leave of it becomes NOPs; return how many. They stay there. Raises UsageError
        where they do not fit.
        """
        pending, halt = self.pending(), self.stopped()
        check_rewrite(pending, halt, code)
        self._tell(f"rewrite {code.hex(' ')}")
        rest = len(pending.code) - len(code)
        await self.session.rewrite(halt.cpu.rip, code + _NOP * rest, halt.space)
        await self._again(halt, halt.cpu)
        return rest

    async def _again(self, halt: Halt, cpu: CpuState) -> None:
        # Stand again before whatever access the instruction makes now, if it makes one.
        behind = replace(
            halt,
            reason="completed",
            text="the instruction reaches no device now",
            pending=None,
            call=None,
        )
        self._go(Retry(cpu), Redoing(halt.text, behind))
        await self.wait()

    def _stand_with(self, cpu: CpuState) -> None:
        standing = self.custody.standing()
        self.custody.course = replace(standing, halt=replace(standing.halt, cpu=cpu))

    # ---- devices

    async def peek(self, physical: int, width: int) -> int:
        """Read a device at a physical address; width in bytes. The guest does not see it."""
        return await self._reach("read", physical, width, None) or 0

    async def poke(self, physical: int, width: int, value: int) -> None:
        """Write a device at a physical address."""
        await self._reach("write", physical, width, value)

    async def _reach(
        self, direction: Direction, physical: int, width: int, value: int | None
    ) -> int | None:
        halt = self.stopped()
        check_untouched(halt, "reach a device")
        if width not in (1, 2, 4, 8):
            raise UsageError(f"a device is reached with 1, 2, 4 or 8 bytes, not {width}")
        if value is not None:
            check_fits(value, width, f"{width} bytes")
        regions = self.session.view.regions
        region = regions.find(physical)
        if region is None:
            raise UsageError(f"no device answers at physical {physical:#x}: `info devices`")
        transfer = Transfer(
            direction=direction, linear=0, physical=physical, width=width, value=value,
            region=region, traced=True, ram=False,
        )  # fmt: skip
        waits = halt.reason in ("access", "call", "completed") and not halt.inside
        answer = await self.session.reach(transfer, halt.space, waits=waits)
        done = replace(transfer, value=answer) if direction == "read" else transfer
        verb = "peek" if direction == "read" else "poke"
        text = f"{verb} {region.name}+{physical - region.base:#x}"
        self._tell(text if value is None else f"{text} {value:#x}", [memory_access(done)])
        return answer

    async def choose(self, choice: Choice, text: str) -> None:
        """Trace these regions from here on; ``text`` is the command, for the trace."""
        await self.session.choose(choice, self.stopped().space)
        self._tell(text)

    # ---- looking

    def unwind(self) -> Stack:
        """Return the functions under way where the guest stands."""
        halt = self.stopped()
        return self.session.unwind(halt.cpu, halt.space)

    def symbol(self, linear: int) -> str | None:
        """Return the name of a linear address with its offset."""
        return self.session.names.lookup(linear, self.stopped().space)

    def mark(self, text: str) -> None:
        """Note something in the trace."""
        self._tell(f"mark {text}")
        self.session.mark(text)

    async def monitor(self, text: str) -> str:
        """Have QEMU's monitor carry out a command, and return what it says."""
        self._tell(f"monitor {text}")
        return await self.session.machine.dialogue.monitor(text)

    def _tell(
        self,
        text: str,
        accesses: Sequence[MemoryAccess] = (),
        registers: Mapping[str, int] | None = None,
    ) -> None:
        vcpu = self.halt.vcpu if self.halt is not None else 0
        done = UserRecord(
            time_ns=self.session.view.time_ns, vcpu=vcpu, text=text, accesses=list(accesses),
            registers=dict(registers or {}),
        )  # fmt: skip
        self.session.publish(done)


_NOP = b"\x90"
