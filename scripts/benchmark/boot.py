"""Boots of Debian's kernels, traced and untraced."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median

from scripts.benchmark.result import Result
from tracer.compiled.layout import SLOTS
from tracer.confidential.kind import Kind
from tracer.guest.software import Software
from tracer.host.backports import backports
from tracer.host.package import FLAVOURS, fetch_kernel, newest_kernel
from tracer.launch.plan import USUAL_INPUTS, Plan, parse_inputs
from tracer.launch.start import launch

_FLAVOURS = {"full": FLAVOURS["full"], "real-time": FLAVOURS["rt"]}
_WORST = 2.0  # what a flavour's ratio may be to the default guest's


CPU, WALL = 1.05, 1.10
"""Untraced boots that one by compiled sites may cost: in QEMU's CPU time, and in wall time."""
TDX = 1.15
"""Untraced boots as an ordinary guest that one as a TDX guest may cost, in QEMU's CPU time."""
SEV = 4.0
"""The same as an SEV-ES guest, each of whose accesses takes two stops."""
NESTED = 1.35
"""Untraced boots that one by nested traps may cost in QEMU's CPU time."""
INPUTS, CHAINED = 1.15, 1.20
"""Untraced boots that one with all inputs may cost in QEMU's CPU time, without call chains and
with."""
COVERED = 0.95
"""Part of the accesses to the devices of a full flavour that compiled sites make at least."""

_PAIRS = 5
_SLOW_PAIRS = 3
_DRIVERS = ("e1000e", "ahci", "xhci-pci")
_DEVICES = ("-device", "e1000e", "-device", "ich9-ahci,id=disks", "-device", "qemu-xhci,id=usb")


@dataclass(frozen=True, slots=True)
class _Run:
    # Seconds from the start of QEMU to power-off: its user and system time, and wall time.
    cpu: float
    wall: float
    counts: Counter[str]


@dataclass(frozen=True, slots=True)
class _Pair:
    # Seconds of wall time from the kernel's entry to power-off.
    untraced: float
    traced: float
    accesses: int
    hooks: int

    @property
    def ratio(self) -> float:
        return self.traced / self.untraced


def cost_of_a_compiled_boot() -> Result:
    """Compare a boot by compiled sites with an untraced one."""
    untraced, traced, cpu, wall = _in_turn(Plan(), Plan(), _PAIRS)
    counts = traced.counts
    return Result(
        f"The default guest from the start of QEMU to power-off, {_PAIRS} times untraced and by "
        "compiled sites in turn, under icount, the trace kept nowhere; medians of the ratios.",
        (
            ("untraced", f"{untraced.cpu:6.2f} s of QEMU's CPU time, {untraced.wall:6.2f} s"),
            ("compiled", f"{traced.cpu:6.2f} s of QEMU's CPU time, {traced.wall:6.2f} s"),
            ("compiled : untraced, CPU", f"{median(cpu):6.2f}      (limit {CPU}; {_all(cpu)})"),
            ("compiled : untraced, wall", f"{median(wall):6.2f}      (limit {WALL}; {_all(wall)})"),
            ("stops", f"{counts['stops']} of them {counts['hooks']} for mappings"),
            ("accesses", f"{counts['accesses']}, {counts['compiled']} of them compiled"),
        ),
        kept=median(cpu) <= CPU and median(wall) <= WALL,
    )


def cost_of_a_tdx_boot() -> Result:
    """Compare a TDX guest's boot with that of the same kernel as an ordinary guest, untraced."""
    archives = [backports()]
    kernel = fetch_kernel(newest_kernel(archives=archives), archives=archives)
    plain, tdx, ratios, _ = _in_turn(
        Plan(kernel=kernel), Plan(kernel=kernel, guest=Kind.TDX), _PAIRS
    )
    counts = tdx.counts
    return Result(
        f"The cloud kernel of Debian's backports, {_PAIRS} times untraced as an ordinary guest and "
        "as a traced TDX guest in turn, under icount, the trace kept nowhere; medians of the "
        "ratios.",
        (
            ("ordinary, untraced", f"{plain.cpu:6.2f} s of QEMU's CPU time"),
            ("TDX, traced", f"{tdx.cpu:6.2f} s of QEMU's CPU time"),
            ("TDX : ordinary", f"{median(ratios):6.2f}      (limit {TDX}; {_all(ratios)})"),
            ("stops", f"{counts['stops']} of them {counts['hooks']} for mappings"),
            ("accesses", f"{counts['accesses']}, {counts['guest']} of them by hypercall"),
        ),
        kept=median(ratios) <= TDX,
    )


