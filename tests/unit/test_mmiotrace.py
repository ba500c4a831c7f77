"""The log of Linux's own MMIO tracer: written, read, and round."""

from __future__ import annotations

from pathlib import Path

import pytest
import trace_sample as sample
from hypothesis import given
from hypothesis import strategies as st

from tracer import cli
from tracer.errors import TraceError
from tracer.mmiotrace import MmiotraceLog, MmiotraceReader
from tracer.trace import Intercept, MapRecord, Mark, Record, RegionRecord, UserRecord
from tracer.tracefile import TraceReader

Output = pytest.CaptureFixture[str]

# As kernel/trace/trace_mmiotrace.c prints it, with what ftrace puts before it.
KERNEL_LOG = """\
# tracer: mmiotrace
VERSION 20070824
PCIDEV 0018 1b360010 b febf0004 0 0 0 0 0 0 4000 0 0 0 0 0 0 nvme
MARK 12.000000 modprobe nvme
MAP 12.345678 1 0xfebf0000 0xffffc90000034000 0x2000 0x0 0
R 4 12.345700 1 0xfebf001c 0x0 0xffffffffc0001234 0
W 4 12.345800 1 0xfebf0014 0x460001 0xffffffffc0001300 0
MAP 12.400000 2 0xfed00000 0xffffc90000040000 0x1000 0x0 0
R 8 12.400001 2 0xfed000f0 0x123456789abcdef0 0x0 0
UNKNOWN 12.500000 1 0xfebf0000 0f,ae,38 0xffffffffc0001400 0
R 1 12.600000 9 0xc0000010 0xff 0x0 0
UNMAP 12.700000 1 0x0 0
"""


def imported(text: str) -> list[Record]:
    reader = MmiotraceReader()
    return [
        record
        for number, line in enumerate(text.splitlines(), 1)
        for record in reader.records(line, number)
    ]


def exported(records: list[Record]) -> list[str]:
    log = MmiotraceLog()
    lines = log.opening()
    for record in records:
        wanted = record.device_accesses() if isinstance(record, Intercept) else []
        lines += log.lines(record, wanted)
    return lines


def test_a_kernel_log_has_its_accesses_in_the_regions_it_names() -> None:
    accesses = [r.accesses[0] for r in imported(KERNEL_LOG) if isinstance(r, Intercept)]
    assert [(a.direction, a.width, a.region, a.offset, a.value) for a in accesses] == [
        ("read", 4, "nvme.bar0", "0x1c", "0x0"),
        ("write", 4, "nvme.bar0", "0x14", "0x460001"),
        ("read", 8, "map-0xfed00000", "0xf0", "0x123456789abcdef0"),
        ("read", 1, "page-0xc0000000", "0x10", "0xff"),
    ]
    assert accesses[0].linear == "0xffffc9000003401c"


def test_a_kernel_log_numbers_its_accesses_and_keeps_times_and_sites() -> None:
    records = [r for r in imported(KERNEL_LOG) if isinstance(r, Intercept)]
    assert [r.seq for r in records] == [0, 1, 2, 3]
    assert records[0].time_ns == 12_345_700_000
    assert records[0].rip == "0xffffffffc0001234"
    assert {r.via for r in records} == {"stepped"}


def test_what_has_no_record_of_its_own_is_kept_as_a_mark() -> None:
    marks = [r.text for r in imported(KERNEL_LOG) if isinstance(r, Mark)]
    assert [text.split()[0] for text in marks] == ["PCIDEV", "modprobe", "UNKNOWN", "UNMAP"]


def test_a_kernel_log_comes_out_as_it_went_in() -> None:
    lines = [line for line in exported(imported(KERNEL_LOG)) if "vetrace region" not in line]
    # But for the map id of an access whose mapping the log does not have.
    expected = KERNEL_LOG.replace("12.600000 9 ", "12.600000 0 ").splitlines()[1:]
    assert lines == expected


def test_a_trace_goes_out_and_comes_in_with_the_same_regions_and_values() -> None:
    back = imported("\n".join(exported(sample.RECORDS)))
    assert [r.region.name for r in back if isinstance(r, RegionRecord)] == list(sample.START)
    assert next(r for r in back if isinstance(r, MapRecord)).linear == "0xffffc90000000000"

    def told(records: list[Record]) -> list[tuple[object, ...]]:
        return [
            (a.direction, a.width, a.region, a.offset, a.physical, a.value)
            for r in records
            if isinstance(r, Intercept)
            for _, a in r.device_accesses()
            if a.value is not None
        ]

    assert told(back) == told(sample.RECORDS) and len(told(back)) == 4


def test_what_a_person_did_is_a_mark() -> None:
    record = UserRecord(time_ns=1_000_000, text="poke nvme+0x14 0x0")
    assert MmiotraceLog().lines(record, []) == ["MARK 0.001000 vetrace user poke nvme+0x14 0x0"]


def test_a_value_that_is_not_known_is_unknown() -> None:
    (line,) = [line for line in exported(sample.RECORDS) if line.startswith("UNKNOWN")]
    assert line == "UNKNOWN 0.214318 0 0xfee00020 8b,40,1c 0xffffffff81234567 0"


