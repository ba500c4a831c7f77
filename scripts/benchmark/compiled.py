"""One compiled access, beside a bare fault in the same guest and a stop through GDB."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from scripts.benchmark.qemu_clock import QemuClock
from scripts.benchmark.result import Result
from tracer.access.space import AddressSpace
from tracer.access.vcpu import Change, RegisterFile, SetRegister
from tracer.access.want import MakeChanges, Register, Registers, Resume, RunAlone
from tracer.compiled.layout import DISTANCE, SITES, SLOTS
from tracer.intercept.below.firmware import Intercepted
from tracer.intercept.entry.post import Post
from tracer.intercept.interceptor import Interceptor
from tracer.intercept.ring.sites import CompiledSites
from tracer.launch.plan import Plan
from tracer.launch.start import launch
from tracer.x86.paging import PhysicalMemory
from tracer.x86.state import PAGE_SIZE

INSTRUCTIONS = 100
"""Instructions of the guest's own that a compiled access may take beyond the native one."""
FAULTS = {False: 2.5, True: 2.0}
"""Bare faults that a compiled access may cost in QEMU's CPU time: under icount, in real time."""
STOPS = 1000
"""Compiled accesses, in real time, that a stop through GDB has to cost in wall time at least."""

_LAPS = 8000  # of a loop, so that its records have room
_ROUNDS = 9
_STOPS = 30
_DEVICE = "hpet"
_NS_EACH = 2  # of guest time an instruction under icount
_PLACE = SITES - 2 * PAGE_SIZE  # in the block: room for thunks that no guest has come to
_JUMP = 17  # of the stub's entry, before the address that it jumps to

_COUNTER = b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0"  # rdtsc; shl rdx, 32; or rax, rdx
_ACCESS = b"\x8b\x03"  # mov eax, [rbx]
_LOOP = b"\xff\xc9\x75"  # dec ecx; jnz
# push rax ... r15 but rsp; pop them; add qword ptr [rsp + 8], the access's length; iretq
_BARE = (
    bytes.fromhex("5051525355565741504151415241534154415541564157")
    + bytes.fromhex("415f415e415d415c415b415a415941585f5e5d5b5a5958")
    + b"\x48\x83\x44\x24\x08" + bytes([len(_ACCESS)]) + b"\x48\x83\xc4\x08\x48\xcf"
)  # fmt: skip


@dataclass(slots=True)
class _Laps:
    # One lap of a loop costs this in each round: QEMU's CPU time and wall time in seconds, guest
    # time in the counter's ticks.
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    ticks: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _Figures:
    # Laps have the loop's name; a stop is in seconds of wall time.
    laps: dict[str, _Laps] = field(default_factory=dict)
    stops: list[float] = field(default_factory=list)

    def above(self, name: str, base: str, of: Callable[[_Laps], list[float]]) -> float:
        """Return the median over rounds of what a lap of one loop costs above another's."""
        return median(self._above(name, base, of))

    def ratio(self, name: str, other: str, base: str) -> float:
        """Return the same of QEMU's CPU time as a ratio of two loops, round by round."""
        above = self._above(name, base, lambda laps: laps.cpu)
        least = self._above(other, base, lambda laps: laps.cpu)
        return median(cost / fault for cost, fault in zip(above, least, strict=True))

    def _above(self, name: str, base: str, of: Callable[[_Laps], list[float]]) -> list[float]:
        pairs = zip(of(self.laps[name]), of(self.laps[base]), strict=True)
        return [each - least for each, least in pairs]


