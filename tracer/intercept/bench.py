"""A guest that is borrowed: instructions are tried on its own #VE handler, one after the other.

At a #VE of the kernel's, when that has come so far, the guest goes no further. Its handler is
entered again and again instead, each time from another instruction with registers of its own, in
room of vetrace's, and below what its stack holds. The instruction is followed by a TDCALL: where
the handler goes on behind it, that tells of it, with the registers. Where it gives up, a breakpoint
behind its last call does, before the kernel makes an oops of it. What the handler asks its host
meanwhile is answered with the trial's number. In the end stack and registers are put back, and the
#VE is raised that it all began with.

Interrupts are off all the while: nothing else of the guest runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from tracer.access.space import AddressSpace
from tracer.access.stop import Stopped
from tracer.access.vcpu import Change, SetMemory, SetRegister
from tracer.access.want import DeleteBreakpoint, Registers, SetBreakpoint, WriteCode
from tracer.confidential import tdx_module
from tracer.confidential.expectation import Came, Expected, foretold
from tracer.confidential.findings import Findings
from tracer.confidential.handler import Profile
from tracer.confidential.request import Give, Mmio
from tracer.confidential.tdx_module import EPT_VIOLATION
from tracer.confidential.tdx_state import VeInfo
from tracer.confidential.trial import Ground, Trial, trials
from tracer.errors import InterceptError
from tracer.intercept.fault import Fault
from tracer.intercept.firmware import Intercepted
from tracer.intercept.gate import PageFaultGate
from tracer.intercept.journal import Journal
from tracer.intercept.spill import SPILL_SIZE, pack_spill
from tracer.intercept.stub import CALLED
from tracer.intercept.trap import GoOn, Handled
from tracer.intercept.trust_domain import CALL, TrustDomain
from tracer.x86.state import GPR, MAX_INSTRUCTION, RSP, VIRTUALIZATION_VECTOR, PageFaultCode

_BORROWED_AT = 200
"""How many #VE there have to have been: so many come early, before the first driver is probed."""

_DEVICE, _USER, _PHYSICAL = 0xFFFF_C900_0010_0000, 0x7F00_0000_0000, 0xFE00_0000
"""Operands are here, and the guest is told so. Nothing has to be there, as its handler looks no
address up."""

_BELOW, _STACK, _ENOUGH = 0x700, 1 << 14, 6000
_ROOM = 32
assert MAX_INSTRUCTION + len(CALL) <= _ROOM - 4


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
    # The trial that is under way.
    trial: Trial
    expected: Expected
    physical: int
    asked: list[Mmio]


@dataclass(slots=True)
class _Borrowed:
    # The stop that it was borrowed at, and where the next trial goes.
    fault: Fault
    spilled: bytes
    gate: PageFaultGate
    code: int
    returned: int
    breakpoint: int
    left: Iterator[Trial]
    latest: Fault
    under: _Under | None = None


