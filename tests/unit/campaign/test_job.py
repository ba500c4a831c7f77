"""A job is a value, and so is its outcome."""

from __future__ import annotations

import pickle
import shlex
from pathlib import Path

from tracer.campaign.ending import Ending
from tracer.campaign.job import Job, Outcome, console_of, outcome, program, run_job

JOB = Job(7, "read nvme", ("--region", "nvme"), ("-smp", "1"))


def test_a_command_boots_the_same_again() -> None:
    assert JOB.command == (
        "vetrace boot '--mutate=read nvme' --seed=7 --region nvme --guest-timeout=60 -- -smp 1"
    )
    assert Job(7, "read nvme", ("--guest-timeout", "5")).options == (
        "--mutate=read nvme", "--seed=7", "--guest-timeout", "5",
    )  # fmt: skip
    assert shlex.split(Job(1, "nvme if value == 'x'").command)[2] == "--mutate=nvme if value == 'x'"


def test_a_confidential_guest_is_named() -> None:
    words = Job(7, "nvme", guest="tdx").options
    assert words[0] == "--guest=tdx"
    said = "vetrace: seed 7 decided about 12 accesses, 3 of them refused\n"
    assert outcome(JOB, "", said, 0) == Outcome(JOB, Ending("clean"), 12, 3, begun=False)


def test_a_program_has_what_the_command_has(tmp_path: Path) -> None:
    words, environment = program(JOB, tmp_path)
    assert words[1:4] == ["-m", "tracer", "boot"] and words[-len(JOB.options) :] == [*JOB.options]
    assert str(tmp_path / "console") in words
    assert environment["PYTHONPATH"].startswith(str(Path(__file__).parents[3]))


def test_an_outcome_counts_what_was_mutated(tmp_path: Path) -> None:
    said = "vetrace: seed 7 decided about 1,234 accesses\n"
    assert outcome(JOB, "", said, 0) == Outcome(JOB, Ending("clean"), 1234, begun=False)
    assert outcome(JOB, "", "vetrace: seed 7 decided about 1 access\n", 0).mutated == 1
    assert outcome(JOB, "", "", 1) == Outcome(JOB, Ending("failed"), 0, status=1, begun=False)
    assert console_of(tmp_path) == ""
    (tmp_path / "console").write_bytes(b"a\xff\n")
    assert console_of(tmp_path) == "a\ufffd\n"


def test_jobs_and_outcomes_go_to_other_processes() -> None:
    made = Outcome(JOB, Ending("oops", "f+0x1", "Oops"), 3)
    assert pickle.loads(pickle.dumps((run_job, JOB, made))) == (run_job, JOB, made)


def test_a_job_that_makes_no_sense_has_an_outcome_too() -> None:
    found = run_job(Job(1, "read nvme if valu == 3"))
    assert found.ending.kind == "failed" and "did you mean value?" in found.ending.line


def test_a_boot_that_was_never_one_is_told_apart_from_one_that_failed() -> None:
    said = "vetrace: --memory no: no is no size\n"
    never, script = outcome(JOB, "", said, 2), outcome(JOB, "[ 0.1] Linux\n", said, 2)
    assert never.misused and never.ending == Ending("failed", "", "--memory no: no is no size")
    assert not script.misused and not outcome(JOB, "", said, 1).misused
