"""Traces on disk: written as it happens, read as far as they go."""

from __future__ import annotations

import gc
import io
import os
import resource
import signal
import subprocess
import sys
import textwrap
import tracemalloc
from pathlib import Path
from typing import Any, cast, get_args

import msgspec
import pytest
import trace_sample as sample
import zstandard
from full_disk import room_for

from tracer.check.replay import Replay
from tracer.errors import TraceError
from tracer.text.amount import counted
from tracer.trace import codec, writer
from tracer.trace.call import SharedRecord, TdcallRecord, VmgexitRecord
from tracer.trace.queue import QueueRecord
from tracer.trace.reader import TraceReader
from tracer.trace.record import FORMAT_VERSION, LostRecord, Mark, Record, StackRecord, UserRecord
from tracer.trace.waiting import WaitRecord
from tracer.trace.writer import TraceWriter, check_trace_output

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests" / "data"
CONFIDENTIAL = {TdcallRecord, VmgexitRecord, SharedRecord}
LATER = {WaitRecord, QueueRecord}
"""Records that came within the version, after the files were written."""
NAMES = ["run.jsonl", "run.jsonl.zst"]


def read(path: Path) -> tuple[list[Record], TraceReader]:
    """Read all of a trace."""
    with TraceReader(path) as trace:
        return list(trace), trace


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    records, trace = read(sample.write(tmp_path / name))
    assert records == sample.RECORDS
    assert trace.header == sample.HEADER
    assert trace.end == sample.RECORDS[-1]
    assert trace.damage is None
    assert trace.records == len(sample.RECORDS)


@pytest.mark.parametrize(
    ("name", "lacks", "replayed"),
    [
        # The first is older than the records that came within its version.
        ("version-1", {StackRecord, UserRecord, LostRecord, *CONFIDENTIAL}, 11),
        ("version-1-hypercalls", {LostRecord, *CONFIDENTIAL}, 17),
        ("version-2", {LostRecord, *CONFIDENTIAL}, 17),
        ("version-3", {LostRecord, *CONFIDENTIAL}, 27),
        ("version-3-tdx", {StackRecord, UserRecord, LostRecord, VmgexitRecord}, 23),
        (
            "version-3-sev-es",
            {StackRecord, UserRecord, LostRecord, TdcallRecord, SharedRecord},
            25,
        ),
    ],
)
def test_a_file_of_each_version_is_read_and_replayed(
    name: str, lacks: set[type], replayed: int
) -> None:
    assert sorted(DATA.glob(f"version-{FORMAT_VERSION}*")), "each version has a file"
    records, trace = read(DATA / f"{name}.vtrace")
    assert trace.header.version == int(name.split("-")[1])
    assert trace.damage is None and not trace.unknown
    assert {type(record) for record in records} == set(get_args(Record)) - lacks - LATER
    replay = Replay()
    assert [found for record in records if (found := replay.add(record))] == []
    assert replay.counts.replayed == replayed


@pytest.mark.parametrize(
    ("older", "newer"), [("version-1-hypercalls", "version-2"), ("version-2", "version-3")]
)
def test_a_newer_version_says_what_the_one_before_said(older: str, newer: str) -> None:
    (old, before), (new, after) = (read(DATA / f"{name}.vtrace") for name in (older, newer))
    # The last one has blocks as well, which the end record counts.
    compiled = [record for record in new if getattr(record, "via", "") == "compiled"]
    assert bool(compiled) == (newer == f"version-{FORMAT_VERSION}")
    assert old[:-1] == [record for record in new[:-1] if record not in compiled]
    version = after.header.version
    assert msgspec.structs.replace(before.header, version=version) == after.header


def test_the_name_decides_on_compression(tmp_path: Path) -> None:
    plain, packed = (sample.write(tmp_path / name) for name in NAMES)
    assert plain.read_bytes().startswith(b'{"type":"header"')
    assert zstandard.ZstdDecompressor().stream_reader(packed.read_bytes()).read() == (
        plain.read_bytes()
    )


