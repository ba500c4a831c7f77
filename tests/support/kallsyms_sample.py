"""An image with kallsyms, written as each of the layouts that Linux has had."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from tracer.access.symbols import Symbol

BASE = 0xFFFF_FFFF_8100_0000
LINK = 0xFFFF_FFFF_8200_0000
"""Linear link address of the image's first byte."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Say where the addresses are, and what they are relative to."""

    name: str
    last: bool
    relative: str
    big_names: bool = True
    sequence: bool = False
    alignment: int = 8


LAYOUTS = (
    Layout("5.10", last=False, relative="percpu", big_names=False),
    Layout("6.1", last=False, relative="percpu"),
    Layout("6.2", last=False, relative="percpu", sequence=True),
    Layout("6.12", last=True, relative="percpu"),
    Layout("6.15", last=True, relative="base"),
    Layout("7.0", last=True, relative="place", alignment=4),
)


def symbols(count: int, *, big_names: bool = True) -> list[Symbol]:
    """Return ``count`` symbols in the order of their addresses, per-CPU ones first."""
    made = [Symbol(0x20 * number, "A", f"percpu_{number}") for number in range(40)]
    made.append(Symbol(BASE, "T", "_text"))
    if big_names:
        made.append(Symbol(BASE, "t", "long_" + "zq" * 120))
    while len(made) < count:
        number = len(made)
        kind = "tTdDrRbBW"[number % 9]
        made.append(Symbol(BASE + 0x10 * number, kind, f"some_function_{number}.cold"))
    return made


def make_tokens(texts: Sequence[str]) -> list[bytes]:
    """Return 256 tokens: characters that are used, and what is frequent."""
    used = {ord(char) for text in texts for char in text}
    frequent = iter(["some_", "function_", "percpu_", ".cold", "zqzq", "10", "ab"])
    return [
        bytes([byte]) if byte in used or 0x30 <= byte <= 0x39 else next(frequent, "").encode()
        for byte in range(256)
    ]


def _pack(text: str, tokens: list[bytes]) -> bytes:
    longer = {token: number for number, token in enumerate(tokens) if len(token) > 1}
    packed, rest = b"", text.encode()
    while rest:
        match = next((token for token in longer if rest.startswith(token)), None)
        packed += bytes([longer[match]]) if match else rest[:1]
        rest = rest[len(match) if match else 1 :]
    return packed


def image(layout: Layout, known: Sequence[Symbol], before: int = 4096) -> bytes:
    """Return an image that has the symbols' kallsyms behind ``before`` other bytes."""
    data = bytearray(b"\x5a" * before)

    def align() -> None:
        data.extend(bytes(-len(data) % layout.alignment))

    def addresses() -> None:
        align()
        for symbol in known:
            if layout.relative == "place":
                value = symbol.address - (LINK + len(data))
            elif layout.relative == "base":
                value = symbol.address - BASE
            else:
                below = symbol.address < 1 << 63
                value = symbol.address if below else BASE - 1 - symbol.address
            data.extend(struct.pack("<I", value & 0xFFFF_FFFF))
        if layout.relative != "place":
            align()
            data.extend(struct.pack("<Q", BASE))

    texts = [symbol.kind + symbol.name for symbol in known]
    tokens = make_tokens(texts)
    if not layout.last:
        addresses()
    align()
    data += struct.pack("<I", len(known))
    align()
    start, markers = len(data), []
    for number, text in enumerate(texts):
        if number % 256 == 0:
            markers.append(len(data) - start)
        packed = _pack(text, tokens)
        if len(packed) > 127:
            assert layout.big_names
            data += bytes([len(packed) & 0x7F | 0x80, len(packed) >> 7])
        else:
            data.append(len(packed))
        data += packed
    align()
    data += struct.pack(f"<{len(markers)}I", *markers)
    if layout.sequence:
        align()
        data += bytes(range(1, 4)) * len(known)
    align()
    index = []
    table = len(data)
    for token in tokens:
        index.append(len(data) - table)
        data += token + b"\0"
    align()
    data += struct.pack("<256H", *index)
    if layout.last:
        addresses()
    return bytes(data) + b"\xa5" * 64
