"""Files nobody should trust: whatever is in them, a line comes out and the memory stays small."""

from __future__ import annotations

import io
import json
import random
import resource
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import replay_sample
import trace_sample as sample
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracer.cli import main
from tracer.errors import TraceError
from tracer.trace import codec
from tracer.trace.reader import TraceReader

CHECKOUT = Path(__file__).parents[2]
COMMANDS = (
    ["show"],
    ["show", "--json"],
    ["show", "--format", "mmiotrace"],
    ["stats"],
    ["replay"],
)
GOOD = b"".join([codec.encode(sample.HEADER), *map(codec.encode, replay_sample.trace())])


def told(path: Path) -> None:
    """Run each command on a file: it ends as documented, with lines and no traceback."""
    for command in COMMANDS:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            status = main.main([command[0], str(path), *command[1:]])
        assert status in (0, 1, 3), (command, err.getvalue())
        assert all(line.startswith("vetrace: ") for line in err.getvalue().splitlines())
        if status == 1:
            assert err.getvalue().count("\n") == 1 and str(path) in err.getvalue()


no_deadline = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@no_deadline
@given(st.binary(max_size=400))
def test_any_bytes_are_told_in_a_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x"
    for content in (data, codec.encode(sample.HEADER) + data, zstandard.compress(data)):
        path.write_bytes(content)
        told(path)


@no_deadline
@given(st.integers(0, 1 << 32))
def test_a_trace_with_bytes_changed_is_told_in_lines(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    data = bytearray(GOOD)
    for _ in range(chance.randrange(1, 5)):
        place = chance.randrange(len(data))
        match chance.randrange(3):
            case 0:
                data[place] = chance.randrange(256)
            case 1:
                del data[place : place + chance.randrange(1, 40)]
            case _:
                data[place:place] = data[chance.randrange(len(data)) :][: chance.randrange(1, 40)]
    path = tmp_path / "x"
    path.write_bytes(data)
    told(path)
    packed = bytearray(zstandard.compress(bytes(GOOD)))
    packed[chance.randrange(len(packed))] ^= 1 << chance.randrange(8)
    path.write_bytes(packed)
    told(path)


STRANGE: list[object] = [
    None, True, -1, 1 << 64, 10**400, 1e308, "", "\x1b[2J", "0x", "-0x1", "0x" + "f" * 10_000,
    [], {}, "\ud800",
]  # fmt: skip


@no_deadline
@given(st.data())
def test_a_record_with_strange_members_is_told_in_lines(
    tmp_path: Path, data: st.DataObject
) -> None:
    lines = GOOD.splitlines()
    number = data.draw(st.integers(0, len(lines) - 1))
    record = json.loads(lines[number])
    target = record
    inner = [value for value in record.values() if isinstance(value, dict)]
    inner += record.get("accesses", [])
    if inner and data.draw(st.booleans()):
        target = data.draw(st.sampled_from(inner))
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(st.sampled_from(STRANGE))
    lines[number] = json.dumps(record).encode()
    path = tmp_path / "x"
    path.write_bytes(b"\n".join([*lines, b""]))
    told(path)


NESTED = [b"[", b'{"a":', b'{"type":"mmio","accesses":[', b'{"type":"x","y":[']


@pytest.mark.parametrize("opening", NESTED)
def test_deep_nesting_is_told_in_a_line(tmp_path: Path, opening: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(codec.encode(sample.HEADER) + opening * 100_000 + b"\n")
    told(path)
    path.write_bytes(opening * 100_000 + b"\n")
    told(path)


def test_types_without_end_are_counted_together(tmp_path: Path) -> None:
    path = tmp_path / "x"
    lines = (f'{{"type":"{n}{"x" * 1000}"}}\n'.encode() for n in range(5000))
    path.write_bytes(codec.encode(sample.HEADER) + b"".join(lines))
    with TraceReader(path) as trace:
        assert list(trace) == []
    assert sum(trace.unknown.values()) == 5000 and len(trace.unknown) <= 17
    assert max(map(len, trace.unknown)) <= 40


@pytest.mark.parametrize("name", ["one line of zeros", "a header without an end"])
def test_a_compressed_bomb_is_told_in_a_line_and_little_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bomb.zst"
    with path.open("wb") as file, zstandard.ZstdCompressor().stream_writer(file) as stream:
        head = codec.encode(sample.HEADER) if "zeros" in name else b'{"type":"header","x":"'
        stream.write(head)
        for _ in range(1024):
            stream.write(b"\0" * (1 << 20))
    assert path.stat().st_size < 1 << 20

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))

    done = subprocess.run(
        [sys.executable, "-m", "tracer", "show", str(path)],
        cwd=CHECKOUT, capture_output=True, text=True, preexec_fn=limit,
    )  # fmt: skip
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"vetrace: {path}: ") and done.stderr.count("\n") == 1
    assert ": over 16 MiB without an end" in done.stderr


def test_a_frame_that_wants_a_huge_window_is_refused(tmp_path: Path) -> None:
    # RFC 8878, 3.1.1.1.2: window descriptor 0xf8 asks for 2^41 bytes.
    path = tmp_path / "x"
    path.write_bytes(b"\x28\xb5\x2f\xfd\x00\xf8" + b"\x01\x00\x00")
    with pytest.raises(TraceError, match="damaged"):
        TraceReader(path)


LOG = Path(__file__).parents[1] / "data" / "mmiotrace" / "damaged.log"


@no_deadline
@given(st.binary(max_size=400), st.sampled_from([b"", b"VERSION 20070824\n", LOG.read_bytes()]))
def test_any_bytes_are_imported_or_told_in_a_line(tmp_path: Path, data: bytes, head: bytes) -> None:
    log, trace = tmp_path / "log", tmp_path / "trace"
    for content in (head + data, zstandard.compress(head + data), data + head):
        log.write_bytes(content)
        err = io.StringIO()
        with redirect_stderr(err):
            status = main.main(["import", str(log), "-o", str(trace)])
        assert all(line.startswith("vetrace: ") for line in err.getvalue().splitlines())
        if status == 0:
            told(trace)
        else:
            assert status == 1 and err.getvalue().count("\n") == 1
