"""Numbers as a page holds them: a compressed array of one width for each column of a table.

Ref: RFC 1950 (what a browser's DecompressionStream calls "deflate").
"""

from __future__ import annotations

import sys
import zlib
from array import array
from base64 import b64encode
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from msgspec import json

_WIDTHS = (("u8", "B"), ("u16", "H"), ("u32", "I"), ("u64", "Q"))
_STEP = 1 << 32
_LEVEL = 6


def column(numbers: Sequence[int]) -> dict[str, Any]:
    """Return numbers from 0 to 2^64 - 1 in the narrowest kind that holds all of them."""
    largest = max(numbers, default=0)
    for kind, code in _WIDTHS:
        if not largest >> 8 * array(code).itemsize:
            return {"kind": kind, "data": _packed(array(code, numbers))}
    raise ValueError(f"{largest:#x} has more than 64 bits")


def rising(numbers: Sequence[int]) -> dict[str, Any]:
    """Return numbers below 2^53 as a column; where none is below the one before, as steps."""
    steps = [after - before for before, after in pairwise(numbers)]
    if all(0 <= step < _STEP for step in steps):
        return {"first": numbers[0] if numbers else 0, **column([0, *steps] if numbers else [])}
    return {"kind": "f64", "data": _packed(array("d", numbers))}


def text(value: object) -> str:
    """Return a value as compressed JSON."""
    return b64encode(zlib.compress(json.encode(value), _LEVEL)).decode()


def _packed(numbers: array[Any]) -> str:
    if sys.byteorder == "big":
        numbers.byteswap()
    return b64encode(zlib.compress(numbers.tobytes(), _LEVEL)).decode()
