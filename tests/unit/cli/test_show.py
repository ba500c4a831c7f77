"""`vetrace show --follow`: a trace that is still written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from trace_sample import HEADER, RECORDS, write

from tracer.cli import main
from tracer.trace.writer import TraceWriter


def following(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tracer", "show", "--follow", str(path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"NO_COLOR": "1"},
    )  # fmt: skip


@pytest.mark.parametrize("name", ["run.vtrace", "run.vtrace.zst"])
def test_what_is_written_meanwhile_is_shown_as_it_comes(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with TraceWriter(path, HEADER) as trace:
        for record in RECORDS[:7]:
            trace.append(record)
        with subprocess.Popen(
            [sys.executable, "-m", "tracer", "show", "--follow", str(path)],
            stdout=subprocess.PIPE, text=True, env=os.environ | {"NO_COLOR": "1"},
        ) as child:  # fmt: skip
            assert child.stdout is not None
            assert "nvme+0x1c" in child.stdout.readline()
            trace.append(RECORDS[7])
            assert "nvme+0x14" in child.stdout.readline()
            for record in RECORDS[8:]:
                trace.append(record)
            rest = child.stdout.read()
            assert child.wait() == 0
    assert rest.count("\n") == 3 and "hpet" in rest


def test_a_whole_trace_is_shown_to_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["show", "--follow", str(write(tmp_path / "run.vtrace"))]) == 0
    assert capsys.readouterr().out.count("\n") == 5


def test_what_cannot_grow_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tracer", "show", "--follow", "-"],
        stdin=write(tmp_path / "run.vtrace").open("rb"), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        "vetrace: --follow waits for a file to grow, and standard input is none\n"
    )


@pytest.mark.parametrize("is_empty", [False, True])
def test_a_trace_that_is_not_there_yet_is_awaited(tmp_path: Path, *, is_empty: bool) -> None:
    path = tmp_path / "run.vtrace"
    if is_empty:
        path.touch()
    with following(path) as child:
        assert child.stdout is not None and child.stderr is not None
        assert child.stderr.readline() == (
            f"vetrace: waiting for {path}, which is not written yet; Ctrl-C ends\n"
        )
        write(path)
        assert child.stdout.read().count("\n") == 5
        assert child.stderr.read() == ""
        assert child.wait() == 0


def test_an_interrupt_ends_the_wait_in_a_line(tmp_path: Path) -> None:
    with following(tmp_path / "run.vtrace") as child:
        assert child.stderr is not None
        child.stderr.readline()
        child.send_signal(signal.SIGINT)
        assert child.wait() == 130
        assert child.stderr.read() == "vetrace: interrupted\n"


@pytest.mark.parametrize("name", ["no/run.vtrace", "file/run.vtrace", "run.vtrace/", "", "a\0b"])
def test_what_may_be_a_slip_is_not_awaited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    assert main.main(["show", "--follow", name]) == 1
    told = capsys.readouterr().err
    assert told.startswith("vetrace: cannot read trace") and told.count("\n") == 1