@pytest.mark.parametrize("name", NAMES)
def test_what_a_run_still_writes_is_left_to_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    told = "is being written by a run that goes on; choose another name"
    with TraceWriter(path, sample.HEADER) as writer:
        with pytest.raises(TraceError, match=told):
            TraceWriter(path, sample.HEADER)
        with pytest.raises(TraceError, match=told):
            check_trace_output(path)
        for record in sample.RECORDS:
            writer.append(record)
    assert [each.name for each in tmp_path.iterdir()] == [name]
    assert read(path)[0] == sample.RECORDS
    TraceWriter(path, sample.HEADER).close()
    assert read(path.with_name(f"{name}.old"))[0] == sample.RECORDS


def test_the_content_decides_when_reading(tmp_path: Path) -> None:
    packed = sample.write(tmp_path / "run.jsonl.zst").rename(tmp_path / "renamed")
    assert read(packed)[0] == sample.RECORDS


@pytest.mark.parametrize("name", NAMES)
def test_each_record_is_in_the_file_at_once(tmp_path: Path, name: str) -> None:
    with TraceWriter(tmp_path / name, sample.HEADER) as writer:
        for count, record in enumerate(sample.RECORDS, 1):
            writer.append(record)
            assert read(tmp_path / name)[0] == sample.RECORDS[:count]


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_writer_loses_nothing(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    program = (
        "import os, signal, sys, trace_sample as sample;"
        "from tracer.trace.writer import TraceWriter;"
        "writer = TraceWriter(sys.argv[1], sample.HEADER);"
        "list(map(writer.append, sample.RECORDS[:-1]));"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    folders = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "support")))
    environment = os.environ | {"PYTHONPATH": folders}
    done = subprocess.run([sys.executable, "-c", program, path], env=environment)
    assert done.returncode == -signal.SIGKILL
    records, trace = read(path)
    assert records == sample.RECORDS[:-1]
    assert trace.damage is not None and "no end record after line 12" in trace.damage


def test_a_plain_trace_cut_anywhere_keeps_its_whole_records(tmp_path: Path) -> None:
    data = sample.write(tmp_path / "run.jsonl").read_bytes()
    cut = tmp_path / "cut"
    first = data.index(b"\n") + 1
    for length in range(first, len(data)):
        cut.write_bytes(data[:length])
        records, trace = read(cut)
        assert records == sample.RECORDS[: data[:length].count(b"\n") - 1]
        assert trace.damage is not None


def test_a_packed_trace_cut_anywhere_keeps_its_whole_records(tmp_path: Path) -> None:
    ends = []
    path, cut = tmp_path / "run.zst", tmp_path / "cut"
    with TraceWriter(path, sample.HEADER) as writer:
        ends.append(path.stat().st_size)
        for record in sample.RECORDS:
            writer.append(record)
            ends.append(path.stat().st_size)
    data = path.read_bytes()
    for length in range(ends[0], ends[-1]):
        cut.write_bytes(data[:length])
        records, trace = read(cut)
        whole = sum(end <= length for end in ends) - 1
        # A record's block is followed by nothing that its bytes depend on, so a block that lacks
        # only its padding may give one record more; none may be lost.
        assert records[:whole] == sample.RECORDS[:whole]
        assert trace.damage is not None


def test_the_damage_tells_what_is_left_out(tmp_path: Path) -> None:
    path = sample.write(tmp_path / "run.jsonl")
    data = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(data[:5]) + data[5][:17])
    _, trace = read(path)
    assert trace.damage == (
        "the file is cut after line 5: 17 bytes of an unfinished record are left out"
    )


def test_damaged_compression_is_an_error_after_what_came_before(tmp_path: Path) -> None:
    long = sample.RECORDS * 100
    path = sample.write(tmp_path / "run.zst", long)
    # A second frame whose header is fine and whose only block has the reserved type 3:
    # RFC 8878, 3.1.1.2.2.
    path.write_bytes(path.read_bytes() + bytes.fromhex("28b52ffd 0058 070000"))
    records = []
    with (
        TraceReader(path) as trace,
        pytest.raises(TraceError, match=r"run\.zst: line 1202: ") as told,
    ):
        records.extend(trace)
    assert "compressed data is damaged" in str(told.value)
    assert trace.records == len(long)