def cost_of_an_sev_es_boot() -> Result:
    """Compare an SEV-ES guest's boot, a stop an access and more, with an ordinary, untraced one."""
    plain, sev, cpu, wall = _in_turn(Plan(), Plan(guest=Kind.SEV_ES), _SLOW_PAIRS)
    counts = sev.counts
    return Result(
        f"The default guest, {_SLOW_PAIRS} times untraced as an ordinary guest and as a traced "
        "SEV-ES guest in turn, under icount, the trace kept nowhere; medians of the ratios.",
        (
            ("ordinary, untraced", f"{plain.cpu:6.2f} s of QEMU's CPU time, {plain.wall:6.2f} s"),
            ("SEV-ES, traced", f"{sev.cpu:6.2f} s of QEMU's CPU time, {sev.wall:6.2f} s"),
            ("SEV-ES : ordinary, CPU", f"{median(cpu):6.2f}      (limit {SEV}; {_all(cpu)})"),
            ("SEV-ES : ordinary, wall", f"{median(wall):6.2f}      ({_all(wall)})"),
            ("stops", f"{counts['stops']} of them {counts['hooks']} for mappings"),
            ("accesses", f"{counts['accesses']}, {counts['guest']} of them by VMGEXIT"),
        ),
        kept=median(cpu) <= SEV,
    )


def cost_of_inputs() -> Result:
    """Compare boots whose inputs are recorded, with call chains and without, with untraced ones."""
    plan = Plan(inputs=parse_inputs(USUAL_INPUTS))
    untraced, traced, cpu, wall = _in_turn(Plan(), plan, _PAIRS)
    _, chained, chains, _ = _in_turn(Plan(), plan, _SLOW_PAIRS, stacks=True)
    counts = traced.counts
    return Result(
        f"The default guest from the start of QEMU to power-off, {_PAIRS} times untraced and with "
        f"--inputs in turn, {_SLOW_PAIRS} times with --stacks as well, under icount, the trace "
        "kept nowhere; medians of the ratios.",
        (
            ("untraced", f"{untraced.cpu:6.2f} s of QEMU's CPU time, {untraced.wall:6.2f} s"),
            ("inputs", f"{traced.cpu:6.2f} s of QEMU's CPU time, {traced.wall:6.2f} s"),
            ("with call chains", f"{chained.cpu:6.2f} s of QEMU's CPU time, {chained.wall:6.2f} s"),
            ("inputs : untraced, CPU", f"{median(cpu):6.2f}      (limit {INPUTS}; {_all(cpu)})"),
            ("inputs : untraced, wall", f"{median(wall):6.2f}      ({_all(wall)})"),
            ("with chains, CPU", f"{median(chains):6.2f}      (limit {CHAINED}; {_all(chains)})"),
            ("records", f"{counts['accesses']}, {counts['monitor']} of them of inputs"),
        ),
        kept=median(cpu) <= INPUTS and median(chains) <= CHAINED,
    )


def cost_of_nested_traps() -> Result:
    """Compare boots by nested traps and by poisoned entries with untraced ones."""
    untraced, nested, cpu, wall = _in_turn(Plan(), Plan(nested=True), _PAIRS)
    _, entry, by_entry, _ = _in_turn(Plan(), Plan(), _PAIRS)
    counts = nested.counts
    each = (nested.cpu - untraced.cpu) / counts["accesses"]
    return Result(
        f"The default guest from the start of QEMU to power-off, {_PAIRS} times untraced and "
        "traced in turn, under icount, the trace kept nowhere; medians of the ratios.",
        (
            ("untraced", f"{untraced.cpu:6.2f} s of QEMU's CPU time, {untraced.wall:6.2f} s"),
            ("nested", f"{nested.cpu:6.2f} s of QEMU's CPU time, {nested.wall:6.2f} s"),
            ("entries", f"{entry.cpu:6.2f} s of QEMU's CPU time, {entry.wall:6.2f} s"),
            ("nested : untraced, CPU", f"{median(cpu):6.2f}      (limit {NESTED}; {_all(cpu)})"),
            ("nested : untraced, wall", f"{median(wall):6.2f}      ({_all(wall)})"),
            ("entries : untraced, CPU", f"{median(by_entry):6.2f}      ({_all(by_entry)})"),
            ("an access", f"{1e6 * each:6.2f} us of QEMU's CPU time"),
            ("stops", f"{counts['stops']}; by entries {entry.counts['stops']}"),
            ("accesses", f"{counts['accesses']}, {counts['compiled']} of them compiled"),
        ),
        kept=median(cpu) <= NESTED,
    )


