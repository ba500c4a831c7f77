"""Texts out of a file's bytes."""

from __future__ import annotations

import pytest

from tracer.errors import UsageError
from tracer.text.encoding import decoded


def test_a_mark_of_the_byte_order_is_no_text() -> None:
    assert decoded(b"\xef\xbb\xbfst\xc3\xa9p", "x") == decoded(b"st\xc3\xa9p", "x") == "st\xe9p"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"a\xff", "byte 1 is 0xff"),
        (b"\xef\xbb\xbfa\xff", "byte 4 is 0xff"),
        (b"a\xc3", "byte 1 is 0xc3"),
        (b"\xff\xfea\0", "byte 0 is 0xff"),
    ],
)
def test_a_byte_is_told_by_its_offset_in_the_file(data: bytes, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        decoded(data, "mine.toml")
    assert str(caught.value) == f"mine.toml is no UTF-8 text: {why}; save it as UTF-8"
