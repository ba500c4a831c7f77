"""Lines of files that are compressed, cut, damaged, and full of bytes that are no text."""

from __future__ import annotations

import gzip
import io
import lzma
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracer.errors import TraceError
from tracer.host.textfile import TextFile

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}
TEXT = b"".join(b"line %d\n" % (n * n * 7919 % 100_003) for n in range(40_000))
LINES = TEXT.decode().splitlines()


def read(path: Path, data: bytes, longest: int = 100) -> tuple[list[str], TextFile]:
    path.write_bytes(data)
    file = TextFile(str(path), longest)
    found = list(file)
    assert [number for number, _ in found] == list(range(1, len(found) + 1))
    return [line for _, line in found], file


@pytest.mark.parametrize("name", PACKERS)
def test_compression_is_told_by_the_content(tmp_path: Path, name: str) -> None:
    lines, file = read(tmp_path / "a.txt", PACKERS[name](TEXT))
    assert lines == LINES and file.damage is None and not file.cut


@pytest.mark.parametrize("name", PACKERS)
def test_several_members_in_a_row_are_one_file(tmp_path: Path, name: str) -> None:
    pack = PACKERS[name]
    lines, file = read(tmp_path / "a", pack(TEXT[:5]) + pack(TEXT[5:]) + b"\0" * 512)
    assert lines == LINES and file.damage is None


@pytest.mark.parametrize("name", PACKERS)
def test_what_came_before_a_cut_is_read(tmp_path: Path, name: str) -> None:
    packed = PACKERS[name](TEXT)
    lines, file = read(tmp_path / "a", packed[: len(packed) * 3 // 4])
    assert file.cut and file.damage == "the compressed data is cut"
    assert lines[:-1] == LINES[: len(lines) - 1] and len(lines) > 1000


@pytest.mark.parametrize("name", PACKERS)
def test_damage_is_told_and_is_no_error(tmp_path: Path, name: str) -> None:
    packed = bytearray(PACKERS[name](TEXT))
    packed[len(packed) * 3 // 4] ^= 0x55
    lines, file = read(tmp_path / "a", bytes(packed))
    assert not file.cut and file.damage is not None
    assert file.damage.startswith("the compressed data is damaged: ") and len(lines) > 1000


def test_only_so_much_of_a_line_is_kept(tmp_path: Path) -> None:
    lines, _ = read(tmp_path / "a", b"x" * 1_000_000 + b"\nshort\n" + b"y" * 200, longest=50)
    assert lines == ["x" * 50, "short", "y" * 50]


@pytest.mark.parametrize("size", [1, 99, 100, 101, 65_535, 65_536, 65_537, 1_000_000])
def test_a_hole_of_zeros_hides_no_line(tmp_path: Path, size: int) -> None:
    lines, _ = read(tmp_path / "a", b"one\n" + bytes(size) + b"two\n" + bytes(size) + b"\nthree")
    assert lines == ["one", "two", "\0", "three"]
    lines, _ = read(tmp_path / "a", b"one\n" + bytes(size))
    assert lines == ["one", "\0"]


def test_bytes_that_are_no_text_are_escaped(tmp_path: Path) -> None:
    lines, _ = read(tmp_path / "a", b"\xef\xbb\xbfcaf\xe9\r\n\xff\xfe")
    assert lines == ["caf\\xe9\r", "\\xff\\xfe"]


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.binary(max_size=300), st.sampled_from([b"", b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"])
)
def test_any_bytes_are_read(tmp_path: Path, data: bytes, magic: bytes) -> None:
    lines, file = read(tmp_path / "a", magic + data)
    if not magic and file.damage is None:
        assert len(lines) <= data.count(b"\n") + 1


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "no", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(TraceError, match=f"cannot read {path}: {why}"):
            list(TextFile(str(path), 10))


def test_standard_input_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(b"a\nb"))))
    file = TextFile("-", 10)
    assert list(file) == [(1, "a"), (2, "b")] and file.name == "standard input"


@pytest.mark.parametrize("name", PACKERS)
def test_a_compressed_bomb_takes_little_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bomb"
    if name == "gzip":
        with gzip.open(path, "wb") as packed:
            for _ in range(256):
                packed.write(b"x" * (1 << 20))
    else:
        path.write_bytes(PACKERS[name](b"x" * (1 << 28)))
    program = (
        "import sys; from tracer.host.textfile import TextFile;"
        "print([len(line) for _, line in TextFile(sys.argv[1], 100)])"
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))

    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], cwd=Path(__file__).parents[3],
        capture_output=True, text=True, preexec_fn=limit,
    )  # fmt: skip
    assert done.stdout == "[100]\n", done.stderr
