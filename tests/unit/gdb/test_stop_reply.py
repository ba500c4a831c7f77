"""Stop replies of the remote protocol."""

from __future__ import annotations

import pytest

from tracer.errors import DebuggerError, TargetGone
from tracer.gdb.stop_reply import StopReply, parse_stop_reply


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("T05thread:p01.01;", StopReply(5, 0)),
        ("T05thread:p01.0a;rwatch:ffffffff81c02140;", StopReply(5, 9)),
        ("T05thread:p01.02;watch:1000;", StopReply(5, 1)),
        ("T02thread:p01.02;", StopReply(2, 1)),
        ("T05thread:02;", StopReply(5, 1)),
        ("T0506:0000;thread:p1.1;", StopReply(5, 0)),
    ],
)
def test_replies(text: str, expected: StopReply) -> None:
    assert parse_stop_reply(text) == expected


@pytest.mark.parametrize("text", ["W00", "X0f"])
def test_the_end(text: str) -> None:
    with pytest.raises(TargetGone):
        parse_stop_reply(text)


@pytest.mark.parametrize("text", ["", "OK", "E22", "T05", "T05thread:;", "T0xthread:1;", "S05"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(DebuggerError, match="QEMU's GDB stub"):
        parse_stop_reply(text)
