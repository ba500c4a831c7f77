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

    When it is cancelled, jobs that are under way are ended in order, and told nothing of; so they
    are when one is told of with an error, which is raised.
    """
    waiting = iter(jobs)

    async def work() -> None:
        for job in waiting:
            finished(await _run(job))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(most):
                group.create_task(work())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def _run(job: Job) -> Outcome:
    with scratch_folder() as folder:
        words, environment = program(job, folder)
        # Ctrl-C at the terminal is for the campaign, which ends its jobs: each has its own session.
        # A process that is cancelled while it starts would be killed, and leave its guest behind.
        starting = asyncio.create_task(
            asyncio.create_subprocess_exec(
                *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE, env=environment, start_new_session=True,
            )
        )  # fmt: skip
        try:
            process = await asyncio.shield(starting)
            _, said = await process.communicate()
        except asyncio.CancelledError:
            process = await starting
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            await process.wait()
            raise
        status = process.returncode
        assert status is not None  # it has ended
        return outcome(job, console_of(folder), said.decode(errors="replace"), status)
