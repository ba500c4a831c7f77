"""Places in a bare guest, as they are typed."""

from __future__ import annotations

import pytest

from tracer.access.symbols import Symbol, table_of
from tracer.bare.place import Place, parse_place
from tracer.errors import UsageError

SYMBOLS = table_of([Symbol(0x10_0000, "T", "main"), Symbol(0x10_0040, "T", "setup_vm")], lowest=1)


def parse(text: str) -> Place:
    return parse_place(text, f"{text} is no place", "main is")


def test_a_place_is_that_of_its_symbol() -> None:
    assert parse("main").of(SYMBOLS, "a.elf") == 0x10_0000
    assert parse("0x10").of(SYMBOLS, "a.elf") == 0x10
    with pytest.raises(UsageError, match=r"a\.elf has no symbol 'mian'; did you mean main\?"):
        parse("mian").of(SYMBOLS, "a.elf")
    with pytest.raises(UsageError, match="no symbols, and so no main"):
        parse("main").of(table_of([], lowest=1), "a.elf")


@pytest.mark.parametrize("text", ["", "a b", "0x1" + "0" * 16, "-1", "a+0x10"])
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)