def coverage_of_other_drivers() -> Result:
    """Count which part of the accesses of a full flavour's drivers compiled sites make."""
    plan = Plan(
        kernel=fetch_kernel(newest_kernel(_FLAVOURS["full"])),
        software=Software(modules=_DRIVERS),
        extra=_DEVICES,
    )
    counts = asyncio.run(_whole(plan, SLOTS)).counts
    part = counts["compiled"] / counts["accesses"]
    left = [
        (name, f"{count}")
        for name, count in counts.items()
        if name.startswith(("slow: ", "not compiled: "))
    ]
    return Result(
        f"The full flavour of Debian's kernel with {', '.join(_DRIVERS)}: accesses that compiled "
        "sites made, and why others took a stop.",
        (
            ("accesses", f"{counts['accesses']}, {counts['compiled']} of them compiled"),
            ("part", f"{part:6.1%}   (at least {COVERED:.0%})"),
            *left,
        ),
        kept=part >= COVERED,
    )


def _in_turn(
    untraced: Plan, traced: Plan, times: int, *, stacks: bool = False
) -> tuple[_Run, _Run, list[float], list[float]]:
    # Boot one untraced and one traced, so many times. Returns the last boot of each, and for each
    # time how much more CPU time and wall time the traced one took, as ratios.
    pairs = [
        (asyncio.run(_whole(untraced, None)), asyncio.run(_whole(traced, SLOTS, stacks=stacks)))
        for _ in range(times)
    ]
    cpu = [long.cpu / short.cpu for short, long in pairs]
    wall = [long.wall / short.wall for short, long in pairs]
    return *pairs[-1], cpu, wall


def _all(ratios: Sequence[float]) -> str:
    return ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios))


async def _whole(plan: Plan, ring: int | None, *, stacks: bool = False) -> _Run:
    # A boot by compiled sites with a ``ring``, untraced without.
    began, before = time.perf_counter(), getrusage(RUSAGE_CHILDREN)
    async with launch(plan) as session:
        await session.reach_entry()
        if ring is None:
            await session.run_untraced()
        else:
            await session.trap(ring=ring, stacks=stacks, inputs=plan.inputs, nested=plan.nested)
            await session.run()
        # QEMU has ended and been waited for; GDB has not.
        after, ended = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return _Run(cpu, ended - began, session.counts)


def cost_of_a_boot() -> Result:
    """Compare the time of a traced boot with that of an untraced one, a stop an access."""
    pair = _pair(Plan())
    each = (pair.traced - pair.untraced) / pair.accesses
    return Result(
        "Wall time of the default guest from its kernel's entry to power-off, under icount both "
        "times. Untraced: same QEMU, same GDB, no trap. Traced: all default regions, a stop an "
        "access, the trace kept nowhere.",
        (
            ("untraced", f"{pair.untraced:6.2f} s"),
            ("traced", f"{pair.traced:6.2f} s   ({pair.accesses} accesses)"),
            ("traced : untraced", f"{pair.ratio:6.2f}"),
            ("added by each access", f"{each * 1e3:6.2f} ms"),
        ),
    )


def cost_of_other_kernels() -> Result:
    """Compare what tracing costs other flavours of Debian's kernel with the default guest."""
    pairs = {"cloud": _pair(Plan())}
    for flavour, metapackage in _FLAVOURS.items():
        pairs[flavour] = _pair(Plan(kernel=fetch_kernel(newest_kernel(metapackage))))
    most = _WORST * pairs["cloud"].ratio
    rows = [
        (
            flavour,
            f"{pair.ratio:6.2f}   ({pair.traced:.1f} : {pair.untraced:.1f} s, "
            f"{pair.accesses} accesses, {pair.hooks} stops for mappings)",
        )
        for flavour, pair in pairs.items()
    ]
    return Result(
        "Traced : untraced, as in `boot`, for the flavours of Debian's kernel. The limit is twice "
        "the ratio of the cloud flavour, which is the default guest's.",
        (*rows, ("limit", f"{most:6.2f}")),
        kept=all(pair.ratio <= most for pair in pairs.values()),
    )


def _pair(plan: Plan) -> _Pair:
    untraced, _, _ = asyncio.run(_boot(plan, traced=False))
    return _Pair(untraced, *asyncio.run(_boot(plan, traced=True)))


async def _boot(plan: Plan, *, traced: bool) -> tuple[float, int, int]:
    async with launch(plan) as session:
        await session.reach_entry()
        began = time.perf_counter()
        if traced:
            await session.trap()
            await session.run()
        else:
            await session.run_untraced()
        seconds = time.perf_counter() - began
        return seconds, session.counts["accesses"], session.counts["hooks"]
