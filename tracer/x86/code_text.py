"""Read an instruction's bytes as reports and tools write them.

An oops of Linux has a line ``Code:`` whose byte at RIP is marked: ``48 8b 07 <8b> 40 1c`` (older
ones: ``(8b)``). Ref: Linux, arch/x86/kernel/dumpstack.c ``show_opcodes``; scripts/decodecode, whose
listing has a star at the instruction. QEMU writes ``Code=`` at an internal error of KVM. objdump
and GDB's ``x`` put an address before the bytes and text behind them.
"""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tracer.errors import UsageError


@dataclass(frozen=True, slots=True)
class CodeText:
    """Hold the bytes from the marked one on, or all; ``before`` counts those left out."""

    code: bytes
    before: int = 0


_FOLD = re.IGNORECASE | re.ASCII

# The kernel's log and its readers put this before a line.
_LOG_PREFIX = re.compile(r"\s*(?:<\d+>)?\s*\[\s*\d+\.\d+\](?:\s*\[\s*[TC]\d+\])?\s*", _FOLD)
_OOPS = re.compile(r"\bCode\s*[:=]", _FOLD)
# An address, of objdump or GDB: a colon and a space end it. The star is decodecode's.
_LABEL = re.compile(
    r"\s*(?:=>\s*)?(?:0x)?[0-9a-f]+\s*(?:<[^>]*>)?:(?P<star>\*?)(?:\s+|$)(?P<rest>.*)", _FOLD
)
_RUN = re.compile(r"\s*(?:[<(](?:0x)?[0-9a-f]{2}[>)]|(?:0x)?[0-9a-f]{2})(?=\s|$)", _FOLD)
_WORDS = re.compile(r"0x[0-9a-f]{3,}\s*(?:\s|$)", _FOLD)
_PYTHON = re.compile(r"b(?:'.*'|\".*\")", re.DOTALL)
_MARKED = re.compile(r"[<(]([0-9a-fx\s]+)[>)]", _FOLD)
_SEPARATORS = re.compile(r"[\s,;:{}\[\]()<>\"'`_-]+|\.byte\b", _FOLD)
_DIGITS = re.compile(r"(0x)?([0-9a-f]+)", _FOLD)
_MARK = "|"  # stands before the marked byte, and occurs in no way of writing bytes


def read_code(text: str) -> CodeText:
    """Return the bytes that a text has, from the marked one on.

    Raise :exc:`UsageError` when it has none, or something that is not a byte.
    """
    lines = [_LOG_PREFIX.sub("", line, count=1) for line in text.splitlines()]
    if any(_OOPS.search(line) for line in lines):
        return _oops(lines)
    if _PYTHON.fullmatch(text.strip()):
        return _python(text.strip())
    code, start = b"", None
    for line in lines:
        label = _LABEL.fullmatch(line)
        if label is None:
            found, mark = _bytes(line)
        else:
            found, mark = _listed(label["rest"]), 0 if label["star"] else None
        if mark is not None:
            if start is not None:
                raise UsageError(f"{_shown(text)} has more than one byte marked as the first")
            start = len(code) + mark
        code += found
    if not code:
        raise UsageError(f"{_shown(text)} has no bytes: give pairs of hex digits, such as 8b401c")
    return CodeText(code[start or 0 :], start or 0)


# The first of the report's lines that has bytes: one of user space may stand beside it, and where
# the kernel could not read the code it says so in their place.
def _oops(lines: list[str]) -> CodeText:
    said = ""
    for number, line in enumerate(lines):
        for found in _OOPS.finditer(line):
            rest = line[found.end() :]
            said = said or line[found.start() :]
            run = " ".join(_runs([rest, *lines[number + 1 :]])).strip() or rest
            with contextlib.suppress(UsageError):
                code, start = _bytes(run)
                if code:
                    return CodeText(code[start or 0 :], start or 0)
    raise UsageError(f"the report has no bytes: it says {_shown(said)}")


# Yields the bytes at the head of the first line, and the lines of nothing else that go on with it.
def _runs(lines: list[str]) -> Iterator[str]:
    for line in lines:
        run = _head(line)
        yield run
        if not run or run.strip() != line.strip():
            return


def _head(line: str) -> str:
    end = 0
    while found := _RUN.match(line, end):
        end = found.end()
    return line[:end]


# The bytes of a line of a listing, whose text follows them.
def _listed(rest: str) -> bytes:
    run = _head(rest)
    if not run and _WORDS.match(rest):
        raise UsageError(f"{_shown(rest)} are words: have GDB print bytes, with x/16xb")
    return _bytes(run)[0]


def _python(text: str) -> CodeText:
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"{_shown(text)} is no bytes literal of Python: {error}") from None
    if not isinstance(value, bytes) or not value:
        raise UsageError(f"{_shown(text)} has no bytes")
    return CodeText(value)


# The bytes of a text that is nothing else, and which of them is marked.
def _bytes(text: str) -> tuple[bytes, int | None]:
    marked = _MARKED.sub(rf" {_MARK}\1 ", text)
    plain = re.sub(r"\\x|0x", " 0x", marked, flags=_FOLD).replace(_MARK, f" {_MARK} ")
    code, mark = bytearray(), None
    for token in _SEPARATORS.sub(" ", plain).split():
        if token == _MARK:
            if mark is not None:
                raise UsageError(f"{_shown(text)} has more than one byte marked as the first")
            mark = len(code)
        else:
            code += _token(token, text)
    return bytes(code), mark


def _token(token: str, text: str) -> bytes:
    found = _DIGITS.fullmatch(token)
    if found is None:
        where = "" if token == text else f" in {_shown(text)}"
        raise UsageError(
            f"{token[:40]!r}{where} is not bytes: give pairs of hex digits, such as 8b401c"
        )
    prefix, digits = found.groups()
    if prefix and len(digits) == 1:
        return bytes([int(digits, 16)])
    if len(digits) % 2:
        where = "" if token == text else f" in {_shown(text)}"
        raise UsageError(
            f"{token[:40]!r}{where}: an odd number of hex digits, and a byte has two: is one lost?"
        )
    return bytes.fromhex(digits)


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= 60 else f"{line[:59]}…")