class _Loops(Interceptor):
    # The vCPU makes loops of its own at the first access to a device that takes a stop.

    def __init__(
        self, inner: Interceptor, sites: CompiledSites, memory: PhysicalMemory, clock: QemuClock
    ) -> None:
        self.figures = _Figures()
        self._inner = inner
        self._sites = sites
        self._memory = memory
        self._clock = clock
        self._block = sites.window.block + DISTANCE
        self._physical = sites.window.physical

    async def intercept(self, vcpu: int, gate: Post) -> Intercepted:
        _, space = await self._inner.look(vcpu)
        registers = await Registers()
        leaf = space.leaf(registers["cr2"])
        region = None if leaf is None else space.regions.find(leaf.translate(registers["cr2"]))
        if not self.figures.stops and region is not None and region.name == _DEVICE:
            await self._measure(vcpu, gate, registers, space)
            await MakeChanges([SetRegister(name, registers[name]) for name in _CHANGED])
        return await self._inner.intercept(vcpu, gate)

    async def _measure(
        self, vcpu: int, gate: Post, registers: RegisterFile, space: AddressSpace
    ) -> None:
        page = registers["cr2"] & -PAGE_SIZE
        leaf = space.leaf(page)
        assert leaf is not None
        native = self._sites.window.base + leaf.translate(page)
        begin, end = self._write(0, _ACCESS, gate.stub.bell)
        empty, empty_end = self._write(1, b"\x66\x90", gate.stub.bell)
        self._put(3, _BARE)
        ways = {
            "empty": (empty, empty_end, page),
            "native": (begin, end, native),
            "fault": (begin, end, page),
            "compiled": (begin, end, page),
        }
        # The instruction is compiled after its first access.
        await self._stops(vcpu, gate, begin, page, 1)
        jump = space.leaf(gate.stub.entry + _JUMP)
        assert jump is not None
        there = jump.translate(gate.stub.entry + _JUMP)
        fast = self._memory.read(there, 8)
        for _ in range(_ROUNDS):
            for name, (linear, stop, at) in ways.items():
                if name == "fault":
                    self._memory.write(there, struct.pack("<Q", self._at(3)))
                await self._lap(name, linear, stop, at)
                self._memory.write(there, fast)
                self._sites.drain()
        self._sites.shut()
        self.figures.stops = await self._stops(vcpu, gate, begin, page, _STOPS)
        self._sites.open()

    async def _lap(self, name: str, linear: int, end: int, at: int) -> None:
        laps = self.figures.laps.setdefault(name, _Laps())
        cpu, wall = self._clock.seconds(), time.perf_counter()
        await RunAlone(end, _start(linear, at, _LAPS))
        laps.wall.append((time.perf_counter() - wall) / _LAPS)
        laps.cpu.append((self._clock.seconds() - cpu) / _LAPS)
        laps.ticks.append((await Register("r9") - await Register("r8")) / _LAPS)

    async def _stops(self, vcpu: int, gate: Post, linear: int, at: int, count: int) -> list[float]:
        # Makes accesses that take a stop each; returns how long each took.
        found: list[float] = []
        changes: tuple[Change, ...] = tuple(_start(linear, at, count))
        began = time.perf_counter()
        for _ in range(count):
            await Resume(changes)  # GDB has to know of a stop that is acted on
            changes = (await self._inner.intercept(vcpu, gate)).changes
            now = time.perf_counter()
            found.append(now - began)
            began = now
        await Resume(changes)
        return found

    def _write(self, slot: int, access: bytes, bell: int) -> tuple[int, int]:
        # Writes a loop; returns where it begins, and where it stops behind the bell.
        code = _COUNTER + b"\x49\x89\xc0"  # mov r8, rax
        body = access + _LOOP
        code += body + struct.pack("<b", -len(body) - 1) + _COUNTER
        code += b"\x49\x89\xc1\x48\xa1" + struct.pack("<Q", bell)  # mov r9, rax; mov rax, [bell]
        end = len(code)
        self._put(slot, code + b"\xf4")
        return self._at(slot), self._at(slot) + end

    def _put(self, slot: int, code: bytes) -> None:
        self._memory.write(self._physical + _PLACE + 256 * slot, code)

    def _at(self, slot: int) -> int:
        return self._block + _PLACE + 256 * slot


_CHANGED = ("rip", "rax", "rbx", "rcx", "rdx", "r8", "r9", "rsp", "eflags", "cr2")


def _start(linear: int, at: int, laps: int) -> list[SetRegister]:
    return [SetRegister("rip", linear), SetRegister("rbx", at), SetRegister("rcx", laps)]


def cost_of_a_compiled_access() -> Result:
    """Compare a compiled access with a bare fault and with a stop through GDB."""
    rows: list[tuple[str, str]] = []
    kept = True
    for realtime in (False, True):
        figures = asyncio.run(_boot(realtime))
        name = "real time" if realtime else "icount"
        native, fault, compiled = (
            figures.above(loop, base, lambda laps: laps.cpu)
            for loop, base in (("native", "empty"), ("fault", "empty"), ("compiled", "empty"))
        )
        ratio = figures.ratio("compiled", "fault", "empty")
        kept = kept and ratio <= FAULTS[realtime]
        rows += [
            (f"{name}: native access", f"{native * 1e6:8.3f} us of QEMU's CPU time"),
            ("  bare fault", f"{fault * 1e6:8.3f} us"),
            ("  compiled access", f"{compiled * 1e6:8.3f} us"),
            ("  compiled : bare fault", f"{ratio:8.2f}      (limit {FAULTS[realtime]})"),
        ]
        if realtime:
            wall = figures.above("compiled", "empty", lambda laps: laps.wall)
            stop = median(figures.stops)
            kept = kept and stop / wall >= STOPS
            rows += [
                ("  stop through GDB", f"{stop * 1e6:8.0f} us of wall time"),
                ("  stop : compiled", f"{stop / wall:8.0f}      (at least {STOPS})"),
            ]
        else:
            own = figures.above("compiled", "native", lambda laps: laps.ticks) / _NS_EACH
            kept = kept and own <= INSTRUCTIONS
            rows.append(
                ("  of the guest's time", f"{own:8.0f} instructions (limit {INSTRUCTIONS})")
            )
    return Result(
        f"Loops of {_LAPS} reads of the HPET by one vCPU of the default guest, {_ROUNDS} of each "
        "kind in turn, medians, above a loop without a read. Native: past the poison. Bare fault: "
        "its handler pushes fifteen registers, pops them, and goes on with IRETQ. Stop: through "
        "GDB and the emulator.",
        tuple(rows),
        kept=kept,
    )


async def _boot(realtime: bool) -> _Figures:
    async with launch(Plan(realtime=realtime)) as session:
        await session.reach_entry()
        await session.trap(ring=SLOTS)
        sites = session.loop.sites
        assert sites is not None
        bell = session.traced.bell
        loops = bell.interceptor = _Loops(
            bell.interceptor, sites, session.machine.memory, QemuClock()
        )
        await session.run()
    return loops.figures
