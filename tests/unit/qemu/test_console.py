"""The guest's console: what is kept of it, and who has it."""

from __future__ import annotations

import pytest

from tracer.errors import UsageError
from tracer.qemu.console import Console


def test_what_was_printed_is_there_for_who_comes_later() -> None:
    heard = bytearray()
    console = Console(heard.extend)
    console.take(b"one\ntwo")
    assert (bytes(heard), console.recent, console.line) == (b"one\ntwo", b"one\ntwo", b"two")
    console.take(b"x" * (1 << 16))
    assert console.recent == b"x" * (1 << 16)


def test_one_at_a_time_has_it() -> None:
    console, mine = Console(), bytearray()
    with console.joined("Ada", mine.extend):
        console.take(b"a")
        with (
            pytest.raises(UsageError, match="Ada has the guest's console"),
            console.joined("Bob", mine.extend),
        ):
            pass
    console.take(b"b")
    assert mine == b"a"
    with console.joined("Bob", mine.extend):
        console.take(b"c")
    assert mine == b"ac"
