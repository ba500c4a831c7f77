"""What QEMU's GDB stub says of its registers: names, numbers, and their places in its answers.

A target description is XML in parts, called annexes. The root, ``target.xml``, includes the
others; a register's number is one more than that of the register before it, unless it has its
own. In the answer to a ``g`` packet the registers stand in the order of their numbers without
gaps. :func:`describe` asks for one annex after the other and does no I/O.

Ref: GDB manual, "Target Description Format", "Packets" (g), "General Query Packets"
(qXfer features read), "Overview" (escaped binary data); GDB remote.c
(map_regcache_remote_table).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from xml.parsers import expat

from tracer.errors import DebuggerError

ROOT = "target.xml"
CHUNK = 2000
"""Bytes of an annex to ask for at once: QEMU answers with up to 2,045 (MAX_PACKET_LENGTH)."""

_NESTED = 32
_NAMED = 4
_PRINTED = re.compile(rb"\\x([0-9a-f]{2})")
_ESCAPED = re.compile(rb"}(.)", re.DOTALL)
_INTEGERS = {1: "B", 2: "H", 4: "I", 8: "Q"}


@dataclass(frozen=True, slots=True)
class RegisterPlace:
    """Name a register: its number in packets, its offset in the answer to ``g``, in bytes."""

    name: str
    number: int
    offset: int
    size: int


class RegisterLayout:
    """Take apart the stub's answers to ``g``. ``architecture`` is GDB's name of the target's."""

    def __init__(self, architecture: str, places: Sequence[RegisterPlace]) -> None:
        self.architecture = architecture
        self.places = tuple(places)
        self._named = {place.name: place for place in places}
        # One format for the whole answer: unpacked in one call per stop.
        sizes = [place.size for place in places]
        self._format = struct.Struct("<" + "".join(_INTEGERS.get(n, f"{n}s") for n in sizes))

    def require(self, names: Sequence[str]) -> None:
        """Raise DebuggerError, naming the first few, where registers are not described."""
        missing = [name for name in names if name not in self._named]
        if missing:
            more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
            raise DebuggerError(
                f"the registers that QEMU's GDB stub describes ({self.architecture or 'no name'}) "
                f"lack {', '.join(missing[:_NAMED])}{more}: qemu-system-x86_64 has them"
            )

    def unpack(self, answer: str) -> dict[str, int]:
        """Return the registers in an answer to ``g`` by name.

        Raises DebuggerError when it is an error, or shorter than what was described.
        """
        try:
            # The digits of a register that is not available are x.
            data = bytes.fromhex(answer.replace("x", "0"))
        except ValueError as error:
            raise DebuggerError(
                f"QEMU's GDB stub answered {answer[:40]!r} to a request for all registers"
            ) from error
        if len(data) < self._format.size:
            raise DebuggerError(
                f"QEMU's GDB stub sent {len(data)} bytes of registers, "
                f"but its target description tells of {self._format.size}"
            )
        values = self._format.unpack_from(data)
        return {
            place.name: int.from_bytes(value, "little") if isinstance(value, bytes) else value
            for place, value in zip(self.places, values, strict=True)
        }

    def write(self, name: str, value: int) -> str:
        """Return the packet that writes a register."""
        place = self._named[name]
        return f"P{place.number:x}={value.to_bytes(place.size, 'little').hex()}"

    def read(self, name: str) -> str:
        """Return the packet that reads a register, whose answer :func:`parse_register` takes."""
        return f"p{self._named[name].number:x}"


def parse_register(answer: str) -> int:
    """Return the value of one register. Raises DebuggerError when the answer is none."""
    try:
        return int.from_bytes(bytes.fromhex(answer), "little")
    except ValueError as error:
        raise DebuggerError(
            f"QEMU's GDB stub answered {answer[:40]!r} to a request for a register"
        ) from error


def describe() -> Generator[str, bytes, RegisterLayout]:
    """Yield the names of annexes, be sent their text, and return where the registers are.

    Raises DebuggerError for a text that is no target description.
    """
    found = _Found()
    yield from _annex(ROOT, found, [])
    places: list[RegisterPlace] = []
    offset = 0
    for number, (name, size) in sorted(found.registers.items()):
        places.append(RegisterPlace(name, number, offset, size))
        offset += size
    return RegisterLayout(found.architecture, places)


@dataclass(slots=True)
class _Found:
    architecture: str = ""
    registers: dict[int, tuple[str, int]] = field(default_factory=dict)
    number: int = 0


def _annex(name: str, found: _Found, under: list[str]) -> Generator[str, bytes, None]:
    if name in under or len(under) > _NESTED:
        raise DebuggerError(f"QEMU's target description includes {name} within itself")
    text = yield name
    for item in _items(name, text):
        match item:
            case _Included(annex):
                yield from _annex(annex, found, [*under, name])
            case _Described(register, number, size):
                found.number = found.number if number is None else number
                found.registers[found.number] = register, size
                found.number += 1
            case str(architecture):
                found.architecture = architecture


@dataclass(frozen=True, slots=True)
class _Included:
    annex: str


@dataclass(frozen=True, slots=True)
class _Described:
    name: str
    number: int | None
    size: int


def _items(name: str, text: bytes) -> list[_Included | _Described | str]:
    # One annex, in order. QEMU does not declare the namespace of its xi:include.
    items: list[_Included | _Described | str] = []
    words: list[str] | None = None

    def begin(tag: str, attributes: dict[str, str]) -> None:
        nonlocal words
        if tag.endswith(":include"):
            items.append(_Included(attributes["href"]))
        elif tag == "reg":
            items.append(_described(attributes))
        words = [] if tag == "architecture" else None

    def end(tag: str) -> None:
        nonlocal words
        if tag == "architecture" and words is not None:
            items.append("".join(words).strip())
        words = None

    def characters(data: str) -> None:
        if words is not None:
            words.append(data)

    parser = expat.ParserCreate()
    parser.StartElementHandler = begin
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters
    try:
        parser.Parse(text, True)
    except (expat.ExpatError, KeyError, ValueError) as error:
        raise DebuggerError(
            f"{name} of QEMU's target description cannot be read: {error}"
        ) from error
    return items


def _described(attributes: Mapping[str, str]) -> _Described:
    number, bits = attributes.get("regnum"), int(attributes["bitsize"])
    if bits <= 0 or bits % 8:
        raise ValueError(f"a register of {bits} bits")
    return _Described(attributes["name"], None if number is None else int(number), bits // 8)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Hold a part of an annex, and whether more follows."""

    data: bytes
    more: bool


def request(annex: str, offset: int) -> str:
    """Return the packet that asks for an annex from a byte offset on."""
    return f"qXfer:features:read:{annex}:{offset:x},{CHUNK:x}"


def parse_chunk(annex: str, printed: str) -> Chunk:
    r"""Return what the stub answered to :func:`request`, as GDB prints it.

    GDB prints what is no ASCII text as ``\x0a``; of the remote protocol's own escapes, ``}`` goes
    before a byte whose bit 5 is changed. Raises DebuggerError for any other answer.
    """
    kind, text = printed[:1], printed[1:]
    if kind not in ("m", "l"):
        how = f"answered {printed[:40]!r}" if printed else "knows no target descriptions"
        raise DebuggerError(f"QEMU's GDB stub {how} when asked for {annex}")
    raw = _PRINTED.sub(lambda m: bytes([int(m[1], 16)]), text.encode(errors="replace"))
    data = _ESCAPED.sub(lambda m: bytes([m[1][0] ^ 0x20]), raw)
    return Chunk(data, kind == "m" and bool(data))
