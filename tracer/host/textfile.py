"""Lines of a text that somebody else wrote: compressed or not, cut or damaged, in any encoding.

Ref: RFC 1952, 2.3.1 (gzip); the .xz file format, 2.1.1.1 and 2.2 (padding); RFC 8878, 3.1.1
(Zstandard). A compressed file is told by its first bytes, whatever its name.
"""

from __future__ import annotations

import lzma
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from io import BufferedReader
from pathlib import Path
from typing import Protocol, cast

import zstandard

from tracer.errors import TraceError, UsageError
from tracer.text.file_error import unread

STANDARD = "-"
"""The name that stands for standard input, or output."""


def are_one_file(first: str, second: str) -> bool:
    """Tell whether two names are of one file that is there; standard input and output are none."""
    if STANDARD in (first, second):
        return False
    try:
        return Path(first).samefile(second)
    except OSError:  # whoever opens the one that cannot be reached says what is wrong
        return False


def check_once(names: Sequence[str]) -> None:
    """Raise UsageError where standard input, which is read once, is named for several files."""
    if names.count(STANDARD) > 1:
        raise UsageError("standard input is one trace: give - once")


_CHUNK = 1 << 16
# Compressed bytes at a time. The most that they become is 32 MiB (Zstandard's RLE blocks).
_PIECE = 1 << 10


class TextFile:
    """Iterate over the lines of a file, each with its number from 1 on and without its newline.

    Of a line no more than ``longest`` bytes are kept; bytes that are no UTF-8 are escaped, and a
    hole of zeros before a line is left out, or is a line of one zero where no line follows it.
    ``damage`` says in words, once iteration has ended, what is wrong with compressed data; all but
    the last of what came before it has been told. ``cut`` tells that it only ends too early.
    """

    def __init__(self, path: str, longest: int) -> None:
        self.name = "standard input" if path == STANDARD else path
        self.damage: str | None = None
        self.cut = False
        self._path = path
        self._longest = longest

    def __iter__(self) -> Iterator[tuple[int, str]]:
        """Yield each line once. Raise :exc:`TraceError`, naming the file, when it is unreadable."""
        with self._opened() as raw:
            for number, line in enumerate(self._lines(raw), 1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")  # the byte-order mark
                yield number, line.decode("utf-8", "backslashreplace")

    def _opened(self) -> AbstractContextManager[BufferedReader]:
        if self._path == STANDARD:
            return nullcontext(cast(BufferedReader, sys.stdin.buffer))
        try:
            return Path(self._path).open("rb")
        except OSError as error:
            raise TraceError(unread(self.name, error)) from error

    def _lines(self, raw: BufferedReader) -> Iterator[bytes]:
        line, hole = bytearray(), False
        for chunk in self._chunks(raw):
            first = True
            for piece in chunk.split(b"\n"):
                if not first:
                    yield bytes(line) or b"\0" * hole
                    line.clear()
                    hole = False
                first = False
                if not line and piece.startswith(b"\0"):
                    piece, hole = piece.lstrip(b"\0"), True
                line += piece[: self._longest - len(line)]
        if line or hole:
            yield bytes(line) or b"\0"

    def _chunks(self, raw: BufferedReader) -> Iterator[bytes]:
        try:
            yield from _unpacked(raw)
        except EOFError:
            self.cut = True
            self.damage = "the compressed data is cut"
        except (zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
            self.damage = f"the compressed data is damaged: {error}"
        except OSError as error:
            raise TraceError(unread(self.name, error)) from error


class _Decompressor(Protocol):
    # Unpacks one member of a file, of which there may be several in a row.

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


_PACKED: dict[bytes, Callable[[], _Decompressor]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(16 + zlib.MAX_WBITS),
    b"\xfd7zXZ\0": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _MOST_MEMORY),
    b"\x28\xb5\x2f\xfd": lambda: cast(_Decompressor, zstandard.ZstdDecompressor().decompressobj()),
}
_MAGIC = max(map(len, _PACKED))
_MOST_MEMORY = 1 << 28  # for an .xz file; `xz -9` asks for 65 MiB


# Raises EOFError where the last member has no end.
def _unpacked(raw: BufferedReader) -> Iterator[bytes]:
    head = raw.read(_MAGIC)
    unpack = next((make for magic, make in _PACKED.items() if head.startswith(magic)), None)
    if unpack is None:
        yield head
        while chunk := raw.read1(_CHUNK):  # what a pipe has at once
            yield chunk
        return
    data, member = head, unpack()
    while data:
        yield member.decompress(data)
        if not member.eof:
            data = raw.read1(_PIECE)
            continue
        data = member.unused_data.lstrip(b"\0")
        while not data and (more := raw.read1(_PIECE)):
            data = more.lstrip(b"\0")
        if not data:
            return
        member = unpack()
    raise EOFError
