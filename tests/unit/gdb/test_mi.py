"""GDB/MI lines as values."""

from __future__ import annotations

import pytest

from tracer.gdb import mi


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("12^done", mi.Result(12, "done", {})),
        ("3^running", mi.Result(3, "running", {})),
        ('7^done,value="42"', mi.Result(7, "done", {"value": "42"})),
        ('*running,thread-id="all"', mi.Running()),
        ('=thread-group-exited,id="i1"', mi.Parted()),
        ('~"GNU gdb 13.1\\n"', mi.Text("console", "GNU gdb 13.1\n")),
        ('&"warning: \\"x\\"\\n"', mi.Text("log", 'warning: "x"\n')),
        ("(gdb) ", None),
        ("", None),
        ('=breakpoint-modified,bkpt={number="1"}', None),
    ],
)
def test_lines(line: str, expected: mi.Message | None) -> None:
    assert mi.parse(line) == expected


def test_error() -> None:
    result = mi.parse('5^error,msg="No symbol \\"x\\" in current context."')
    assert isinstance(result, mi.Result)
    assert (result.token, result.status) == (5, "error")
    assert result.payload["msg"] == 'No symbol "x" in current context.'


def test_stop_at_a_breakpoint() -> None:
    stop = mi.parse(
        '*stopped,reason="breakpoint-hit",disp="keep",bkptno="4",frame={addr="0xffffffff81a00b40",'
        'func="??",args=[],arch="i386:x86-64"},thread-id="2",stopped-threads="all"'
    )
    assert isinstance(stop, mi.Stopped)
    assert stop.reason == "breakpoint-hit"
    assert (stop.thread, stop.breakpoint) == (2, 4)
    assert stop.address == 0xFFFF_FFFF_81A0_0B40
    assert stop.signal is None


def test_stop_without_a_reason() -> None:
    stop = mi.parse('*stopped,signal-name="SIGTRAP",thread-id="1"')
    assert isinstance(stop, mi.Stopped)
    assert (stop.reason, stop.signal) == ("", "SIGTRAP")
    assert stop.address is None
    assert stop.breakpoint is None
