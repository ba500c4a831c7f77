"""A trace that comes through a pipe, which is read once, is told of as the file is."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import trace_sample as sample
from msgspec.structs import replace

from tracer.cli import main
from tracer.trace.record import Record
from tracer.trace.waiting import WaitRecord, WayOut

Output = pytest.CaptureFixture[str]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Write a trace whose driver waits for a register."""
    poll = sample.device("nvme", 0x1C, 4, "read", 0)
    reads = [replace(sample.intercept(n, poll), time_ns=n * 1_000_000) for n in range(1, 21)]
    wait = WaitRecord(
        time_ns=0, seq=8, vcpu=0, rip=reads[0].rip, region="nvme", offset=0x1C, width=4,
        register="CSTS", loop="nvme_wait_ready+0x7f", awaited=[WayOut(rip=1, mask=1, value=1)],
    )  # fmt: skip
    records: list[Record] = [sample.region("nvme"), *reads, wait, sample.end(20)]
    return sample.write(tmp_path / "run.vtrace", records)


def through_a_pipe(path: Path, words: Sequence[str]) -> int:
    """Run a command with a pipe where the trace's name is to be; return its status."""
    reader, writer = os.pipe()

    def feed() -> None:
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(path.read_bytes())

    feeding = threading.Thread(target=feed)
    feeding.start()
    try:
        name = f"/proc/self/fd/{reader}"
        return main.main([name if word == "TRACE" else word for word in words])
    finally:
        feeding.join()
        os.close(reader)


@pytest.mark.parametrize(
    "words",
    [
        ("show", "TRACE"),
        ("stats", "TRACE", "--json"),
        ("stats", "TRACE"),
        ("stats", "TRACE", "--region", "nvme", "--json"),
        ("tally", "TRACE", "count by register"),
        ("audit", "TRACE"),
        ("allow-list", "TRACE"),
        ("export", "TRACE", "--format", "mmiotrace", "-o", "-"),
    ],
    ids=" ".join,
)
def test_it_tells_what_the_file_does(words: Sequence[str], trace: Path, capsys: Output) -> None:
    assert main.main([str(trace) if word == "TRACE" else word for word in words]) == 0
    told = capsys.readouterr().out
    assert through_a_pipe(trace, words) == 0
    piped = capsys.readouterr().out
    assert piped.replace("/proc/self/fd/", "").splitlines()[1:] == told.splitlines()[1:]
    if words[0] == "stats":
        assert "CSTS" in told
        assert piped == told  # with what the driver waits for


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("open", "TRACE", "-e", "stats"), "is read once, and a prompt goes back: give a file"),
        (("export", "TRACE", "--format", "vcd", "-o", "-"), "vcd takes a trace that can be read"),
    ],
    ids=["open", "vcd"],
)
def test_what_reads_it_again_refuses_it(
    words: Sequence[str], said: str, trace: Path, capsys: Output
) -> None:
    assert through_a_pipe(trace, words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["diff", "report"])
def test_standard_input_is_one_trace(command: str, tmp_path: Path, capsys: Output) -> None:
    more = ["-o", str(tmp_path / "page.html")] if command == "report" else []
    assert main.main([command, "-", "-", *more]) == 2
    assert capsys.readouterr().err == "vetrace: standard input is one trace: give - once\n"