class Bench:
    """Stand before a guest's TDX module: borrow the guest once, hand all else on.

    ``findings`` tells what came of the trials.
    """

    def __init__(self, domain: TrustDomain, journal: Journal, wanted: Wanted) -> None:
        self.findings = Findings(wanted.profile)
        self.done = False
        self._wanted = wanted
        self._domain = domain
        self._journal = journal
        self._borrowed: _Borrowed | None = None

    # ---- stops at the stub

    async def take(self, fault: Fault, gate: PageFaultGate) -> Intercepted | None:
        """Take a stop at the stub; return None for one that is vetrace's own business."""
        borrowed = self._borrowed
        if borrowed is None:
            if self.done or not self._may_begin(fault):
                return await self._domain.take(fault, gate)
            return Intercepted(tuple(await self._begin(fault, gate)))
        if fault.spill.frame.error_code != CALLED:
            raise InterceptError(
                f"a page fault at linear {fault.spill.cr2:#x} (RIP {fault.cpu.rip:#x}) while the "
                "guest's handler was tried"
            )
        borrowed.latest = fault
        under = borrowed.under
        assert under is not None
        begin = borrowed.code
        if begin <= fault.cpu.rip < begin + _ROOM:
            frame = fault.spill.frame
            cpu = replace(under.trial.cpu, gpr=fault.spill.gpr, rip=frame.rip, rflags=frame.rflags)
            self._conclude(borrowed, Came(tuple(under.asked), cpu))
            return Intercepted(tuple(await self._next(borrowed)))
        self._answer(under, fault)
        return Intercepted(tuple(fault.write_back()))

    def _may_begin(self, fault: Fault) -> bool:
        # Tells whether it is a #VE of the kernel's, late enough, with room below on its stack.
        frame, leaf = fault.spill.frame, fault.space.leaf(fault.spill.cr2)
        return (
            self._journal.counts["ve"] >= _BORROWED_AT
            and frame.error_code & (CALLED | PageFaultCode.RSVD) == PageFaultCode.RSVD
            and leaf is not None
            and fault.space.paging.shares(leaf)
            and not fault.space.regions.is_ram(leaf.translate(fault.spill.cr2))
            and fault.cpu.cpl == 0
            and (fault.stack - _BELOW) % _STACK > _ENOUGH
        )

    def _answer(self, under: _Under, fault: Fault) -> None:
        # Answers a call of the handler's, the device's part with the trial's own number.
        registers = dict(zip(GPR, fault.spill.gpr, strict=True))
        done = tdx_module.answer(self._domain.state, fault.vcpu, registers)
        if done.event.waits and isinstance(done.event.request, Mmio):
            wanted = done.event.request
            under.asked.append(wanted)
            done = tdx_module.reply(done.state, done.event, Give(under.trial.answer))
        self._domain.state = done.state
        cpu = fault.cpu
        gpr = tuple(done.changes.get(name, value) for name, value in zip(GPR, cpu.gpr, strict=True))
        fault.cpu = replace(cpu, gpr=gpr, rip=cpu.rip + len(CALL))

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
        """Take note of a handler that gave up, and go on with the next trial."""
        borrowed = self._borrowed
        assert borrowed is not None and borrowed.under is not None
        registers = await Registers()
        if registers["rax"] & 0xFF:
            return GoOn()
        self._conclude(borrowed, Came(tuple(borrowed.under.asked), None))
        return GoOn(await self._next(borrowed))

    # ---- from one trial to the next

    async def _begin(self, fault: Fault, gate: PageFaultGate) -> list[Change]:
        room = gate.room
        if len(room) < _ROOM:
            raise InterceptError("the guest has no room of its own for instructions to try")
        code = room.stop - _ROOM & -16
        returned = self._wanted.behind(fault.space)
        stack = fault.stack - _BELOW & -256
        ground = Ground(code, stack, _DEVICE, _USER)
        self._borrowed = borrowed = _Borrowed(
            fault,
            fault.space.read(fault.stack, SPILL_SIZE),
            gate,
            code,
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
        expected = foretold(trial, self._wanted.profile)
        physical = _PHYSICAL | trial.linear & 0xF_FFFF
        borrowed.under = _Under(trial, expected, physical, [])
        # A NOP behind keeps what QEMU translates ahead an instruction.
        code = trial.insn.code + CALL
        await WriteCode(borrowed.code, code.ljust(_ROOM - 4, b"\x90"))
        latest, domain = borrowed.latest, self._domain
        info = VeInfo(EPT_VIOLATION, 1, trial.linear, physical | domain.state.shared_bit)
        domain.state = domain.state.with_pending(latest.vcpu, info)
        before = borrowed.fault.spill
        frame = replace(
            before.frame, rip=borrowed.code, rflags=trial.cpu.rflags, rsp=trial.cpu.gpr[RSP]
        )
        spill = pack_spill(before, trial.cpu.gpr, frame)
        place = await borrowed.gate.raising(latest.space, latest.vcpu, VIRTUALIZATION_VECTOR)
        return [
            SetMemory(latest.stack, spill),
            SetRegister("rsp", latest.stack),
            SetRegister("rip", place),
        ]

    def _conclude(self, borrowed: _Borrowed, came: Came) -> None:
        under = borrowed.under
        assert under is not None
        self.findings.add(under.trial, under.expected, came, under.physical)
        self._journal.counts["tried"] += 1

    async def _give_back(self, borrowed: _Borrowed) -> list[Change]:
        # Leaves everything as it was, and raises the #VE that the guest was borrowed at.
        self._borrowed, self.done = None, True
        fault = borrowed.fault
        await DeleteBreakpoint(borrowed.breakpoint)
        self._domain.state = self._domain.state.with_pending(fault.vcpu, None)
        raised = await self._domain.take(fault, borrowed.gate)
        assert raised is not None
        return [
            SetMemory(fault.stack, borrowed.spilled),
            SetRegister("rsp", fault.stack),
            *raised.changes,
        ]
