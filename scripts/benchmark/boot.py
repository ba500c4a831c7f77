"""Boots of Debian's kernels, traced and untraced."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from scripts.benchmark.result import Result
from tracer.host.package import fetch_kernel, newest_kernel
from tracer.launch.plan import Plan
from tracer.launch.start import launch

_FLAVOURS = {"full": "linux-image-amd64", "real-time": "linux-image-rt-amd64"}
_WORST = 2.0  # what a flavour's ratio may be to the default guest's


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


def cost_of_a_boot() -> Result:
    """Compare the time of a traced boot with that of an untraced one."""
    pair = _pair(Plan())
    each = (pair.traced - pair.untraced) / pair.accesses
    return Result(
        "Wall time of the default guest from its kernel's entry to power-off, under icount both "
        "times. Untraced: same QEMU, same GDB, no trap. Traced: all default regions, the trace "
        "kept nowhere.",
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
