"""``vetrace recover``: what was in the ring comes after what is in the trace, once."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import input_row
import msgspec
import pytest
import trace_sample as sample
from block_sample import WINDOW, asked_row, block, lines, row

from tracer.cli import main
from tracer.compiled import layout
from tracer.compiled.inputs import FIRST, Input
from tracer.compiled.module import Kind
from tracer.trace import codec
from tracer.trace.compiled import SiteRecord
from tracer.trace.reader import TraceReader
from tracer.trace.record import End, Intercept, Line
from tracer.trace.recorder import FlightRecorder
from tracer.trace.writer import TraceWriter, earlier_of, ring_of

SLOTS = 16
THREAD = 0x8801
SIZE = SLOTS * layout.SLOT_SIZE
Output = pytest.CaptureFixture[str]


def numbered(number: int, site: int = 0) -> bytes:
    """The record that the guest wrote as its ``number``-th, from 0."""
    data = row(site, tsc=1000 + number, read=number, thread=THREAD)
    return struct.pack("<Q", SIZE + number * layout.SLOT_SIZE) + data[8:]


def killed(
    folder: Path,
    taken: int,
    left: int,
    *,
    name: str = "run.vtrace.zst",
    site: int = 0,
    last: int | None = None,
    sites: tuple[SiteRecord, ...] = (),
) -> Path:
    """The trace of a run that was killed, and its ring."""
    path = folder / name
    told: list[Line] = [*lines(0)[:3], *sites]
    for number in range(taken):
        told.append(block(numbered(number), seq=number, time_ns=number))
    header = sample.HEADER
    with (
        TraceWriter(path, header) if last is None else FlightRecorder(path, header, last) as writer
    ):
        for line in told:
            writer.append(line)
    ring = bytearray(layout.block_size(SLOTS))
    for number in range(taken + left):
        at = layout.RING + number % SLOTS * layout.SLOT_SIZE
        ring[at : at + layout.SLOT_SIZE] = numbered(number, site)
    head = SIZE + (taken + left) * layout.SLOT_SIZE
    for word, value in {"HEAD": head, "RING_MASK": SIZE - 1, "WINDOW": WINDOW}.items():
        struct.pack_into("<Q", ring, layout.control_field(word), value)
    ring_of(path).write_bytes(ring)
    return path


def read(path: Path) -> tuple[list[int], End | None]:
    with TraceReader(path) as trace:
        values = [
            record.accesses[0].value or 0 for record in trace if isinstance(record, Intercept)
        ]
        assert trace.damage is None
    return values, trace.end


def read_numbers(path: Path) -> list[int]:
    with TraceReader(path) as trace:
        return [record.seq for record in trace if isinstance(record, Intercept)]


@pytest.mark.parametrize("name", ["run.vtrace", "run.vtrace.zst"])
@pytest.mark.parametrize(("taken", "left"), [(0, 0), (0, 5), (3, 0), (3, 5), (20, 16)])
def test_what_was_in_the_ring_comes_last(
    tmp_path: Path, capsys: Output, name: str, taken: int, left: int
) -> None:
    path = killed(tmp_path, taken, left, name=name)
    assert main.main(["recover", str(path)]) == 0
    assert capsys.readouterr().out == f"{left} accesses recovered: {path}\n"
    values, end = read(path)
    assert values == list(range(taken + left))
    assert end is not None and end.outcome.startswith("killed")
    assert end.counts["accesses"] == taken + left and end.counts["recovered"] == left
    assert sorted(tmp_path.iterdir()) == [path]
    if values:
        assert main.main(["replay", str(path)]) == 0
        capsys.readouterr()
    before = path.read_bytes()
    assert main.main(["recover", str(path)]) == 0
    assert "nothing to recover" in capsys.readouterr().out and path.read_bytes() == before


def test_the_phase_of_what_comes_from_the_ring_is_not_guessed(tmp_path: Path) -> None:
    path = killed(tmp_path, 1, 2)
    assert main.main(["recover", str(path)]) == 0
    with TraceReader(path) as trace:
        threads = [record.thread for record in trace if isinstance(record, Intercept)]
    assert threads == [THREAD, None, None]


@pytest.mark.parametrize("left", [0, 5])
@pytest.mark.parametrize("later", ["whole", "its beginning", "its header", "nothing"])
def test_of_a_run_that_kept_the_last_accesses_all_files_become_one(
    tmp_path: Path, capsys: Output, later: str, left: int
) -> None:
    path = killed(tmp_path, 10, left, name="run.vtrace", last=4)
    earlier, text = earlier_of(path), path.read_bytes().splitlines(keepends=True)
    assert read_numbers(earlier) == [4, 5, 6, 7] and read_numbers(path) == [8, 9]
    if later == "nothing":
        path.unlink()
    elif later != "whole":
        path.write_bytes(b"".join(text[: 1 if later == "its header" else 3]))
    assert main.main(["recover", str(path)]) == 0
    # The ring still has the rest.
    values, end = read(path)
    assert values == list(range(4, 10 + left)) and sorted(tmp_path.iterdir()) == [path]
    assert end is not None and end.counts["left_out"] == 4
    capsys.readouterr()
    assert main.main(["replay", str(path)]) == 0


def test_what_an_earlier_run_kept_is_not_put_before_another_ones_trace(
    tmp_path: Path, capsys: Output
) -> None:
    path = killed(tmp_path, 3, 2)
    earlier = earlier_of(path)
    with TraceWriter(earlier, msgspec.structs.replace(sample.HEADER, created="before")):
        pass
    assert main.main(["recover", str(path)]) == 0
    assert read(path)[0] == [0, 1, 2, 3, 4] and earlier.is_file()


def test_a_record_that_was_cut_is_left_out(tmp_path: Path, capsys: Output) -> None:
    path = killed(tmp_path, 3, 2, name="run.vtrace")
    path.write_bytes(path.read_bytes() + b'{"type":"ma')
    assert main.main(["recover", str(path)]) == 0
    assert read(path)[0] == [0, 1, 2, 3, 4]


def test_another_file_leaves_the_trace_alone(tmp_path: Path, capsys: Output) -> None:
    path, out = killed(tmp_path, 3, 5), tmp_path / "out.vtrace"
    before = path.read_bytes(), ring_of(path).read_bytes()
    for _ in range(2):
        assert main.main(["recover", str(path), "-o", str(out)]) == 0
        assert read(out)[0] == list(range(8))
    assert (path.read_bytes(), ring_of(path).read_bytes()) == before
    assert main.main(["recover", str(path), "-o", str(path)]) == 2


def test_a_trace_of_today_takes_the_ring_of_yesterday_away(tmp_path: Path) -> None:
    path = killed(tmp_path, 3, 5)
    earlier_of(path).touch()
    sample.write(path)
    old = path.with_name(f"{path.name}.old")
    assert old.is_file() and ring_of(old).is_file() and not ring_of(path).exists()
    assert earlier_of(old).is_file() and not earlier_of(path).exists()
    sample.write(path)
    assert not ring_of(old).exists() and not earlier_of(old).exists()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda ring: ring.unlink(), "there is no "),
        (lambda ring: ring.write_bytes(b""), "0 bytes are no ring"),
        (lambda ring: ring.write_bytes(ring.read_bytes()[:-7]), "powers of two"),
        (lambda ring: ring.write_bytes(bytes(len(ring.read_bytes()))), "a ring of 1 bytes"),
        (lambda ring: (ring.unlink(), ring.mkdir()), "cannot read "),
    ],
)
def test_a_ring_that_is_none_is_told_in_a_line(
    tmp_path: Path, capsys: Output, spoil: object, why: str
) -> None:
    path = killed(tmp_path, 3, 5)
    before = path.read_bytes()
    spoil(ring_of(path))  # type: ignore[operator]  # one of the above
    assert main.main(["recover", str(path)]) == 1
    told = capsys.readouterr()
    assert not told.out and why in told.err and len(told.err.splitlines()) == 1
    assert path.read_bytes() == before
    assert {each.name for each in tmp_path.iterdir()} <= {path.name, ring_of(path).name}


def test_a_pipe_that_does_not_get_it_all_stays(tmp_path: Path, capsys: Output) -> None:
    path, pipe = killed(tmp_path, 3, 5, site=9), tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert main.main(["recover", str(path), "-o", str(pipe)]) == 1
    finally:
        os.close(reader)
    assert "is not the ring of" in capsys.readouterr().err and pipe.is_fifo()


def test_the_ring_of_another_run_is_refused(tmp_path: Path, capsys: Output) -> None:
    path = killed(tmp_path, 3, 5, site=9)
    assert main.main(["recover", str(path)]) == 1
    told = capsys.readouterr().err
    assert f"{ring_of(path)} is not the ring of {path}: a record of site 9" in told


def test_what_is_no_trace_is_told(tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "run.vtrace"
    path.write_bytes(b"nothing\n")
    for name in (str(path), str(tmp_path / "gone")):
        assert main.main(["recover", name]) == 1
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_a_guest_of_tdx_asked_for_is_recovered_with_its_sites(
    tmp_path: Path, capsys: Output
) -> None:
    path = killed(tmp_path, 1, 4)
    ring = bytearray(ring_of(path).read_bytes())
    rows = (
        asked_row("8b07", 0x1000, tsc=1001, read=1),
        row(Kind.TDCALL),
        asked_row("890f", 0x2000, tsc=1003, written=3, rcx=3),
    )
    for number, data in enumerate(rows, 1):
        at = layout.RING + number * layout.SLOT_SIZE
        ring[at + 8 : at + layout.SLOT_SIZE] = data[8:]
    ring_of(path).write_bytes(ring)
    assert main.main(["recover", str(path)]) == 0
    assert capsys.readouterr().out == f"3 accesses recovered: {path}\n"
    with TraceReader(path) as trace:
        made = [record for record in trace if isinstance(record, Intercept)]
    assert [record.via for record in made] == ["compiled", "guest", "guest", "compiled"]
    assert [record.accesses[0].value for record in made] == [0, 1, 3, 4]
    assert [record.rip for record in made[1:3]] == [0x1000, 0x2000] and made[1].agrees
    assert trace.end is not None
    assert (trace.end.counts["compiled"], trace.end.counts["guest"]) == (2, 2)


def with_rows(path: Path, *rows: bytes) -> None:
    """Have these in the ring, behind the first record."""
    ring = bytearray(ring_of(path).read_bytes())
    for number, data in enumerate(rows, 1):
        at = layout.RING + number * layout.SLOT_SIZE
        ring[at + 8 : at + layout.SLOT_SIZE] = data[8:]
    ring_of(path).write_bytes(ring)


def recovered_inputs(path: Path) -> list[tuple[str, str, int | None]]:
    with TraceReader(path) as trace:
        made = [record for record in trace if isinstance(record, Intercept)]
    return [
        (record.text, record.accesses[0].space, record.accesses[0].value)
        for record in made
        if record.via == "monitor"
    ]


def test_inputs_are_recovered_whatever_is_known_of_their_code(tmp_path: Path) -> None:
    path = killed(tmp_path, 1, 4)
    with_rows(
        path, input_row.row(Input.PORT, 0x60, 0x1C), input_row.row(Input.MSR, 0x10, 5),
        input_row.row(Input.CPUID, 1, 1, 2, 3, 4),
    )  # fmt: skip
    assert main.main(["recover", str(path)]) == 0
    assert recovered_inputs(path) == [
        ("in", "port", 0x1C),
        ("rdmsr", "msr", 5),
        ("cpuid", "cpuid", 1),
    ]
    with TraceReader(path) as trace:
        list(trace)
        assert trace.end is not None
        assert (trace.end.counts["compiled"], trace.end.counts["monitor"]) == (2, 6)


def test_code_that_the_trace_has_told_is_known_and_other_kinds_were_not_wanted(
    tmp_path: Path,
) -> None:
    told = SiteRecord(
        time_ns=0, number=FIRST, rip=0x1000, symbol="inb+0x1", code=b"\xec", text="in al, dx",
        asked="read", width=1, space="port",
    )  # fmt: skip
    path = killed(tmp_path, 0, 4, sites=(told,))
    with_rows(path, input_row.row(Input.PORT, 0x60, 0x1C), input_row.row(Input.MSR, 0x10, 5))
    assert main.main(["recover", str(path)]) == 0
    assert recovered_inputs(path) == [("in al, dx", "port", 0x1C)]


def test_a_ring_with_a_record_of_no_kind_is_refused(tmp_path: Path, capsys: Output) -> None:
    path = killed(tmp_path, 1, 1)
    ring = bytearray(ring_of(path).read_bytes())
    at = layout.RING + layout.SLOT_SIZE + layout.RECORD_FIELDS["SITE"]
    ring[at : at + 4] = b"\x09\xff\xff\xff"
    ring_of(path).write_bytes(ring)
    assert main.main(["recover", str(path)]) == 1
    assert "is not a valid Kind" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (block(row()[:-1]), "255 bytes"),
        (block(row(7)), "site 7, which is not known"),
        (block(row(physical=-1)), "an access at 0xffffffffffffffff"),
    ],
)
def test_a_line_that_nothing_can_be_made_of_is_told_with_its_place(
    tmp_path: Path, capsys: Output, bad: Line, why: str
) -> None:
    path = killed(tmp_path, 2, 0)
    ring = ring_of(path).read_bytes()
    with TraceReader(path) as trace:
        told = [codec.decode(line, number) for number, line in trace.lines()]
    with TraceWriter(path, sample.HEADER) as writer:
        for line in [*told, bad]:
            writer.append(line)  # type: ignore[arg-type]  # all of them are known
    ring_of(path).write_bytes(ring)
    assert main.main(["recover", str(path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"vetrace: {path}: line {len(told) + 2}: ") and why in said
    assert said.count("\n") == 1 and ring_of(path).exists()
