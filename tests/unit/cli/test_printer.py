"""The lines that a boot prints while it runs."""

from __future__ import annotations

import sys

import pytest
import trace_sample as sample
from msgspec.structs import replace

from tracer.cli.printer import LinePrinter
from tracer.devices import library
from tracer.devices.map import RegisterMaps
from tracer.host.streams import warn
from tracer.trace.naming import Naming
from tracer.trace.record import End, Record
from tracer.trace.waiting import WaitRecord, WayOut

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


RIP = 0xFFFFFFFF81234567
WAIT = WaitRecord(
    time_ns=0, seq=8, vcpu=0, rip=RIP, region="nvme", offset=0x1C, width=4, register="CSTS",
    head=RIP, loop="nvme_wait_ready+0x7f", awaited=[WayOut(rip=RIP + 5, mask=1, value=1)],
    gives_up=[WayOut(rip=RIP + 9, symbol="nvme_wait_ready+0xc2", said="jiffies")],
)  # fmt: skip
WORDS = (
    "nvme CSTS until RDY=1: read 20 times in 0.019000 s at nvme_wait_ready+0x7f, last 0x00000000;"
    " gives up at nvme_wait_ready+0xc2 (jiffies)"
)


def polled() -> list[Record]:
    read = sample.device("nvme", 0x1C, 4, "read", 0)
    loop = [replace(sample.intercept(n, read), time_ns=n * 1_000_000) for n in range(20)]
    return [sample.region("nvme"), *loop[:9], WAIT, *loop[9:]]


def write() -> Record:
    access = sample.device("nvme", 0x14, 4, "write", 1)
    return replace(sample.intercept(20, access), rip=RIP + 0x40, time_ns=20_000_000)


def printer(seconds: float = 1.0) -> LinePrinter:
    """Return a printer whose clock goes on by so many seconds a record."""
    ticks = iter(range(1000))
    return LinePrinter(Naming(library.load()), lambda: next(ticks) * seconds)


def test_a_wait_that_is_over_is_one_line_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    show = printer()
    for record in (*polled(), write()):
        show(record)
    *accesses, line = capsys.readouterr().out.splitlines()
    assert len(accesses) == 21 and "\x1b" not in "".join(accesses)
    assert line == f"── waited for {WORDS} ──"


def test_what_goes_on_at_the_end_is_told_by_who_ends_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for outcome, told in (("poweroff", 1), ("interrupted", 0)):
        show = printer()
        for record in (*polled(), End(time_ns=9, outcome=outcome, counts={})):
            show(record)
        assert capsys.readouterr().out.count("waited for") == told


def test_on_a_terminal_a_wait_is_a_line_that_is_updated_in_place(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "240")
    show = printer()
    for record in polled():
        show(record)
    out = capsys.readouterr().out
    assert out.endswith(f"\r\x1b[Kwaiting for {WORDS}")
    assert out.count("waiting for ") == 12
    warn("something else")  # whoever prints a line erases it first
    assert capsys.readouterr().out == "\r\x1b[K"
    show(replace(polled()[-1], time_ns=19_500_000))
    capsys.readouterr()
    show(write())
    erased, line = capsys.readouterr().out.split("\n")[0].split("\x1b[K")
    assert erased == "\r" and line.strip().startswith("↑ 18 more times")
    monkeypatch.setenv("TERM", "dumb")
    show = printer()
    for record in polled():
        show(record)
    assert "\x1b" not in capsys.readouterr().out
