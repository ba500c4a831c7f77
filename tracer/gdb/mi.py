"""GDB/MI output lines as typed values: the only file that knows pygdbmi.

Ref: GDB manual, "GDB/MI Output Syntax", "GDB/MI Async Records", "GDB/MI Stream Records".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from pygdbmi import gdbmiparser
from pygdbmi.gdbescapes import unescape

from tracer.access.stop import Stopped

Payload = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Result:
    """Answer one command: ``^done``, ``^running``, ``^connected``, ``^error`` or ``^exit``."""

    token: int | None
    status: str
    payload: Payload


@dataclass(frozen=True, slots=True)
class Running:
    """Tell that the target runs: ``*running``."""


@dataclass(frozen=True, slots=True)
class Parted:
    """Tell that GDB has a target no more: it has ended, was left, or has closed its connection."""


@dataclass(frozen=True, slots=True)
class Text:
    """Carry a line of text: GDB's console, its log, or a notification's name."""

    stream: str
    text: str


_PLAIN_RESULT = re.compile(r"^(?P<token>\d+)\^(?P<status>done|running)\s*$")

Message = Result | Stopped | Running | Parted | Text


def parse(line: str) -> Message | None:
    """Return what one line of MI output says.

    None for the ``(gdb)`` prompt, for empty lines, and for notifications such as
    ``=breakpoint-modified``: there are several a stop, and but for one none says what a stop does
    not.
    """
    if line.startswith("=thread-group-exited"):
        return Parted()
    if not line or line.startswith(("(gdb)", "=")):
        return None
    if line.startswith('~"'):
        return Text("console", unescape(line[2:].rstrip()[:-1]))
    if plain := _PLAIN_RESULT.match(line):
        return Result(int(plain["token"]), plain["status"], {})
    record = gdbmiparser.parse_response(line)
    kind = record["type"]
    payload = record["payload"]
    if kind == "result":
        return Result(record["token"], record["message"], _mapping(payload))
    if kind == "notify" and record["message"] == "stopped":
        return _stopped(_mapping(payload))
    if kind == "notify" and record["message"] == "running":
        return Running()
    return Text(kind, payload if isinstance(payload, str) else str(record["message"]))


def _mapping(payload: object) -> Payload:
    return cast(Payload, payload) if isinstance(payload, dict) else {}


def _stopped(payload: Payload) -> Stopped:
    frame = payload.get("frame")
    address = frame.get("addr") if isinstance(frame, dict) else None
    return Stopped(
        reason=_string(payload, "reason") or "",
        thread=_number(payload, "thread-id"),
        address=int(address, 16) if isinstance(address, str) else None,
        breakpoint=_number(payload, "bkptno"),
        signal=_string(payload, "signal-name"),
        payload=payload,
    )


def _string(payload: Payload, key: str) -> str | None:
    value = payload.get(key)
    # Several watchpoints can share one stop; GDB then repeats the key and pygdbmi makes a list.
    if isinstance(value, list):
        value = value[0] if value else None
    return value if isinstance(value, str) else None


def _number(payload: Payload, key: str) -> int | None:
    text = _string(payload, key)
    return int(text) if text is not None and text.isdigit() else None
