"""A small BTF writer: enough of the format to describe structures to the tests."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

INT, PTR, ARRAY, STRUCT, UNION, ENUM, TYPEDEF, CONST = 1, 2, 3, 4, 5, 6, 8, 10
FUNC, FUNC_PROTO = 12, 13
VOID = 0


@dataclass
class BtfWriter:
    types: bytearray = field(default_factory=bytearray)
    strings: bytearray = field(default_factory=lambda: bytearray(1))
    count: int = 0

    def _name(self, name: str) -> int:
        if not name:
            return 0
        offset = len(self.strings)
        self.strings += name.encode() + b"\0"
        return offset

    def add(self, kind: int, name: str, size: int, extra: bytes = b"", vlen: int = 0) -> int:
        self.types += struct.pack("<III", self._name(name), kind << 24 | vlen, size) + extra
        self.count += 1
        return self.count

    def integer(self, name: str, size: int) -> int:
        return self.add(INT, name, size, struct.pack("<I", size * 8))

    def pointer(self, target: int = VOID) -> int:
        return self.add(PTR, "", target)

    def array(self, element: int, length: int) -> int:
        return self.add(ARRAY, "", 0, struct.pack("<III", element, 0, length))

    def structure(
        self,
        name: str,
        size: int,
        *members: tuple[str, int, int],
        kind: int = STRUCT,
        bit_fields: bool = False,
    ) -> int:
        """Members are name, type, offset in bytes (with ``bit_fields``: the raw field)."""
        extra = b"".join(
            struct.pack("<III", self._name(member), number, at if bit_fields else at * 8)
            for member, number, at in members
        )
        flag = 0x80000000 if bit_fields else 0
        return self.add(kind, name, size, extra, flag | len(members))

    def enum(self, name: str, **values: int) -> int:
        extra = b"".join(struct.pack("<Ii", self._name(n), v) for n, v in values.items())
        return self.add(ENUM, name, 4, extra, len(values))

    def function(self, name: str, *parameters: str) -> int:
        extra = b"".join(struct.pack("<II", self._name(label), VOID) for label in parameters)
        return self.add(FUNC, name, self.add(FUNC_PROTO, "", VOID, extra, len(parameters)))

    def blob(self) -> bytes:
        header = struct.pack(
            "<HBBIIIII",
            0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.strings),
        )  # fmt: skip
        return header + bytes(self.types) + bytes(self.strings)
