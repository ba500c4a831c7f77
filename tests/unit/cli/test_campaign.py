"""A campaign from the command line; what boots is a stand-in."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tracer.campaign.ending import Ending
from tracer.campaign.job import Job, Outcome
from tracer.cli import campaign, main

Output = pytest.CaptureFixture[str]
OOPS = Ending("oops", "nvme_pci_enable+0x55", "Oops: 0000 [#1]")


def endings(seed: int) -> Ending:
    return (Ending("clean"), OOPS, Ending("probe failed", "", "disk nvme none"))[seed % 3]


@pytest.fixture
def booted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Job, int]]:
    """The jobs that were run, with how many at a time."""
    jobs: list[tuple[Job, int]] = []

    async def run(wanted: Iterable[Job], most: int, finished: Callable[[Outcome], None]) -> None:
        for job in wanted:
            jobs.append((job, most))
            finished(Outcome(job, endings(job.seed), 1))

    monkeypatch.setattr(campaign, "run_jobs", run)
    return jobs


def test_seeds_are_booted_and_told(
    booted: list[tuple[Job, int]], tmp_path: Path, capsys: Output
) -> None:
    table = tmp_path / "results.parquet"
    words = ["--seeds", "7", "--mutate", "read nvme", "-o", str(table), "--jobs", "3"]
    assert main.main(["campaign", *words, "--", "--region", "nvme", "--", "-smp", "1"]) == 0
    assert [job.seed for job, _ in booted] == list(range(7)) and {most for _, most in booted} == {3}
    assert {(job.words, job.qemu) for job, _ in booted} == {(("--region", "nvme"), ("-smp", "1"))}
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "    3  clean",
        "    2  oops at nvme_pci_enable+0x55",
        f"       {booted[1][0].command}",
        "    2  probe failed",
        f"       {booted[2][0].command}",
    ]
    told = said.err.splitlines()
    assert told[1].startswith(
        "vetrace: 2/7  seed 1, 1 mutated: oops at nvme_pci_enable+0x55: Oops: 0000 [#1]"
    )
    assert told[1].endswith(" left)") and "left" not in told[-1]
    rows = pq.read_table(table).to_pylist()
    assert [row["end"] for row in rows[:3]] == ["clean", "oops", "probe failed"]


def test_ends_of_a_confidential_guest_tell_whether_an_access_was_refused() -> None:
    jobs = [Job(seed, "read nvme", guest="tdx") for seed in range(6)]
    hits = ((OOPS, 2, 1), (OOPS, 1, 0), (OOPS, 1, 1), (Ending("clean"), 1, 1), (OOPS, 0, 0))
    outcomes = [Outcome(job, *hit) for job, hit in zip(jobs, hits, strict=False)]
    assert [line for line in campaign.summary(outcomes) if "vetrace" not in line] == [
        "    2  oops at nvme_pci_enable+0x55, an access was refused",
        "    1  clean",
        "    1  oops at nvme_pci_enable+0x55",
        "    1  oops at nvme_pci_enable+0x55, by values alone",
    ]


def test_one_seed_alone(booted: list[tuple[Job, int]]) -> None:
    assert main.main(["campaign", "--seed", "0x10", "--mutate", "read nvme"]) == 0
    assert [job.seed for job, _ in booted] == [16]
    assert main.main(["campaign", "--seeds", "2", "--first", "5", "--mutate", "nvme"]) == 0
    assert [job.seed for job, _ in booted[1:]] == [5, 6]


def test_a_signal_leaves_what_was_finished(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(wanted: Iterable[Job], most: int, finished: Callable[[Outcome], None]) -> None:
        finished(Outcome(next(iter(wanted)), OOPS, 1))
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()

    monkeypatch.setattr(campaign, "run_jobs", run)
    table = tmp_path / "results.parquet"
    words = ["--seeds", "7", "--mutate", "read nvme", "-o", str(table)]
    assert main.main(["campaign", *words]) == 130
    assert f"interrupted; 1 of 7 boots had ended, kept in {table}" in capsys.readouterr().err
    assert [row["seed"] for row in pq.read_table(table).to_pylist()] == [0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seeds", "3"], "--mutate"),
        (["--mutate", "nvme"], "--seeds"),
        (["--seeds", "0", "--mutate", "nvme"], "below 1"),
        (["--seeds", "x", "--mutate", "nvme"], "x is no number of seeds"),
        (["--seeds", "9999999", "--mutate", "nvme"], "1,000,000 at most"),
        (["--seed", "-1", "--mutate", "nvme"], "seed"),
        (["--seeds", "3", "--seed", "1", "--mutate", "nvme"], "not allowed with"),
        (["--seeds", "3", "--mutate", "nvme if valu == 3"], "did you mean value?"),
        (["--seeds", "3", "--mutate", "nvme", "--jobs", "0"], "below 1"),
        (["--seeds", "3", "--mutate", "nvme", "--guest", "snp"], "invalid choice"),
    ],
)
def test_what_makes_no_campaign(words: list[str], said: str, capsys: Output) -> None:
    assert main.main(["campaign", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "told"), [(3, "3 s"), (29, "29 s"), (90, "2 min"), (7000, "117 min"), (9e4, "25 h")]
)
def test_what_is_left_is_told_roughly(seconds: float, told: str) -> None:
    assert campaign._duration(seconds) == told


@pytest.mark.parametrize(
    ("status", "line", "said"),
    [
        (2, "--memory no: no is no size", "vetrace: --memory no: no is no size"),
        (1, "no guest kernel: run vetrace setup",
         "vetrace: the first boot has come to nothing: no guest kernel: run vetrace setup"),
    ],
)  # fmt: skip
def test_what_every_boot_would_fail_at_is_told_once(
    status: int, line: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    jobs: list[Job] = []

    async def run(wanted: Iterable[Job], most: int, finished: Callable[[Outcome], None]) -> None:
        for job in wanted:
            jobs.append(job)
            finished(Outcome(job, Ending("failed", "", line), 0, status=status, begun=False))

    monkeypatch.setattr(campaign, "run_jobs", run)
    assert main.main(["campaign", "--seeds", "5", "--mutate", "read nvme"]) == status
    assert len(jobs) == 1 and capsys.readouterr().err == f"{said}\n"


def test_a_boot_that_fails_later_on_is_one_outcome_among_others(
    monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    async def run(wanted: Iterable[Job], most: int, finished: Callable[[Outcome], None]) -> None:
        for job in wanted:
            end = Ending("failed", "", "QEMU died") if job.seed else Ending("clean")
            finished(Outcome(job, end, 0, status=job.seed, begun=not job.seed))

    monkeypatch.setattr(campaign, "run_jobs", run)
    assert main.main(["campaign", "--seeds", "2", "--mutate", "read nvme"]) == 0
    assert "    1  failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (".", "Is a directory; name a file in it"),
        ("no/x", "No such file or directory; make its folder first"),
        ("x" * 300, "File name too long; give it a shorter name"),
    ],
)
def test_a_table_that_cannot_be_is_told_before_the_first_boot(
    booted: list[tuple[Job, int]], capsys: Output, name: str, why: str
) -> None:
    assert main.main(["campaign", "--seeds", "2", "--mutate", "read nvme", "-o", name]) == 1
    assert f"cannot write {name}: {why}" in capsys.readouterr().err and not booted


def test_outcomes_are_told_though_their_table_cannot_be_written(
    booted: list[tuple[Job, int]], capsys: Output
) -> None:
    words = ["--seeds", "3", "--mutate", "read nvme", "-o", "/dev/full"]
    assert main.main(["campaign", *words]) == 1
    told = capsys.readouterr()
    assert "oops at nvme_pci_enable+0x55" in told.out
    assert told.err.splitlines()[-1].startswith("vetrace: cannot write /dev/full: No space left")


def test_the_last_seed_is_one_before_the_first_is_booted(
    booted: list[tuple[Job, int]], capsys: Output
) -> None:
    words = ["--seeds", "3", "--first", str(2**64 - 2), "--mutate", "read nvme"]
    assert main.main(["campaign", *words]) == 2
    assert "does not fit in 8 bytes" in capsys.readouterr().err and not booted
