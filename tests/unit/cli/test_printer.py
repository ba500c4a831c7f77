"""The lines that a boot prints while it runs."""

from __future__ import annotations

import sys

import pytest
import trace_sample as sample

from tracer.cli.printer import LinePrinter
from tracer.devices.map import RegisterMaps
from tracer.trace.naming import Naming
from tracer.trace.record import End

END = End(time_ns=9, outcome="poweroff", counts={})


def shown(capsys: pytest.CaptureFixture[str], *, values: range, end: bool) -> list[str]:
    """Return the last words of the lines that reads of these values give."""
    printer = LinePrinter(Naming(RegisterMaps()))
    for seq, value in enumerate(values):
        printer(sample.intercept(seq, sample.device("nvme", 0x1C, 4, "read", value)))
    if end:
        printer(END)
    return [line.split("  ")[-1].strip() for line in capsys.readouterr().out.splitlines()]


def test_in_a_file_each_access_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, values=range(5), end=True) == [f"0x0000000{n}" for n in range(5)]


def test_on_a_terminal_a_loop_is_its_first_turns_and_at_the_end_a_count(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    first = ["0x00000000", "0x00000001", "0x00000002"]
    assert shown(capsys, values=range(7), end=False) == first
    rest = "↑ 4 more times in 0.000000 s, last read 0x00000006"
    assert shown(capsys, values=range(7), end=True) == [*first, rest]
