"""A person at the guest's console, on a terminal without a guest."""

from __future__ import annotations

import asyncio
import os
import sys
import termios

import pytest

from tracer.qemu.console import Console
from tracer.repl.sitting import sit


@pytest.mark.parametrize("by_key", [True, False], ids=["the key", "a stop"])
def test_all_keys_but_one_are_the_guests(by_key: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    terminal = os.fdopen(theirs, "r+b", buffering=0)
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr(sys, "__stdout__", terminal)
    console, typed = Console(), bytearray()
    console.send = typed.extend
    console.take(b"banner\nlogin: ")
    before = termios.tcgetattr(theirs)

    async def body() -> bool:
        stop = asyncio.Event()
        sitting = asyncio.create_task(sit(console, stop.wait()))
        while not console.holder or termios.tcgetattr(theirs) == before:
            await asyncio.sleep(0.01)
        os.write(ours, b"ls\x03")
        while typed != b"ls\x03":
            await asyncio.sleep(0.01)
        console.take(b"a\nb")
        if by_key:
            os.write(ours, b"\x1dnext")
        else:
            stop.set()
        return await sitting

    try:
        assert asyncio.run(body()) is by_key
        assert termios.tcgetattr(theirs) == before and not console.holder
        shown = b""
        while not shown.endswith(b"b\r\n"):
            shown += os.read(ours, 1 << 12)
        assert b"Ctrl-] comes back" in shown and b"banner" not in shown
        assert shown.endswith(b"login: a\nb\r\n")
        if by_key:
            assert os.read(theirs, 16) == b"next"  # what comes behind is the prompt's
    finally:
        terminal.close()
        os.close(ours)
