"""Images of guests that are not Linux, made to order."""

from __future__ import annotations

import struct

LOW = 0x10_0000
LIDT = "0f011d00000000"  # lidt [rip]
NOTE = struct.pack("<III4sQ", 4, 8, 18, b"Xen\0", LOW)


def elf(code: bytes, *, machine: int = 62, names: bytes = b"\0start\0", flags: int = 5) -> bytes:
    """An image of one segment at LOW, with a symbol at its start."""
    symbols = struct.pack("<IBBHQQ", 1, 0x12, 0, 1, LOW, len(code))
    body = 64 + 56
    parts = code, NOTE, symbols, names
    offsets = [body + sum(map(len, parts[:n])) for n in range(len(parts) + 1)]
    section = struct.Struct("<IIQQQQIIQQ")
    table = section.pack(0, 2, 0, 0, offsets[2], len(symbols), 1, 0, 8, 24)
    table += section.pack(0, 3, 0, 0, offsets[3], len(names), 0, 0, 1, 0)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, machine, 1, LOW, 64, offsets[4], 0,
        64, 56, 1, 64, 2, 1,
    )  # fmt: skip
    segment = struct.pack("<IIQQQQQQ", 1, flags, body, LOW, LOW, len(code), len(code) + 16, 4096)
    return header + segment + b"".join(parts) + table


CODE = bytes.fromhex("90" + LIDT + "90" + LIDT + "c3")
