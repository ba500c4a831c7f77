"""``vetrace boot --replay``: what it refuses before anything is started."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec
import pytest
import trace_sample as sample

from tracer.cli import boot, main
from tracer.cli.recorded import recorded
from tracer.trace.reader import TraceReader
from tracer.trace.writer import TraceWriter


@pytest.fixture
def trace(tmp_path: Path) -> str:
    return str(sample.write(tmp_path / "a.vtrace"))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("", "--replay wants --region"),
        ("--region 1000-1fff", "1000-1fff is a range"),
        ("--region nvme --bypass 1000-1fff", "1000-1fff is a range"),
        ("--region nvme --check", "--check does not go with --replay"),
        ("--region nvme --untraced", "--untraced does not go with --replay"),
        ("--region ecam", "has no access to ecam; it has accesses to: hpet, lapic, nvme"),
        ("--region lapic", "--bypass lapic"),
        ("--region nvme --mask nvmx+0x28", "answers for no region nvmx; did you mean nvme?"),
        ("--region nvme --mask hpet+0x28", "answers for no region hpet; there are: nvme"),
    ],
)
def test_refused(arguments: str, why: str, trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["boot", "--replay", trace, *arguments.split()]) == 2
    said = capsys.readouterr().err
    assert said.startswith("vetrace: ") and why in said and said.count("\n") == 1


@pytest.mark.parametrize("arguments", ["--also nvme", "--mask nvme+0x28"])
def test_says_something_only_with_replay(
    arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["boot", *arguments.split()]) == 2
    assert "only with --replay" in capsys.readouterr().err


def test_another_guest_than_the_recorded_one_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "a.vtrace"
    header = msgspec.structs.replace(
        sample.HEADER, software=["--module", "mine.ko", "--init", "a b.sh"]
    )
    with TraceWriter(trace, header) as writer, TraceReader(sample.write(tmp_path / "b")) as other:
        for record in other:
            writer.append(record)

    def said(*words: str) -> str:
        parser = argparse.ArgumentParser()
        boot.add_arguments(parser)
        args = parser.parse_args(["--replay", str(trace), "--region", "nvme", *words])
        recorded(args)
        return capsys.readouterr().err

    assert "were --module mine.ko --init 'a b.sh', and are none" in said()
    assert "and are --module mine.ko --init c\n" in said("--module", "mine.ko", "--init", "c")
    assert said("--module", "mine.ko", "--init", "a b.sh") == ""

    assert main.main(["show", str(trace)]) == 0
    told = "a.vtrace is of a guest with --module mine.ko --init 'a b.sh'"
    assert told in capsys.readouterr().err
    assert main.main(["show", str(trace), "--json"]) == 0
    assert capsys.readouterr().err == ""


def test_the_recording_is_not_overwritten(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = Path(trace).read_bytes()
    assert main.main(["boot", "--replay", trace, "--region", "nvme", "-o", trace]) == 2
    assert "would overwrite" in capsys.readouterr().err
    assert Path(trace).read_bytes() == before


def test_a_recording_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "b.vtrace"
    output.touch()
    missing = str(tmp_path / "a.vtrace")
    assert main.main(["boot", "--replay", missing, "--region", "nvme", "-o", str(output)]) == 1
    assert missing in capsys.readouterr().err


def test_a_file_that_is_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.vtrace"
    path.write_text("no trace\n")
    assert main.main(["boot", "--replay", str(path), "--region", "nvme"]) == 1
    assert str(path) in capsys.readouterr().err
