"""The moment at which tracing of a bare guest begins, as it is typed."""

from __future__ import annotations

import pytest

from tracer.bare.guidance import Guidance
from tracer.bare.moment import Moment, parse_moment
from tracer.bare.place import Place
from tracer.errors import UsageError


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("main", Moment("main", Place("main"))),
        ("return:setup_vm", Moment("return:setup_vm", Place("setup_vm"), behind=True)),
        ("0x101000", Moment("0x101000", Place(linear=0x10_1000))),
        ("return:4096", Moment("return:4096", Place(linear=4096), behind=True)),
        ("1.5s", Moment("1.5s", time_ns=1_500_000_000)),
        ("20ms", Moment("20ms", time_ns=20_000_000)),
        ("std::sort<int>", Moment("std::sort<int>", Place("std::sort<int>"))),
    ],
)
def test_a_moment_is_read(text: str, found: Moment) -> None:
    assert parse_moment(text) == found


@pytest.mark.parametrize("text", ["", "return:", "return:1.5s", "1.5", "a b", "0x1" + "0" * 16])
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_moment(text)


def test_what_is_said_is_told_by_its_option() -> None:
    assert Guidance().given == ()
    assert Guidance(parse_moment("main")).given == ("--attach-at",)
