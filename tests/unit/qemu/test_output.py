"""Lines come cut anywhere, and maybe without an end."""

from __future__ import annotations

import pytest

from tracer.qemu.output import CONSOLE, ERRORS, Output


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
def test_the_last_line(chunks: list[bytes], last: str | None) -> None:
    output = Output()
    for chunk in chunks:
        output.take(CONSOLE, chunk)
    assert output.last_line == last


def test_complaints_are_without_the_program_and_warnings() -> None:
    output = Output()
    output.take(ERRORS, b"/usr/bin/qemu-system-x86_64: warning: TCG lacks it\nqemu-system-x86_64:")
    output.take(CONSOLE, b"boot\r\n")
    output.take(ERRORS, b" -device x: no such device\n\n")
    assert list(output.errors) == ["-device x: no such device"]
    assert list(output.console) == ["boot"]
