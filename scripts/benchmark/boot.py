"""The default guest's boot, traced and untraced."""

from __future__ import annotations

import asyncio
import time

from scripts.benchmark.result import Result
from tracer.launch import Plan, launch


def cost_of_a_boot() -> Result:
    """Compare the time of a traced boot with that of an untraced one."""
    untraced, _ = asyncio.run(_boot(traced=False))
    traced, accesses = asyncio.run(_boot(traced=True))
    return Result(
        "Wall time of the default guest from its kernel's entry to power-off, under icount both "
        "times. Untraced: same QEMU, same GDB, no trap. Traced: all default regions, the trace "
        "kept nowhere.",
        (
            ("untraced", f"{untraced:6.2f} s"),
            ("traced", f"{traced:6.2f} s   ({accesses} accesses)"),
            ("traced : untraced", f"{traced / untraced:6.2f}"),
            ("added by each access", f"{(traced - untraced) / accesses * 1e3:6.2f} ms"),
        ),
    )


async def _boot(*, traced: bool) -> tuple[float, int]:
    async with launch(Plan()) as session:
        await session.reach_entry()
        began = time.perf_counter()
        if traced:
            await session.trap()
            await session.run()
        else:
            await session.run_untraced()
        return time.perf_counter() - began, session.counts["accesses"]
