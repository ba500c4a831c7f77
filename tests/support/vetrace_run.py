"""The ``vetrace`` command as its user runs it, and what it leaves behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scripts.patience import patience
from tracer.guest.disk import DISKS, checksum
from tracer.trace.reader import TraceReader
from tracer.trace.record import End, Header, Intercept, Record

CHECKOUT = Path(__file__).parent.parent.parent
DEADLINE = patience(240)  # seconds; only ever an error
_MARK = "VETRACE_TEST_RUN"


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of the command gave, and the folder of its files."""

    status: int
    out: str
    err: str
    folder: Path

    @property
    def trace(self) -> Path:
        return self.folder / "trace.vtrace"

    @property
    def qemu_log(self) -> Path:
        return self.folder / "qemu.log"

    @property
    def serial(self) -> list[str]:
        return (self.folder / "serial").read_text(errors="replace").replace("\r", "").splitlines()

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def complaints(self) -> list[str]:
        """The error lines: what stderr holds beside progress and the tables of --json."""
        return [line for line in self.err.splitlines() if line.startswith("vetrace: ")]


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace read whole."""

    header: Header
    records: list[Record]
    damage: str | None

    @property
    def end(self) -> End:
        (end,) = [record for record in self.records if isinstance(record, End)]
        return end

    @property
    def intercepts(self) -> list[Intercept]:
        return [record for record in self.records if isinstance(record, Intercept)]


def read_trace(path: Path) -> Trace:
    with TraceReader(path) as reader:
        return Trace(reader.header, list(reader), reader.damage)


class Running:
    """A run under way, and every process that it started."""

    def __init__(self, process: subprocess.Popen[str], mark: str, folder: Path) -> None:
        self.process = process
        self.mark = mark
        self.folder = folder

    def processes(self) -> dict[str, int]:
        """The process identifiers of its programs, by program name."""
        found: dict[str, int] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if f"{_MARK}={self.mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found[(entry / "comm").read_text().strip()] = int(entry.name)
            except OSError:  # gone, or another user's
                continue
        return found

    def children(self) -> dict[str, int]:
        return {name: pid for name, pid in self.processes().items() if pid != self.process.pid}

    def pid_of(self, program: str) -> int:
        """The identifier of QEMU ("qemu-") or GDB ("gdb")."""
        return next(pid for name, pid in self.children().items() if name.startswith(program))

    def until(self, ready: Callable[[], bool], what: str) -> None:
        """Wait for something to be so; its absence is an error."""
        deadline = time.monotonic() + DEADLINE
        while not ready():
            assert self.process.poll() is None, (
                f"ended before {what}:\n{self.process.communicate()}"
            )
            assert time.monotonic() < deadline, f"still not {what}"
            time.sleep(0.02)

    def until_tracing(self) -> None:
        """Wait for the first record in the trace."""
        trace = self.folder / "trace.vtrace"
        self.until(lambda: trace.exists() and b'"mmio"' in trace.read_bytes(), "tracing")

    def finish(self, deadline: float = DEADLINE) -> Run:
        out, err = self.process.communicate(timeout=deadline)
        return Run(self.process.returncode, out, err, self.folder)

    def residue(self) -> list[str]:
        """What is left: processes, and files where temporary ones belong."""
        left = [f"process {name} ({pid})" for name, pid in self.children().items()]
        return left + [f"file {path.name}" for path in (self.folder / "tmp").iterdir()]


@contextmanager
def vetrace(
    folder: Path,
    *arguments: str | Path,
    environment: Mapping[str, str] | None = None,
    prepare: Callable[[], None] | None = None,
    may_leave: bool = False,
    program: Sequence[str | Path] = ("-m", "tracer"),
) -> Iterator[Running]:
    """Run the command in the background; fail when it leaves anything behind.

    ``prepare`` runs in the child before the program. ``may_leave`` is for runs that cannot clean
    up after themselves. The ``program`` is what Python is told to run.
    """
    mark = uuid.uuid4().hex
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, *map(str, (*program, *arguments))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        cwd=CHECKOUT,
        env={**os.environ, "TMPDIR": str(folder / "tmp"), _MARK: mark, **(environment or {})},
        preexec_fn=prepare,
    )
    running = Running(process, mark, folder)
    try:
        yield running
        if process.poll() is None:
            running.finish()
        if not may_leave:
            left = running.residue()
            assert left == [], left
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
        for pid in running.children().values():
            os.kill(pid, signal.SIGKILL)


def run(folder: Path, *arguments: str | Path, environment: Mapping[str, str] | None = None) -> Run:
    """Run the command to its end."""
    with vetrace(folder, *arguments, environment=environment) as running:
        return running.finish()


def boot(folder: Path, *arguments: str | Path) -> Run:
    """Boot with trace and serial output in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    files = ("--serial", folder / "serial", "-o", folder / "trace.vtrace")
    return run(folder, "boot", *files, *arguments)


def agreed(done: Run) -> int:
    """Check that QEMU saw the same; return over how many accesses."""
    assert done.status == 0, done.err + done.out
    said = re.search(r"^0 missing, 0 extra, 0 different over (\d+)", done.out, re.MULTILINE)
    assert said is not None, done.out
    return int(said[1])


def drove_its_devices(done: Run) -> list[str]:
    """Check that a guest read its disks, had its network and came to its end; return its words."""
    said = [line.removeprefix("vetrace-guest: ") for line in done.serial if "vetrace-guest" in line]
    for name in DISKS:
        assert f"disk {name} {checksum(name)}" in said
    assert any(re.fullmatch(r"network eth0 [0-9a-f:]{17} reachable", line) for line in said)
    assert said[-1] == "done"
    return said


def at_odds(said: str) -> int:
    """Return in how many entries trace and log differ, by the closing line of a comparison.

    An access of 8 bytes may be two entries.
    """
    told = re.search(r"^(\d+) missing, (\d+) extra, (\d+) different over", said, re.MULTILINE)
    assert told is not None, said
    return sum(map(int, told.groups()))


def need(there: bool, package: str) -> None:
    """Skip the test, or fail it in CI, where what it needs of a Debian package is not there."""
    if not there:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(f"needs Debian's package {package}")
