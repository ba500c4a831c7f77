"""The ways to a guest's console from elsewhere, without a guest."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from pathlib import Path

from tracer.qemu.console import Console
from tracer.qemu.console_door import console_door


def test_one_who_does_not_read_has_the_newest_and_holds_nobody_up(tmp_path: Path) -> None:
    place = tmp_path / "a console"
    console = Console()

    async def body() -> bytes:
        async with console_door(console, str(place)) as told:
            assert f"UNIX-CONNECT:'{place}'`" in told
            with socket.socket(socket.AF_UNIX) as person:
                person.connect(str(place))
                while not console.holder:
                    await asyncio.sleep(0.01)
                for number in range(1 << 12):
                    console.take(b"%-1023d\n" % number)
                console.take(b"end")
                got = b""
                person.setblocking(False)
                while not got.endswith(b"end"):
                    got += await asyncio.get_running_loop().sock_recv(person, 1 << 16)
                return got

    got = asyncio.run(body())
    assert not place.exists()
    # What was held in the socket, and 1 MiB of the newest.
    assert got.startswith(b"0 ") and 1 << 20 <= len(got) < 1 << 22
    assert b"\n4095 " in got


def test_a_pseudo_terminal_hands_over_every_byte_as_it_is(tmp_path: Path) -> None:
    console, typed = Console(), bytearray()
    console.send = typed.extend
    every = bytes(range(256))

    async def body() -> bytes:
        async with console_door(console, "pty") as told:
            name = re.findall(r"/dev/pts/\d+", told)[0]
            console.take(every)
            got = b""
            for _ in range(2):  # who comes again has it again
                person = os.open(name, os.O_RDWR | os.O_NOCTTY)
                try:
                    while not console.holder:
                        await asyncio.sleep(0.01)
                    os.write(person, every)
                    while not typed.endswith(every):
                        await asyncio.sleep(0.01)
                    had = len(got)
                    while len(got) < had + 256:
                        got += os.read(person, 1 << 12)
                finally:
                    os.close(person)
                while console.holder:
                    await asyncio.sleep(0.01)
            return got

    assert asyncio.run(body()) == every * 2
    assert typed == every * 2
