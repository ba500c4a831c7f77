"""Where tracing of a bare guest begins, as it is typed."""

from __future__ import annotations

import pytest

from tracer.access.symbols import Symbol, table_of
from tracer.bare.guidance import Guidance
from tracer.bare.moment import Moment, parse_moment
from tracer.errors import UsageError

SYMBOLS = table_of([Symbol(0x10_0000, "T", "main"), Symbol(0x10_0040, "T", "setup_vm")], lowest=1)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("main", Moment("main", symbol="main")),
        ("return:setup_vm", Moment("return:setup_vm", symbol="setup_vm", behind=True)),
        ("0x101000", Moment("0x101000", linear=0x10_1000)),
        ("return:4096", Moment("return:4096", linear=4096, behind=True)),
        ("1.5s", Moment("1.5s", time_ns=1_500_000_000)),
        ("20ms", Moment("20ms", time_ns=20_000_000)),
        ("std::sort<int>", Moment("std::sort<int>", symbol="std::sort<int>")),
    ],
)
def test_a_moment_is_read(text: str, found: Moment) -> None:
    assert parse_moment(text) == found


@pytest.mark.parametrize("text", ["", "return:", "return:1.5s", "1.5", "a b", "0x1" + "0" * 16])
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_moment(text)


def test_a_place_is_that_of_its_symbol() -> None:
    assert parse_moment("main").place(SYMBOLS, "a.elf") == 0x10_0000
    assert parse_moment("0x10").place(SYMBOLS, "a.elf") == 0x10
    assert parse_moment("1s").place(SYMBOLS, "a.elf") is None
    with pytest.raises(UsageError, match=r"a\.elf has no symbol 'mian'; did you mean main\?"):
        parse_moment("mian").place(SYMBOLS, "a.elf")
    with pytest.raises(UsageError, match="no symbols, and so no main"):
        parse_moment("main").place(table_of([], lowest=1), "a.elf")


def test_what_is_said_is_told_by_its_option() -> None:
    assert Guidance().given == ()
    assert Guidance(parse_moment("main")).given == ("--attach-at",)
