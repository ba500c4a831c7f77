"""The last line of a console, which comes cut anywhere, and maybe without an end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tracer.qemu.machine import Machine, MachineConfig


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine(MachineConfig("qemu", Path("kernel"), None, "", 64 << 20))
    yield machine
    machine.memory.close()


@pytest.mark.parametrize(
    ("chunks", "last"),
    [
        ([], None),
        ([b"\r\n\r\n"], None),
        ([b"first\r\nsec", b"ond\r\n"], "second"),
        ([b"first\r\n", b"login: "], "login:"),
        ([b"first\r\n", b"  \r\n\n"], "first"),
        ([b"x" * 100_000], "x" * 400),
        ([b"\xff\r\n"], "\ufffd"),
    ],
)
def test_the_last_line(chunks: list[bytes], last: str | None, machine: Machine) -> None:
    for chunk in chunks:
        machine.pipe_data_received(1, chunk)
    assert machine.last_line == last
