"""Styles of a line on a terminal."""

from __future__ import annotations

# Select Graphic Rendition: ECMA-48, 8.3.117. The eight basic colours follow the user's theme.
_SGR = {
    "time": "\x1b[2m",
    "symbol": "\x1b[36m",
    "place": "\x1b[33m",
    "register": "\x1b[35m",
    "mnemonic": "\x1b[1;34m",
    "read": "\x1b[32m",
    "write": "\x1b[31m",
    "unknown": "",
    "value": "\x1b[1m",
    "stop": "\x1b[1;7m",
}


def paint(text: str, style: str, colour: bool) -> str:
    """Return text in one of the styles of a line: ``time``, ``symbol``, ``place``, ``value`` …

    It is returned as it is without ``colour``, or in no style (an empty name).
    """
    code = _SGR[style] if colour and style else ""
    return f"{code}{text}\x1b[0m" if code else text