def test_any_bit_that_flips_in_a_packed_trace_is_told(tmp_path: Path) -> None:
    path = sample.write(tmp_path / "run.zst")
    data = path.read_bytes()
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            records, trace = read(path)
        except TraceError as error:
            assert str(path) in str(error)
        else:
            # Two bits of the frame's header mean nothing; a size too large makes it a cut file.
            assert records == sample.RECORDS or trace.damage is not None


def test_records_behind_the_end_are_told(tmp_path: Path) -> None:
    path = sample.write(tmp_path / "run.jsonl", [*sample.RECORDS, sample.RECORDS[5]])
    _, trace = read(path)
    assert trace.end is None
    assert trace.damage is not None and "no end record after line 14" in trace.damage


def test_several_frames_are_one_trace(tmp_path: Path) -> None:
    plain = sample.write(tmp_path / "run.jsonl").read_bytes()
    path = tmp_path / "run.zst"
    path.write_bytes(zstandard.compress(plain[:700]) + zstandard.compress(plain[700:]))
    assert read(path)[0] == sample.RECORDS


def frames(data: bytes) -> list[int]:
    """Return the sizes of the texts of a file's frames."""
    sizes = []
    while data:
        unpack = zstandard.ZstdDecompressor().decompressobj()
        sizes.append(len(unpack.decompress(data)))
        assert unpack.eof
        data = unpack.unused_data
    return sizes


