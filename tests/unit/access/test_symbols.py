"""tracer.access.symbols: lookups both ways, KASLR, and the text form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.access.symbols import (
    KERNEL_HALF,
    Symbol,
    parse_system_map,
    resolve,
    serialise,
    table_of,
)
from tracer.errors import KernelImageError

BASE = 0xFFFFFFFF81000000

MAP = """\
0000000000000000 A fixed_percpu_data
0000000000033080 A steal_time
ffffffff81000000 T startup_64
ffffffff81000000 T _text
ffffffff81000040 t helper
ffffffff81000100 T asm_exc_page_fault
ffffffff81000200 t helper
ffffffff81002000 B _end
ffffffff81003000 A beyond
"""


@pytest.mark.parametrize(
    ("linear", "expected"),
    [
        (BASE, "startup_64+0x0"),
        (BASE + 0x3F, "startup_64+0x3f"),
        (BASE + 0x40, "helper+0x0"),
        (BASE + 0x1FF, "asm_exc_page_fault+0xff"),
        (BASE + 0x1FFF, "helper+0x1dff"),
        (BASE + 0x2000, None),
        (BASE + 0x3000, None),
        (BASE - 1, None),
        (0x33080, None),
        (0x400000, None),
    ],
)
def test_lookup(linear: int, expected: str | None) -> None:
    assert parse_system_map(MAP).lookup(linear) == expected


def test_address_of() -> None:
    table = parse_system_map(MAP)
    assert table.address_of("asm_exc_page_fault") == BASE + 0x100
    assert table.address_of("helper") == BASE + 0x40
    assert table.address_of("steal_time") == 0x33080
    assert table.address_of("nothing") is None


def test_kaslr_moves_places_and_not_offsets() -> None:
    moved = parse_system_map(MAP).moved(0x1200000)
    assert moved.address_of("asm_exc_page_fault") == BASE + 0x1200100
    assert moved.address_of("steal_time") == 0x33080
    assert moved.lookup(BASE + 0x1200102) == "asm_exc_page_fault+0x2"
    assert moved.lookup(BASE + 0x100) is None


def test_module_symbols_name_their_module() -> None:
    start = 0xFFFFFFFFC0000000
    symbols = [Symbol(start + 0x10, "t", "probe"), Symbol(start, "t", "init")]
    module = table_of(symbols, end=start + 0x20, owner="virtio_net")
    assert module.lookup(start + 0x1F) == "probe+0xf [virtio_net]"
    assert module.lookup(start + 0x20) is None
    tables = [parse_system_map(MAP), module]
    assert resolve(tables, start) == "init+0x0 [virtio_net]"
    assert resolve(tables, BASE + 0x100) == "asm_exc_page_fault+0x0"
    assert resolve(tables, 0x1000) is None


def test_table_without_end_stops_a_page_after_the_last() -> None:
    table = table_of([Symbol(BASE, "T", "only")])
    assert table.lookup(BASE + 4095) == "only+0xfff"
    assert table.lookup(BASE + 4096) is None


def test_empty_table_knows_nothing() -> None:
    table = table_of([])
    assert table.lookup(0) is None
    assert table.lookup(BASE) is None
    assert len(table) == 0


def test_kallsyms_lines_of_modules_are_left_out() -> None:
    table = parse_system_map(MAP + "ffffffffc0000000 t probe\t[virtio_net]\n")
    assert table.address_of("probe") is None
    assert len(table) == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "placeholder"),
        ("ffffffffffffffff B The real System.map is in the -dbg package\n", "placeholder"),
        ("0000000000000000 T _text\n0000000000000000 T _stext\n", "kptr_restrict"),
        ("ffffffff81000000 T a\nffffffff81000001 T b\nnot a line\n", "line 3"),
        ("#!/bin/sh\n", "line 1"),
        ("ffffffff81000000 T a\nffffffff81000001 T b\0\n", "line 2"),
    ],
)
def test_text_that_is_no_map(text: str, message: str) -> None:
    with pytest.raises(KernelImageError, match=message):
        parse_system_map(text)


def test_serialise_keeps_everything() -> None:
    table = parse_system_map(MAP)
    assert serialise(table) == MAP
    assert parse_system_map(serialise(table)) == table
    assert serialise(table.moved(0x1000)) == MAP


names = st.text("abcxyz_.0", min_size=1, max_size=8)
upper_half = st.integers(KERNEL_HALF, KERNEL_HALF + 200)


@given(st.lists(st.builds(Symbol, upper_half, st.sampled_from("tTdD"), names)), upper_half)
def test_lookup_agrees_with_a_search(symbols: list[Symbol], linear: int) -> None:
    table = table_of(symbols, end=KERNEL_HALF + 150)
    below = [symbol for symbol in symbols if symbol.address <= linear]
    start = table.address_of("_text")
    found = table.find(linear)
    if not below or linear >= KERNEL_HALF + 150 or (start is not None and linear < start):
        assert found is None
    else:
        nearest = max(symbol.address for symbol in below)
        first = next(symbol for symbol in symbols if symbol.address == nearest)
        assert found == (first, linear - nearest)
