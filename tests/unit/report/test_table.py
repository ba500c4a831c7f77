import io
import sys

import pytest
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table as RichTable

from tracer.report.table import Table, made_table

NAMES = "hpet", "virtio-net.msix-table", "ich9-lpc.acpi-cpu-hotplug"
HEADINGS = "region", "reads", "writes", "emulated", "compiled", "stepped", "call sites"


def printed(table: RenderableType, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def rows(count: int) -> Table:
    table = made_table("region", "register", "accesses", texts=2)
    for number in range(count):
        table.add_row(f"device{number % 7}.pci", "NAME" * (number % 9), number**3)
    return table


def calls_to_print(table: Table, width: int) -> int:
    count = 0

    def called(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        printed(table, width)
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("width", [66, 80, 120])
def test_no_name_gives_way_to_numbers(width: int) -> None:
    table = made_table(*HEADINGS)
    for name in NAMES:
        table.add_row(name, "1,573", "1,532", "53", "123,456", "0", "49")
    lines = printed(table, width)
    assert max(map(len, lines)) <= width and "…" not in "".join(lines)
    rule = next(at for at, line in enumerate(lines) if "──" in line)
    assert " ".join(lines[rule - 1].split()).startswith("region reads writes emulated compiled")
    rows = [line.split() for line in lines[rule + 1 :] if line]
    assert [row[-6:] for row in rows if len(row) > 1] == [
        ["1,573", "1,532", "53", "123,456", "0", "49"]
    ] * len(NAMES)
    # A name may go on below.
    assert "".join(row[0] for row in rows) == "".join(NAMES)


@pytest.mark.parametrize("width", [28, 40, 60])
def test_where_numbers_have_no_room_in_a_row_they_have_lines(width: int) -> None:
    table = made_table(*HEADINGS)
    for name in NAMES:
        table.add_row(name, "1,573", "1,532", "53", "123,456", "0", "49")
    table.caption = "traced, not accessed: ecam"
    lines = printed(table, width)
    assert max(map(len, lines)) <= width and "…" not in "".join(lines)
    assert [line for line in lines if line in NAMES] == list(NAMES)
    text = " ".join("".join(f"{line}\n" for line in lines).split())
    assert text.count("reads 1,573 writes 1,532 emulated 53 compiled 123,456 stepped 0") == 3
    assert text.count("call sites 49") == 3 and lines[-1] == "traced, not accessed: ecam"[:width]


def test_a_table_that_has_room_keeps_its_distances() -> None:
    table = made_table(*HEADINGS)
    table.add_row("hpet", "1", "2", "3", "4", "5", "6")
    wide = printed(table, 120)
    assert "region   reads   writes   emulated   compiled   stepped   call sites" in wide[1]


@pytest.mark.parametrize("width", [60, 120])
def test_a_long_table_costs_little_a_row(width: int) -> None:
    few, many = calls_to_print(rows(200), width), calls_to_print(rows(1200), width)
    assert many - few < 1000 * 60


@pytest.mark.parametrize("caption", ["", "traced, not accessed: " + "a-region, " * 30])
def test_what_fits_looks_as_rich_has_it(caption: str) -> None:
    own = rows(30)
    own.add_row("\u5bc4\u5b58\u5668", "caf\u00e9", 7)
    own.caption = caption
    witness = RichTable(
        box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", caption_justify="left",
        caption=caption or None, caption_style="none",
    )  # fmt: skip
    for column in own.columns:
        witness.add_column(column.heading, justify="right" if column.is_number else "left")
    for row in own.rows:
        witness.add_row(*row)
    assert printed(own, 100) == printed(witness, 100)


def test_a_table_without_rows_has_its_headings() -> None:
    assert "".join(printed(made_table("region", "accesses"), 80)).split()[:2] == [
        "region", "accesses",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [1, 2, 5, 12])
def test_a_table_without_room_is_printed_all_the_same(width: int) -> None:
    text = "".join("".join(printed(rows(9), width)).split())
    assert "device6.pci" in text and "512" in text
