"""How far a long trace has been read: shown on a terminal, and nowhere else."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import trace_sample as sample

from tracer.cli import main, terminal
from tracer.trace import reader

COMMANDS = [
    ["stats", "TRACE"],
    ["audit", "TRACE"],
    ["diff", "TRACE", "TRACE"],
    ["export", "TRACE", "--format", "mmiotrace", "-o", "RESULT"],
    ["export", "TRACE", "--format", "mmiotrace", "-o", "-"],
    ["show", "TRACE"],
    ["show", "TRACE", "--json"],
]
PRINTING = [words for words in COMMANDS if words[0] == "show" or words[-1] == "-"]


class Terminal(io.StringIO):
    """A stream that says of itself that it is one."""

    def isatty(self) -> bool:
        return True

    @property
    def buffer(self) -> io.BytesIO:
        return io.BytesIO()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every trace for a long one."""
    monkeypatch.setattr(terminal, "_PATIENCE", 0.0)
    monkeypatch.setattr(reader, "_TURN", 1)
    monkeypatch.setenv("TERM", "xterm")


def run(
    monkeypatch: pytest.MonkeyPatch, folder: Path, words: list[str], *, out: bool, err: bool
) -> tuple[str, str]:
    """Run a command whose streams are terminals or not; return what is on them."""
    trace = str(sample.write(folder / "[bold]run.vtrace"))
    streams = [Terminal() if tty else io.TextIOWrapper(io.BytesIO()) for tty in (out, err)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    named = {"TRACE": trace, "RESULT": str(folder / "result")}
    assert main.main([named.get(word, word) for word in words]) in (0, 3)
    told = []
    for stream in streams:
        stream.flush()
        stream.seek(0)
        told.append(stream.read())
    return told[0], told[1]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_bar_on_the_terminal(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = run(monkeypatch, tmp_path, words, out=False, err=True)
    assert "%" in err
    assert "reading [bold]run.vtrace" in err
    assert "type" not in err and "nvme+" not in err
    assert "\x1b" not in out


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_nothing_where_no_terminal_is(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, err = run(monkeypatch, tmp_path, words, out=False, err=False)
    assert "\x1b" not in err and "%" not in err


@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_nothing_between_the_lines_of_the_output(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, err = run(monkeypatch, tmp_path, words, out=True, err=True)
    assert "%" not in err


def test_nothing_that_is_done_in_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "_PATIENCE", 1000.0)
    _, err = run(monkeypatch, tmp_path, ["stats", "TRACE"], out=False, err=True)
    assert "%" not in err
