import io

import pytest
from rich.console import Console
from rich.table import Table

from tracer.report.tables import made_table

NAMES = "hpet", "virtio-net.msix-table", "ich9-lpc.acpi-cpu-hotplug"
HEADINGS = "region", "reads", "writes", "emulated", "compiled", "stepped", "call sites"


def printed(table: Table, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


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


@pytest.mark.parametrize("width", [1, 2, 5, 12])
def test_a_table_without_room_is_printed_all_the_same(width: int) -> None:
    table = made_table("region", "register", "accesses", texts=2)
    table.add_row("device6.pci", "NAME", "512")
    text = "".join("".join(printed(table, width)).split())
    assert "device6.pci" in text and "512" in text


def test_wide_characters_have_the_room_that_they_take() -> None:
    table = made_table("region", "accesses")
    table.add_row("\u5bc4\u5b58\u5668" * 4, "7")
    assert any(line.split() == ["\u5bc4\u5b58\u5668" * 4, "7"] for line in printed(table, 80))
