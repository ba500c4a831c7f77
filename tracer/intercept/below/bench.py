"""A guest that is borrowed: instructions are tried on its own handler, one after the other.

At a device access of the kernel's, when that has come so far, the guest goes no further. Its
handler is entered again and again instead, each time from another instruction with registers of
its own, in room of vetrace's, and below what its stack holds. The instruction is followed by one
that calls the host: where the handler goes on behind it, that tells of it, with the registers.
Where it gives up, a breakpoint behind its last call does, before the kernel makes an oops of it, or
asks for its end. It is told that all is well, and goes back to where it came from: there the call
is by then. What it asks its host meanwhile is answered with the trial's number. In the end stack
and registers are put back, and the access is handled that it all began with.

Interrupts are off all the while: nothing else of the guest runs.

How a guest is told of an access, and how it asks, differs by its kind: :class:`Trialable`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from tracer.access.space import AddressSpace
from tracer.access.stop import Stopped
from tracer.access.vcpu import Change, SetMemory, SetRegister
from tracer.access.want import DeleteBreakpoint, Registers, SetBreakpoint, WriteCode
from tracer.confidential.expectation import Came, Expected, foretold
from tracer.confidential.findings import Findings
from tracer.confidential.handler import Profile
from tracer.confidential.request import Mmio
from tracer.confidential.trial import Ground, Trial, trials
from tracer.errors import InterceptError
from tracer.intercept.below.firmware import Firmware, Intercepted
from tracer.intercept.entry.gate import PageFaultGate
from tracer.intercept.entry.spill import SPILL_SIZE, pack_spill, unpack_spill
from tracer.intercept.entry.stub import CALLED
from tracer.intercept.fault import Fault
from tracer.intercept.journal import Journal
from tracer.intercept.trap import GoOn, Handled
from tracer.x86.state import MAX_INSTRUCTION, RSP

BORROWED_AT = 200
"""Accesses that there have to have been: so many come early, before the first driver is probed."""

_BELOW, _STACK, _ENOUGH = 0x700, 1 << 14, 6000
_ROOM = 32
_MOST_CALL = 4
assert MAX_INSTRUCTION + _MOST_CALL <= _ROOM - 4


class Trialable(Protocol):
    """Tell a guest of one kind of an access that its handler is tried with, and hear it ask.

    ``call`` is the instruction by which it calls its host, ``counted`` what its accesses so far are
    counted as.
    """

    call: bytes
    counted: str

    def meets(self, fault: Fault) -> bool:
        """Tell whether the guest would be told of a fault, and has none of which it has not asked.

        The fault is no call.
        """
        ...

    def ground(self, fault: Fault, code: int, stack: int) -> Ground:
        """Return where there is room for trials, at the fault that the guest is borrowed at."""
        ...

    def follows(self, trial: Trial, fault: Fault) -> bool:
        """Tell whether a handler may come upon a device itself, for a trial."""
        ...

    async def tell(self, fault: Fault, gate: PageFaultGate, physical: int) -> list[Change]:
        """Tell the guest of an access: the vCPU leaves the stub for its handler.

        ``fault`` is what is spilled, ``physical`` where its CR2 is.
        """
        ...

    def answer(self, fault: Fault, value: int) -> tuple[Mmio | None, list[Change]]:
        """Answer a call, with ``value`` one for an access, which is returned as well."""
        ...

    def leave(self) -> None:
        """Put back what was made for trials."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """Say what is to be tried: so many instructions of a seed, held to a profile.

    ``behind`` returns where the guest's handler has come to its end, and AL tells with what.
    """

    profile: Profile
    seed: int
    count: int
    behind: Callable[[AddressSpace], int]


@dataclass(slots=True)
class _Under:
    # The trial that is under way; ``rejected`` once its handler gave up.
    trial: Trial
    expected: Expected
    asked: list[Mmio]
    rejected: bool = False


@dataclass(slots=True)
class _Borrowed:
    # The stop that it was borrowed at, and where the next trial goes.
    fault: Fault
    spilled: bytes
    gate: PageFaultGate
    ground: Ground
    returned: int
    breakpoint: int
    left: Iterator[Trial]
    latest: Fault
    under: _Under | None = None


class Bench:
    """Stand before what a guest has below it: borrow the guest once, hand all else on.

    ``findings`` tells what came of the trials.
    """

    def __init__(self, below: Firmware, kind: Trialable, journal: Journal, wanted: Wanted) -> None:
        self.findings = Findings(wanted.profile)
        self.done = False
        self._wanted = wanted
        self._below = below
        self._kind = kind
        self._journal = journal
        self._borrowed: _Borrowed | None = None

    # ---- stops at the stub

    async def take(self, fault: Fault, gate: PageFaultGate) -> Intercepted | None:
        """Take a stop at the stub; return None for one that is vetrace's own business."""
        borrowed = self._borrowed
        if borrowed is None:
            if self.done or not self._may_begin(fault):
                return await self._below.take(fault, gate)
            return Intercepted(tuple(await self._begin(fault, gate)))
        under = borrowed.under
        assert under is not None
        if fault.spill.frame.error_code != CALLED:
            return Intercepted(tuple(await self._faulted(borrowed, under, fault)))
        borrowed.latest = fault
        begin = borrowed.ground.code
        if begin <= fault.cpu.rip < begin + _ROOM:
            frame = fault.spill.frame
            cpu = replace(under.trial.cpu, gpr=fault.spill.gpr, rip=frame.rip, rflags=frame.rflags)
            self._conclude(borrowed, Came(tuple(under.asked), None if under.rejected else cpu))
            return Intercepted(tuple(await self._next(borrowed)))
        asked, changes = self._kind.answer(fault, under.trial.answer)
        if asked is not None:
            under.asked.append(asked)
        return Intercepted(tuple(changes))

    def _may_begin(self, fault: Fault) -> bool:
        # Tells whether it is an access of the kernel's, late enough, with room below on its stack.
        return (
            self._journal.counts[self._kind.counted] >= BORROWED_AT
            and fault.spill.frame.error_code != CALLED
            and fault.cpu.cpl == 0
            and (fault.stack - _BELOW) % _STACK > _ENOUGH
            and self._kind.meets(fault)
        )

    async def _faulted(self, borrowed: _Borrowed, under: _Under, fault: Fault) -> list[Change]:
        # A handler that makes the access itself comes upon the device in its turn.
        cr2 = fault.spill.cr2
        if not self._kind.follows(under.trial, fault):
            raise InterceptError(
                f"a page fault at linear {cr2:#x} (RIP {fault.cpu.rip:#x}) while the guest's "
                "handler was tried"
            )
        return await self._kind.tell(fault, borrowed.gate, borrowed.ground.translate(cr2))

    # ---- the stop where the handler gives up

    def number_at(self, linear: int | None) -> int | None:
        """Return the number of the breakpoint at a linear address, if there is one."""
        borrowed = self._borrowed
        here = borrowed is not None and borrowed.returned == linear
        return borrowed.breakpoint if borrowed is not None and here else None

    def claims(self, stop: Stopped) -> bool:
        """Tell whether the guest's handler has returned."""
        return self._borrowed is not None and stop.breakpoint == self._borrowed.breakpoint

    async def handle(self, stop: Stopped) -> Handled:
        """Take note of a handler that gave up, and have it go back to where it came from."""
        borrowed = self._borrowed
        assert borrowed is not None and borrowed.under is not None
        rax = (await Registers())["rax"]
        if rax & 0xFF:
            return GoOn()
        if borrowed.under.rejected:
            raise InterceptError("the guest's handler gave up twice on one instruction")
        borrowed.under.rejected = True
        await WriteCode(borrowed.ground.code, self._kind.call)
        return GoOn([SetRegister("rax", rax | 1)])

    # ---- from one trial to the next

    async def _begin(self, fault: Fault, gate: PageFaultGate) -> list[Change]:
        room = gate.room
        if len(room) < _ROOM:
            raise InterceptError("the guest has no room of its own for instructions to try")
        returned = self._wanted.behind(fault.space)
        code, stack = room.stop - _ROOM & -16, fault.stack - _BELOW & -256
        ground = self._kind.ground(fault, code, stack)
        self._borrowed = borrowed = _Borrowed(
            fault,
            fault.space.read(fault.stack, SPILL_SIZE),
            gate,
            ground,
            returned,
            await SetBreakpoint(returned),
            trials(self._wanted.seed, self._wanted.count, ground),
            fault,
        )
        return await self._next(borrowed)

    async def _next(self, borrowed: _Borrowed) -> list[Change]:
        trial = next(borrowed.left, None)
        if trial is None:
            return await self._give_back(borrowed)
        borrowed.under = _Under(trial, foretold(trial, self._wanted.profile), [])
        ground = borrowed.ground
        # A NOP behind keeps what QEMU translates ahead an instruction.
        code = trial.insn.code + self._kind.call
        await WriteCode(ground.code, code.ljust(_ROOM - 4, b"\x90"))
        latest, before = borrowed.latest, borrowed.fault.spill
        frame = replace(
            before.frame, rip=ground.code, rflags=trial.cpu.rflags, rsp=trial.cpu.gpr[RSP]
        )
        spilled = pack_spill(before, trial.cpu.gpr, frame)
        spill = replace(unpack_spill(spilled), cr2=trial.linear)
        made = replace(latest, spill=spill, cpu=trial.cpu)
        told = await self._kind.tell(made, borrowed.gate, ground.translate(trial.linear))
        return [SetMemory(latest.stack, spilled), SetRegister("rsp", latest.stack), *told]

    def _conclude(self, borrowed: _Borrowed, came: Came) -> None:
        under = borrowed.under
        assert under is not None
        self.findings.add(under.trial, under.expected, came, borrowed.ground.translate)
        self._journal.counts["tried"] += 1

    async def _give_back(self, borrowed: _Borrowed) -> list[Change]:
        # Leaves everything as it was, and has the access handled that the guest was borrowed at.
        self._borrowed, self.done = None, True
        fault = borrowed.fault
        await DeleteBreakpoint(borrowed.breakpoint)
        self._kind.leave()
        handled = await self._below.take(fault, borrowed.gate)
        assert handled is not None
        return [
            SetMemory(fault.stack, borrowed.spilled),
            SetRegister("rsp", fault.stack),
            *handled.changes,
        ]
