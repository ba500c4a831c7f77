"""Numbers as a page holds them."""

from __future__ import annotations

import struct
import zlib
from base64 import b64decode
from typing import Any

import pytest

from tracer.report.page.column import column, rising, text

FORMATS = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "f64": "d"}


def read(told: dict[str, Any]) -> list[float]:
    """Read a column as the page does."""
    data = zlib.decompress(b64decode(told["data"]))
    form = FORMATS[told["kind"]]
    numbers = [number for (number,) in struct.iter_unpack(f"<{form}", data)]
    if "first" not in told:
        return numbers
    return [told["first"] + sum(numbers[: n + 1]) for n in range(len(numbers))]


@pytest.mark.parametrize(
    ("numbers", "kind"),
    [
        ([], "u8"), ([0, 255], "u8"), ([256], "u16"), ([0xFFFF], "u16"), ([0x10000, 1], "u32"),
        ([0xFFFFFFFF], "u32"), ([1 << 32], "u64"), ([(1 << 64) - 1, 0], "u64"),
    ],
)  # fmt: skip
def test_a_column_has_the_narrowest_kind(numbers: list[int], kind: str) -> None:
    told = column(numbers)
    assert told["kind"] == kind
    assert read(told) == numbers


def test_a_number_of_more_than_64_bits_fits_no_column() -> None:
    with pytest.raises(ValueError, match="0x10000000000000000 has more than 64 bits"):
        column([1 << 64])


@pytest.mark.parametrize(
    ("numbers", "kind"),
    [
        ([], "u8"), ([7], "u8"), ([1 << 52, (1 << 52) + 3, (1 << 52) + 3], "u8"),
        ([5, 5 + 0xFFFF_FFFF], "u32"), ([5, 5 + (1 << 32)], "f64"), ([9, 8], "f64"),
    ],
)  # fmt: skip
def test_what_rises_is_told_by_its_steps(numbers: list[int], kind: str) -> None:
    told = rising(numbers)
    assert told["kind"] == kind
    assert read(told) == numbers


def test_a_text_is_compressed_json() -> None:
    assert zlib.decompress(b64decode(text({"a": [1, None]}))) == b'{"a":[1,null]}'
