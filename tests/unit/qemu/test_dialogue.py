"""tracer.qemu.dialogue: what a QEMU's monitor says, however it writes that."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from tracer.qemu.dialogue import Dialogue

GREETING = {"QMP": {"version": {"qemu": {"major": 9, "minor": 2, "micro": 1}}, "capabilities": []}}
EVENT = {"event": "RESUME", "data": {}, "timestamp": {"seconds": 1, "microseconds": 2}}


@pytest.mark.parametrize("indent", [None, 4], ids=["a line", "pretty=on"])
def test_a_monitor_that_writes_its_messages_over_lines_is_understood(indent: int | None) -> None:
    async def body() -> tuple[str, object]:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=theirs)

        def say(message: object) -> None:
            writer.write(json.dumps(message, indent=indent).encode() + b"\r\n")

        async def monitor() -> None:
            say(GREETING)
            while words := await reader.read(1 << 16):  # a command ends with its last brace
                asked = json.loads(words)
                if asked["execute"] == "ask":
                    say(EVENT)
                say(
                    {"return": {"a": {"}": 1}}, **{key: asked[key] for key in asked if key == "id"}}
                )

        serving = asyncio.create_task(monitor())
        dialogue = Dialogue()
        await dialogue.connect(ours, 5)
        answer = await dialogue.execute("ask")
        await dialogue.close()
        writer.close()
        await serving
        return dialogue.version, answer

    assert asyncio.run(body()) == ("9.2.1", {"a": {"}": 1}})
