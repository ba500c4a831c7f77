"""From a plan to findings: a guest is started, borrowed for trials, and brought to its end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tracer.confidential.findings import Findings
from tracer.confidential.handler import Profile
from tracer.errors import GuestError
from tracer.intercept.below.bench import Wanted
from tracer.launch.plan import Plan
from tracer.launch.start import launch
from tracer.linux.handler_end import behind_handler
from tracer.session.watchdog import Watchdog


async def try_handler(
    plan: Plan, profile: Profile, seed: int, count: int, progress: Callable[[str], None]
) -> Findings:
    """Try instructions on the handler of a guest's kernel; the guest then goes on to its end.

    Raises GuestError where it came to that without having been borrowed, and what
    :func:`tracer.launch.start.launch` does.
    """
    async with Watchdog(plan.limits) as watchdog, launch(plan, progress=progress) as session:
        watchdog.guard(session)
        await session.reach_entry()
        behind = partial(behind_handler, session.names.symbols, plan.guest)
        session.loop.wanted = Wanted(profile, seed, count, behind)
        await session.trap()
        progress(f"{session.system.title}: {count:,} instructions are tried on its handler")
        await session.run()
        bench = session.loop.bench
        if bench is None or not bench.done:
            raise GuestError(
                "the guest ended before its handler had been tried: it made too few accesses"
            )
        return bench.findings
