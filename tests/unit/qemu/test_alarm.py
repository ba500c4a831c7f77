"""The clock of a machine that sleeps, and whether it is to wake it."""

from __future__ import annotations

import asyncio

import pytest

from tracer.qemu.alarm import is_set


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("portb[0x0071] = 0x22\r\n", True),
        ("portb[0x0071] = 0x02\r\n", False),
        ("portb[0x0071] = 0xff\r\n", True),
        ("unknown command: 'i'\r\n", False),
    ],
)
def test_an_alarm_is_told_by_register_b(told: str, expected: bool) -> None:
    asked: list[str] = []

    async def monitor(command: str) -> str:
        asked.append(command)
        return told if command.startswith("i") else ""

    assert asyncio.run(is_set(monitor)) is expected
    assert asked == ["o /b 0x70 0x0b", "i /b 0x71"]
