"""One boot of a campaign, as a function of values: it can run on any engine, in any process.

:func:`run_job` is plain: what it takes and what it returns can be pickled, and it needs nothing but
vetrace where it runs. With Ray that is ``ray.remote(run_job).remote(job)``, with Dask
``client.map(run_job, jobs)``.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tracer.campaign.ending import Ending, ending
from tracer.host.scratch import scratch_folder

EXIT_USAGE = 2
"""The exit status of ``vetrace boot`` for what makes no sense."""

LIMIT = "60"
"""Seconds of its own time after which a guest is taken to hang: a boot takes some 5."""


@dataclass(frozen=True, slots=True)
class Job:
    """Say what to boot: the accesses that ``mutate`` chooses get values of the ``seed``.

    ``words`` are further options of ``vetrace boot``, and ``qemu`` arguments of QEMU.
    """

    seed: int
    mutate: str
    words: tuple[str, ...] = ()
    qemu: tuple[str, ...] = ()
    guest: str = "plain"

    @property
    def options(self) -> tuple[str, ...]:
        """Return the words behind ``vetrace boot``."""
        kind = [] if self.guest == "plain" else [f"--guest={self.guest}"]
        words = [*kind, f"--mutate={self.mutate}", f"--seed={self.seed}", *self.words]
        if not any(word.partition("=")[0] == "--guest-timeout" for word in self.words):
            words.append(f"--guest-timeout={LIMIT}")
        return (*words, *(("--", *self.qemu) if self.qemu else ()))

    @property
    def command(self) -> str:
        """Return the command that boots this again."""
        return shlex.join(("vetrace", "boot", *self.options))


@dataclass(frozen=True, slots=True)
class Outcome:
    """Hold how a job ended; ``mutated`` counts the accesses that it hit.

    Of these ``refused`` were refused; the others got another value. ``status`` is the exit status,
    ``begun`` tells whether the guest said anything.
    """

    job: Job
    ending: Ending
    mutated: int
    refused: int = 0
    status: int = 0
    begun: bool = True

    @property
    def misused(self) -> bool:
        """Tell whether it is no boot at all: every other one of the campaign would be refused."""
        return self.status == EXIT_USAGE and not self.begun


def program(job: Job, folder: Path) -> tuple[list[str], Mapping[str, str]]:
    """Return the program of a job, whose console goes into a folder, and its environment."""
    checkout = str(Path(__file__).parents[2])
    inherited = os.environ.get("PYTHONPATH")
    places = os.pathsep.join([checkout, inherited] if inherited else [checkout])
    files = ["--quiet", "--serial", str(folder / "console")]
    words = [sys.executable, "-m", "tracer", "boot", *files, *job.options]
    return words, {**os.environ, "PYTHONPATH": places}


_DECIDED = re.compile(
    r"^vetrace: seed \d+ decided about (?P<count>[\d,]+) access(?:es)?"
    r"(?:, (?P<refused>[\d,]+) of them refused)?$",
    re.MULTILINE,
)


def outcome(job: Job, console: str, said: str, status: int) -> Outcome:
    """Return how a job ended, from what its guest printed and what vetrace said."""
    decided = _DECIDED.search(said)
    count, refused = (
        (_number(decided[name]) for name in ("count", "refused")) if decided else (0, 0)
    )
    end = ending(console, said, status)
    return Outcome(job, end, count, refused, status, begun=bool(console.strip()))


def _number(text: str | None) -> int:
    return int((text or "0").replace(",", ""))


def console_of(folder: Path) -> str:
    """Return what a job's guest has printed into a folder."""
    try:
        return (folder / "console").read_text(errors="replace")
    except FileNotFoundError:  # it was never started
        return ""


def run_job(job: Job) -> Outcome:
    """Boot, and return how it ended."""
    with scratch_folder() as folder:
        words, environment = program(job, folder)
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            env=environment,
        )  # fmt: skip
        return outcome(job, console_of(folder), done.stderr, done.returncode)
