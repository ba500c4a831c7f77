"""Jobs beside each other: how many at once, and what becomes of them when the campaign ends."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.patience import patience
from tracer.campaign import processes
from tracer.campaign.job import Job, Outcome
from tracer.errors import UsageError

JOBS = [Job(seed, "nvme") for seed in range(5)]


def instead(text: str) -> Any:
    """Have a line of Python stand for the program of each job."""

    def program(job: Job, folder: Path) -> tuple[list[str], dict[str, str]]:
        return [sys.executable, "-c", text, str(folder), str(job.seed)], {}

    return program


def test_each_job_has_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "import sys; open(sys.argv[1] + '/console', 'w').write('vetrace-guest: done');"
        "print('vetrace: seed', sys.argv[2], 'decided about 3 accesses', file=sys.stderr);"
        "sys.exit(sys.argv[2] == '2')"
    )
    monkeypatch.setattr(processes, "program", instead(text))
    found: list[Outcome] = []
    asyncio.run(processes.run_jobs(JOBS, 2, found.append))
    assert sorted(each.job.seed for each in found) == [0, 1, 2, 3, 4]
    ends = {each.job.seed: (each.ending.kind, each.mutated) for each in found}
    assert ends[1] == ("clean", 3) and ends[2] == ("failed", 3)


def test_a_campaign_that_is_cancelled_ends_its_jobs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = (
        "import signal, sys, time, pathlib; own = pathlib.Path(sys.argv[3])\n"
        "def end(*_): (own / f'ended{sys.argv[2]}').touch(); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end); (own / f'begun{sys.argv[2]}').touch()\n"
        "time.sleep(1000)"
    )
    made = instead(text)

    def program(job: Job, folder: Path) -> Any:
        words, environment = made(job, folder)
        return [*words, str(tmp_path)], environment

    monkeypatch.setattr(processes, "program", program)
    found: list[Outcome] = []

    async def body() -> None:
        task = asyncio.create_task(processes.run_jobs(JOBS, 2, found.append))
        async with asyncio.timeout(patience(60)):
            while len(list(tmp_path.glob("begun*"))) < 2:
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(body())
    assert sorted(path.name for path in tmp_path.glob("ended*")) == ["ended0", "ended1"]
    assert found == [] and not (tmp_path / "begun2").exists()


def test_an_outcome_that_ends_the_campaign_ends_the_jobs_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "import sys, time; time.sleep(1000 * (sys.argv[2] != '0')); sys.exit(2)"
    monkeypatch.setattr(processes, "program", instead(text))
    found: list[Outcome] = []

    def finished(each: Outcome) -> None:
        found.append(each)
        raise UsageError("no such option")

    with pytest.raises(UsageError, match="no such option"):
        asyncio.run(processes.run_jobs(JOBS, 2, finished))
    assert [each.job.seed for each in found] == [0] and found[0].misused
