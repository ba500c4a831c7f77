"""``vetrace boot --replay``: what it refuses before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest
import trace_sample as sample

from tracer.cli import main


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
