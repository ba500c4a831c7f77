"""One emulated access, beside the least that a stop through the same GDB can cost."""

from __future__ import annotations

import asyncio
import time
from statistics import median

from scripts.benchmark.result import Result, spread
from tracer.access.vcpu import Change, SetRegister
from tracer.access.want import DeleteBreakpoint, Resume, SetBreakpoint
from tracer.intercept.below.firmware import Intercepted
from tracer.intercept.entry.post import Post
from tracer.intercept.interceptor import Interceptor
from tracer.launch.plan import Plan
from tracer.launch.start import launch
from tracer.session.session import Session
from tracer.trace.record import Intercept, Record

LIMIT = 2.0
"""How many bare stops the median emulated access may cost."""

_NEAR_NS = 100_000
_LAPS = 10
_EVERY = 50
_RING_SIZE = 7  # mov rax, [rip + bell], before the stub's `stop`
_TEST_SIZE = 4  # test byte ptr [rsp], RSVD, at a door of the stub that is open


class _Bare(Interceptor):
    # Before some of the intercepts, makes bare stops at the same place: so both meet the same
    # guest and the same load of the host.

    def __init__(self, inner: Interceptor) -> None:
        self.at_bell: list[float] = []
        self.at_breakpoint: list[float] = []
        self.seen = 0
        self._inner = inner

    async def intercept(self, vcpu: int, gate: Post) -> Intercepted:
        stub = gate.stub
        self.seen += 1
        if self.seen == 1:
            # Once only: each such stop makes QEMU forget the guest's translated code.
            number = await SetBreakpoint(stub.doors[0] + _TEST_SIZE)
            for _ in range(_EVERY):
                self.at_breakpoint += await _laps(SetRegister("rip", stub.doors[0]))
            await DeleteBreakpoint(number)
        if self.seen % _EVERY == 1:
            self.at_bell += await _laps(SetRegister("rip", stub.stop - _RING_SIZE))
        return await self._inner.intercept(vcpu, gate)


class _Stopwatch:
    # A subscriber: from one record to the next is one whole access, the write-back, the going on
    # and the stop included. Of accesses that are near in guest time next to nothing is the guest.

    def __init__(self, session: Session, bare: _Bare) -> None:
        self.lapic: list[float] = []
        self.others: list[float] = []
        self._session = session
        self._bare = bare
        self._then, self._guest_then, self._stops_then = 0.0, 0, 0

    def __call__(self, record: Record) -> None:
        if not isinstance(record, Intercept):
            return
        now, stops = time.perf_counter(), self._session.counts["stops"]
        alone = stops - self._stops_then == 1 and self._bare.seen % _EVERY != 1
        if alone and record.time_ns - self._guest_then <= _NEAR_NS:
            on_vcpu = any(access.region == "lapic" for access in record.accesses)
            (self.lapic if on_vcpu else self.others).append(now - self._then)
        self._then, self._guest_then, self._stops_then = now, record.time_ns, stops


def cost_of_an_access() -> Result:
    """Compare an emulated access with a bare stop, set RIP, continue."""
    return asyncio.run(_measure())


async def _measure() -> Result:
    async with launch(Plan()) as session:
        await session.reach_entry()
        await session.trap()
        bare = _Bare(session.traced.bell.interceptor)
        session.traced.bell.interceptor = bare
        watch = _Stopwatch(session, bare)
        session.subscribers.append(watch)
        await session.run()
    least = median(bare.at_bell)
    ratio = median([*watch.others, *watch.lapic]) / least
    return Result(
        "Wall time in one boot of the default guest, through one GDB with every trap set. Bare: "
        "the vCPU stands in the fault stub, GDB sets RIP back by one instruction and continues, "
        f"the guest stops again; {_LAPS} times at every {_EVERY}th access. Emulated: from one "
        f"recorded access to the next, of accesses at most {_NEAR_NS // 1000} us of guest time "
        "apart: write-back, continue, fault, stop, decode, emulate, device, record. The vCPU "
        "itself carries out an access to its LAPIC, a store on its way back to the interrupted "
        "code, a load with a second stop.",
        (
            ("bare stop, set RIP, continue", spread(bare.at_bell)),
            ("the same at an execution breakpoint", spread(bare.at_breakpoint)),
            ("emulated access", spread([*watch.others, *watch.lapic])),
            ("  to the LAPIC", spread(watch.lapic)),
            ("  to any other device", spread(watch.others)),
            ("emulated : bare", f"{ratio:6.2f}      (limit {LIMIT:.0f})"),
            ("  to the LAPIC", f"{median(watch.lapic) / least:6.2f}"),
            ("  to any other device", f"{median(watch.others) / least:6.2f}"),
        ),
        kept=ratio <= LIMIT,
    )


async def _laps(change: Change) -> list[float]:
    durations = []
    for _ in range(_LAPS):
        began = time.perf_counter()
        await Resume([change])
        durations.append(time.perf_counter() - began)
    return durations
