"""Jobs run as processes beside each other, some at a time; a signal leaves what was finished."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterable

from tracer.campaign.job import Job, Outcome, console_of, outcome, program
from tracer.host.scratch import scratch_folder


async def run_jobs(jobs: Iterable[Job], most: int, finished: Callable[[Outcome], None]) -> None:
    """Run jobs, at most so many at once; tell of each as it ends.

    When it is cancelled, jobs that are under way are ended in order, and told nothing of.
    """
    waiting = iter(jobs)

    async def work() -> None:
        for job in waiting:
            finished(await _run(job))

    async with asyncio.TaskGroup() as group:
        for _ in range(most):
            group.create_task(work())


async def _run(job: Job) -> Outcome:
    with scratch_folder() as folder:
        words, environment = program(job, folder)
        # Ctrl-C at the terminal is for the campaign, which ends its jobs: each has its own session.
        process = await asyncio.create_subprocess_exec(
            *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE, env=environment, start_new_session=True,
        )  # fmt: skip
        try:
            _, said = await process.communicate()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            await process.wait()
            raise
        status = process.returncode
        assert status is not None  # it has ended
        return outcome(job, console_of(folder), said.decode(errors="replace"), status)
