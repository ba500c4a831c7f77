"""Words for files that cannot be read or written."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from tracer.text.file_error import unread, unwritten

TRACER = Path(__file__).parents[3] / "tracer"


def failed(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_each_error_tells_what_happened_to_what_and_what_to_do_next(number: int) -> None:
    for verb, line in (
        ("read", unread("trace x", failed(number))),
        ("write", unwritten("trace x", failed(number))),
    ):
        what, _, step = line.rpartition("; ")
        assert what == f"cannot {verb} trace x: {os.strerror(number)}"
        assert step and "\n" not in line


def test_what_to_do_next_is_of_the_error() -> None:
    assert unwritten("a/b", failed(errno.ENOENT)).endswith(
        "; make its folder first, or name another file"
    )
    assert unwritten("a/b", failed(errno.EEXIST)).endswith(
        "; remove it first, or name another file"
    )
    assert unread("a/b", failed(errno.EISDIR)).endswith("; name a file in it")


def test_a_caller_knows_better() -> None:
    assert unwritten("x", failed(errno.ENOENT), "sing").endswith(
        ": No such file or directory; sing"
    )


def test_an_error_without_a_number_and_a_name_that_is_none() -> None:
    assert unread("x", OSError("odd")) == "cannot read x: odd; name another file"
    assert unread("x", ValueError("embedded null byte")).endswith(
        ": its name has a NUL; name another file"
    )


def test_one_place_words_what_cannot_be_read_or_written() -> None:
    own = re.compile(r"cannot (?:read|write)[^\n]*strerror")
    found = {
        str(path.relative_to(TRACER))
        for path in TRACER.rglob("*.py")
        if own.search(path.read_text())
    }
    assert found <= {"trace/writer.py"}, "tracer.text.file_error has the words"
