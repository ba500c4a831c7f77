"""`vetrace show --follow`: a trace that is still written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from trace_sample import HEADER, RECORDS, write

from tracer.cli import main
from tracer.trace.writer import TraceWriter


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