def test_a_packed_trace_has_frames_at_which_lines_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = sample.write(tmp_path / "run.jsonl", sample.RECORDS * 50).read_bytes()
    for size in (1, 3000, len(plain) // 2, len(plain), 1 << 20):
        monkeypatch.setattr(writer, "FRAME", size)
        path = sample.write(tmp_path / f"{size}.zst", sample.RECORDS * 50)
        sizes, begun = frames(path.read_bytes()), 0
        for each in sizes:
            assert not begun or plain[begun - 1 : begun] == b"\n"
            begun += each
        assert begun == len(plain)
        assert all(each >= size for each in sizes[:-1]) and len(sizes) <= len(plain) // size + 1
        assert read(path)[0] == sample.RECORDS * 50


class Counting:
    """Count what is read of a file."""

    def __init__(self, raw: io.BufferedReader, taken: list[int]) -> None:
        self._raw = raw
        self._taken = taken

    def read(self, size: int) -> bytes:
        self._taken.append(size)
        return self._raw.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


def test_what_is_gone_back_to_is_read_from_its_frame_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "FRAME", 3000)
    path = sample.write(tmp_path / "run.zst", sample.RECORDS * 200)
    with TraceReader(path) as trace:
        places, lines = [], []
        for _, line in trace.lines():
            lines.append(line)
            places.append(trace.bookmark)
        for number in (len(places) - 2, 5, len(places) // 2):
            taken: list[int] = []
            raw = trace._raw
            trace._raw = cast(io.BufferedReader, Counting(raw, taken))
            trace.go_to(places[number])
            assert next(trace.lines())[1] == lines[number + 1]
            trace._raw = raw
            assert 0 < sum(taken) < 3000  # a frame packed is less than that


def test_a_bad_line_is_an_error_with_file_and_line(tmp_path: Path) -> None:
    path = sample.write(tmp_path / "run.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[7] = b'{"type":"mmio"}\n'
    path.write_bytes(b"".join(lines))
    with TraceReader(path) as trace, pytest.raises(TraceError, match=r"run\.jsonl: line 8: "):
        list(trace)


@pytest.mark.parametrize("name", NAMES)
def test_a_line_without_an_end_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    data = codec.encode(sample.HEADER) + b"x" * (1 << 25)
    path.write_bytes(zstandard.compress(data) if name.endswith("zst") else data)
    with TraceReader(path) as trace, pytest.raises(TraceError, match=r"jsonl.*: line 2: over "):
        list(trace)


def test_unknown_records_are_skipped_and_counted(tmp_path: Path) -> None:
    path = sample.write(tmp_path / "run.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b'{"type":"irq"}\n', b'{"type":"irq"}\n', *lines[3:]]))
    records, trace = read(path)
    assert records == sample.RECORDS
    assert trace.unknown == {"irq": 2}
    assert trace.damage is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty: nothing was recorded in it"),
        (b'{"type":"header"', "cut inside its header"),
        (b"GIF89a\n", "not a vetrace trace"),
        (b"\x28\xb5\x2f\xfd", "empty"),
        (b"\x28\xb5\x2f\xfd" + b"\xff" * 40, "damaged"),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=message) as caught:
        TraceReader(path)
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_opened_are_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"cannot read trace .*gone: No such file"):
        TraceReader(tmp_path / "gone")
    with pytest.raises(TraceError, match=r"cannot read trace .*: its name has a NUL; name"):
        TraceReader("a\0b")
    with pytest.raises(TraceError, match=r"cannot read trace .*: Is a directory"):
        TraceReader(tmp_path)
    with pytest.raises(TraceError, match=r"cannot write trace .*: its name has a NUL; name"):
        TraceWriter("a\0b", sample.HEADER)
    with pytest.raises(TraceError, match=r"cannot write trace .*: No such file"):
        TraceWriter(tmp_path / "no" / "such", sample.HEADER)


def test_a_full_disk_is_one_clear_error() -> None:
    with pytest.raises(TraceError, match=r"cannot write trace /dev/full: No space left on device"):
        TraceWriter("/dev/full", sample.HEADER)


# The limit on a file's size cuts a write short in the middle of a record, as a full disk does.
@pytest.mark.parametrize("name", NAMES)
def test_what_did_not_fit_is_taken_back(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    written: list[Record] = []
    writer = TraceWriter(path, sample.HEADER)
    with room_for(path.stat().st_size + 500), pytest.raises(TraceError) as caught:
        for record in (record for _ in range(100) for record in sample.RECORDS[:-1]):
            writer.append(record)
            written.append(record)
    assert f"what is in it is safe: {counted(len(written), 'record')}" in str(caught.value)
    with pytest.raises(TraceError):
        writer.append(sample.RECORDS[-1])
    writer.close()
    records, trace = read(path)
    assert records == written and written
    assert trace.damage is not None and "there is no end record" in trace.damage


def test_memory_does_not_grow_with_the_trace(tmp_path: Path) -> None:
    line = codec.encode(sample.RECORDS[6])
    path = tmp_path / "long.jsonl.zst"
    with path.open("wb") as file, zstandard.ZstdCompressor().stream_writer(file) as stream:
        stream.write(codec.encode(sample.HEADER))
        for _ in range(20):
            stream.write(line * 1000)
    with TraceReader(path) as trace:
        records = iter(trace)
        for _ in range(1000):
            next(records)
        gc.collect()
        tracemalloc.start()
        try:
            count = sum(1 for _ in records)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert count == 19_000
    assert peak < len(line) * 5_000


def test_a_reader_may_follow_a_pipe(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    program = textwrap.dedent(
        """
        import sys
        from tracer.trace.reader import TraceReader
        with TraceReader(sys.argv[1]) as trace:
            print(sum(1 for _ in trace), trace.damage)
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(fifo)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    ) as reader:
        sample.write(fifo)
        output, _ = reader.communicate()
    assert output == f"{len(sample.RECORDS)} None\n"


def test_a_failing_block_keeps_its_own_error(tmp_path: Path) -> None:
    path = tmp_path / "x.zst"
    mark = Mark(time_ns=0, text="before")
    with (
        room_for(1 << 20),
        pytest.raises(ZeroDivisionError),
        TraceWriter(path, sample.HEADER) as writer,
    ):
        writer.append(mark)
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, hard))
        _ = 1 // 0
    assert read(path)[0] == [mark]
