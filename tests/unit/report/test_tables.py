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