def test_what_a_terminal_would_obey_is_escaped() -> None:
    texts = ["\x1b[2J", "PCIDEV \x07\tbell", "é"]
    lines = exported([Mark(time_ns=0, text=text) for text in texts])
    assert lines[1:] == ["MARK 0.000000 \\x1b[2J", "PCIDEV \\x07\tbell", "MARK 0.000000 é"]


def test_a_mark_stays_on_its_line() -> None:
    lines = exported([Mark(time_ns=1_000, text="two\nlines")])
    assert lines[-1] == "MARK 0.000001 two lines"


@pytest.mark.parametrize(
    "line",
    [
        "VERSION 20070825",
        "GIF89a",
        "R 4",
        "R 4 1.0 1 0x0 0x0 0x0",
        "R 3 1.0 1 0x0 0x0 0x0 0",
        "R 1 1.0 1 0x0 0x100 0x0 0",
        "R 4 now 1 0x0 0x0 0x0 0",
        "R 4 1.0 1 nvme 0x0 0x0 0",
        "MAP 1.0 1 0x0",
        "PCIDEV 0018",
        "MARK 1.0 vetrace region {",
        "MARK 1.0 vetrace region {}",
        "\0\0\0",
    ],
)
def test_what_is_no_line_of_a_log_is_refused_with_its_number(line: str) -> None:
    with pytest.raises(TraceError, match=r"^line 7: "):
        list(MmiotraceReader().records(line, 7))


@given(st.text(max_size=80))
def test_no_line_raises_anything_else(line: str) -> None:
    for word in (
        "",
        "R ",
        "W 4 ",
        "MAP ",
        "UNMAP ",
        "PCIDEV ",
        "VERSION ",
        "MARK 1.0 vetrace region ",
    ):
        try:
            list(MmiotraceReader().records(word + line, 1))
        except TraceError as error:
            assert str(error).isprintable()


# --- the commands ----------------------------------------------------------------------------


def test_a_trace_and_a_log_are_the_same_to_the_commands(tmp_path: Path, capsys: Output) -> None:
    trace = sample.write(tmp_path / "run.vtrace")
    log, back, again = (tmp_path / name for name in ("log", "back.vtrace", "again"))
    assert cli.main(["export", str(trace), "--format", "mmiotrace", "-o", str(log)]) == 0
    assert cli.main(["import", str(log), "-o", str(back)]) == 0
    assert cli.main(["export", str(back), "--format", "mmiotrace", "-o", str(again)]) == 0
    assert again.read_text() == log.read_text()
    with TraceReader(back) as reader:
        records = list(reader)
    assert reader.damage is None and reader.end is not None
    assert reader.end.counts["accesses"] == sum(isinstance(r, Intercept) for r in records) == 4
    capsys.readouterr()
    for command in ("show", "stats"):
        assert cli.main([command, str(back)]) == 0
    # All but the access whose value is not known.
    assert cli.main(["diff", str(trace), str(back), "--exact", "--region", "[hn]*"]) == 0
    assert cli.main(["replay", str(back)]) == 3


def test_show_has_the_format_too(tmp_path: Path, capsys: Output) -> None:
    trace = sample.write(tmp_path / "run.vtrace")
    assert cli.main(["show", str(trace), "--format", "mmiotrace", "--write"]) == 0
    out, _ = capsys.readouterr()
    assert out.startswith("VERSION 20070824\n")
    assert [line[0] for line in out.splitlines() if line[1] == " "] == ["W", "W"]


def test_a_bad_log_is_one_line_and_what_came_before_is_a_trace(
    tmp_path: Path, capsys: Output
) -> None:
    log = tmp_path / "log"
    log.write_bytes(KERNEL_LOG.encode() + b"\xff\xfe\n")
    assert cli.main(["import", str(log), "-o", str(tmp_path / "t")]) == 1
    assert capsys.readouterr().err.startswith(f"vetrace: {log}: line 13: not a line of")
    with TraceReader(tmp_path / "t") as reader:
        assert sum(isinstance(r, Intercept) for r in reader) == 4
    assert reader.damage is not None


def test_a_log_is_never_overwritten_by_its_trace(tmp_path: Path, capsys: Output) -> None:
    log = tmp_path / "log"
    log.write_text(KERNEL_LOG)
    assert cli.main(["import", str(log), "-o", str(log)]) == 2
    assert log.read_text() == KERNEL_LOG


def test_a_line_without_an_end_is_refused(tmp_path: Path, capsys: Output) -> None:
    log = tmp_path / "log"
    log.write_text("MARK 1.0 " + "x" * 200_000)
    assert cli.main(["import", str(log), "-o", str(tmp_path / "t")]) == 1
    assert "line 1: too long" in capsys.readouterr().err


def test_a_log_that_is_not_there_is_named(tmp_path: Path, capsys: Output) -> None:
    assert cli.main(["import", str(tmp_path / "no"), "-o", str(tmp_path / "t")]) == 1
    assert f"cannot read {tmp_path / 'no'}: No such file" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"VERSION 20070824\nnonsense\n", b"x" * 70_000])
def test_a_log_that_is_none_leaves_the_old_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    log, old = tmp_path / "log", tmp_path / "old.vtrace"
    log.write_bytes(content)
    old.write_bytes(b"old")
    assert cli.main(["import", str(log), "-o", str(old)]) == 1
    assert old.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == [log, old]
    said = capsys.readouterr().err
    assert said.startswith(f"vetrace: {log}: line ") and said.count("\n") == 1
