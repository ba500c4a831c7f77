"""How many there are of something, in words."""

from __future__ import annotations

import pytest

from tracer.text.amount import counted


@pytest.mark.parametrize(
    ("count", "noun", "said"),
    [
        (0, "break", "0 breaks"), (1, "break", "1 break"), (2, "user action", "2 user actions"),
        (1, "access", "1 access"), (12345, "access", "12,345 accesses"),
    ],
)  # fmt: skip
def test_one_of_a_kind_and_several(count: int, noun: str, said: str) -> None:
    assert counted(count, noun) == said
