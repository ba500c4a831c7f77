"""SQLite databases: what SQL finds in them."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trace_sample as sample
from msgspec.structs import replace

from tracer.cli import main
from tracer.trace.call import SharedRecord, TdcallRecord
from tracer.trace.queue import QueueEntry, QueueRecord
from tracer.trace.record import Intercept, Mark, Record, StackFrame, StackRecord, UserRecord
from tracer.trace.waiting import WaitRecord, WayOut

Output = pytest.CaptureFixture[str]


def database(tmp_path: Path, records: list[Record] = sample.RECORDS, *more: str) -> Path:
    trace, made = tmp_path / "run.vtrace", tmp_path / "run.db"
    sample.write(trace, records)
    done = main.main(["export", str(trace), "--format", "sqlite", "-o", str(made), *more])
    assert done == 0
    return made


def ask(path: Path, question: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(path) as opened:
        return opened.execute(question).fetchall()


def test_an_access_is_a_row(tmp_path: Path) -> None:
    made = database(tmp_path)
    assert ask(made, "PRAGMA integrity_check") == [("ok",)]
    assert ask(made, "SELECT seq, region, register, direction, width, value FROM access") == [
        (0, "nvme", "CSTS", "read", 4, 1),
        (1, "nvme", "CC", "write", 4, 0x460001),
        (2, "nvme.msix-table", "ENTRY[0].ADDR", "write", 4, 7),
        (3, "hpet", "MAIN_CNT", "read", 8, 0x1234_5678_9ABC_DEF0),
        (4, "lapic", "ID", "read", 4, None),
    ]  # fmt: skip
    (row,) = ask(made, "SELECT rip, function, code, address, via, space FROM access WHERE seq = 0")
    assert row == (
        "0xffffffff81234567", "nvme_pci_enable", "8b401c", 0xFEBF001C, "emulated", "memory",
    )  # fmt: skip
    assert ask(made, "SELECT value FROM trace WHERE name = 'kernel'") == [("vmlinuz",)]


def test_an_access_that_is_there_twice_is_refused(tmp_path: Path, capsys: Output) -> None:
    trace, made = tmp_path / "run.vtrace", tmp_path / "run.db"
    sample.write(trace, [*sample.RECORDS[:-1], sample.RECORDS[-2], sample.RECORDS[-1]])
    assert main.main(["export", str(trace), "--format", "sqlite", "-o", str(made)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vetrace: ") and "an access is there twice" in line
    assert not made.exists()


def test_registers_are_decoded(tmp_path: Path) -> None:
    made = database(tmp_path)
    fields = ask(
        made, "SELECT field, field_value, meaning FROM decoded WHERE register = 'CC'"
        " AND field_value > 0 ORDER BY field",
    )  # fmt: skip
    assert ("EN", 1, None) in fields and ("IOSQES", 6, None) in fields
    assert ask(made, "SELECT count(*) FROM decoded WHERE region = 'lapic'") == [(0,)]


def test_call_chains_and_marks_have_tables(tmp_path: Path) -> None:
    chain = StackRecord(time_ns=0, id=7, frames=[frame("a+0x1"), frame("b+0x2")])
    first = sample.RECORDS[6]
    assert isinstance(first, Intercept)
    records: list[Record] = [
        sample.region("nvme"), chain, replace(first, stack=7),
        Mark(time_ns=214_318_002, text="half", qemu_log_offset=None), sample.end(1),
    ]  # fmt: skip
    made = database(tmp_path, records)
    assert ask(made, "SELECT site FROM stack JOIN access ON number = stack ORDER BY depth") == [
        ("a+0x1",), ("b+0x2",),
    ]  # fmt: skip
    assert ask(made, "SELECT * FROM mark") == [(214_318_002, 0, "mark", "half", "mark: half")]


def test_what_stands_between_accesses_is_there_as_it_is_shown(tmp_path: Path) -> None:
    at = {"time_ns": 214_318_003, "vcpu": 0, "rip": 0xFFFFFFFF81234567, "symbol": "share+0x1"}
    records: list[Record] = [
        sample.region("nvme"), sample.RECORDS[6],
        UserRecord(time_ns=214_318_001, text="mark \udcff"),
        SharedRecord(**at, what="map", physical=0x1000, size=0x2000, shared=True),
        TdcallRecord(**at, leaf=1, name="TDG.VP.INFO", given={"rax": 1}, returned={"r8": 2}),
        WaitRecord(**at, seq=0, region="nvme", offset=0x1C, width=4, register="CSTS",
                   awaited=[WayOut(rip=1, mask=1, value=1)]),
        sample.end(1),
    ]  # fmt: skip
    assert ask(database(tmp_path, records), "SELECT kind, text, line FROM mark") == [
        ("user", "mark \\udcff", "user: mark \\udcff"),
        ("shared", "map", "shared: 0x2000 bytes of RAM at physical 0x1000 to be shared at"
         " share+0x1"),
        ("tdcall", "TDG.VP.INFO", "tdcall: TDG.VP.INFO → r8=0x2 at share+0x1"),
        ("wait", "CSTS", "waits: nvme CSTS until bit 0=1; nothing else ends it"),
    ]  # fmt: skip


def test_what_doorbells_told_has_tables(tmp_path: Path) -> None:
    entry = QueueEntry(kind="COMMAND", index=3, physical=0x1000, data=b"\x02\x01", text="OPC=read",
                       fields={"OPC": 2, "SLBA": (1 << 64) - 1})  # fmt: skip
    used = QueueEntry(kind="used", index=0, physical=1 << 63, data=b"", chain=7)
    told = QueueRecord(time_ns=9, seq=0, vcpu=0, region="nvme", queue="SQ", number=1, late=True,
                       entries=[entry, used], note="1 more entries")  # fmt: skip
    first = sample.RECORDS[6]
    made = database(tmp_path, [sample.region("nvme"), first, told, told, sample.end(1)])
    assert ask(made, "SELECT * FROM queue WHERE id = 2") == [
        (2, 0, 9, "nvme", "SQ", 1, 1, "1 more entries"),
    ]  # fmt: skip
    assert ask(made, "SELECT * FROM entry WHERE queue = 1 ORDER BY position") == [
        (1, 0, "COMMAND", 3, None, 0x1000, "0201", "OPC=read"),
        (1, 1, "used", 0, 7, hex(1 << 63), "", None),
    ]  # fmt: skip
    # The access of each read command.
    asked = ask(made, "SELECT DISTINCT access.register FROM access JOIN queue USING (seq)"
                " JOIN entry_field ON entry_field.queue = id"
                " WHERE name = 'OPC' AND entry_field.value = 2")  # fmt: skip
    assert asked == [("CSTS",)]
    assert ask(made, "SELECT value FROM entry_field WHERE name = 'SLBA' AND queue = 1") == [
        (hex((1 << 64) - 1),)
    ]


def frame(site: str) -> StackFrame:
    return StackFrame(rip=0x1000, symbol=site)


def test_wide_numbers_are_texts(tmp_path: Path) -> None:
    wide = sample.intercept(0, sample.device("nvme", 0x28, 8, "write", 1 << 63))
    made = database(tmp_path, [sample.region("nvme"), wide, sample.end(1)])
    assert ask(made, "SELECT value FROM access") == [("0x8000000000000000",)]


def test_what_is_asked_for_often_has_an_index(tmp_path: Path) -> None:
    made = database(tmp_path)
    (plan, *_) = ask(
        made, "EXPLAIN QUERY PLAN SELECT * FROM access WHERE region = 'nvme' AND register = 'CC'"
    )
    assert "access_by_register" in plan[-1]


def test_filters_choose_the_rows(tmp_path: Path, capsys: Output) -> None:
    made = database(tmp_path, sample.RECORDS, "--region", "nvme", "--write")
    assert ask(made, "SELECT count(*) FROM access") == [(2,)]
    assert "2 accesses written to" in capsys.readouterr().err


def test_the_query_of_the_docs_answers(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "trace-format.md").read_text()
    query = page.partition("In SQLite:\n\n```sql\n")[2].partition("```")[0]
    assert query
    assert ask(database(tmp_path), query) == [("nvme", "CC", 3), ("nvme", "CSTS", 1)]


def test_standard_output_and_the_tool_itself_have_it(tmp_path: Path) -> None:
    made = database(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "tracer", "export", str(tmp_path / "run.vtrace"), "--format",
         "sqlite", "-o", "-"],
        cwd=Path(__file__).parents[3], capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.startswith(b"SQLite format 3\0")
    tool = shutil.which("sqlite3")
    if tool is not None:
        told = subprocess.run([tool, str(made), "SELECT count(*) FROM access"], capture_output=True)
        assert told.stdout == b"5\n"
