"""BTF, the kernel's own compact type information: sizes and member offsets of structures.

Ref: Linux Documentation/bpf/btf.rst; include/uapi/linux/btf.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from tracer.errors import KernelImageError

_MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")  # name, info, size or type
_MEMBER = struct.Struct("<III")  # name, type, offset
_ARRAY = struct.Struct("<III")  # element type, index type, number of elements
_ENUMERATOR = struct.Struct("<Ii")  # name, value
_PARAMETER = struct.Struct("<II")  # name, type
_POINTER_SIZE = 8

# Bounds on what a damaged or hostile blob can make us do: Debian's has 7 MB, and no structure of
# the kernel comes near the others.
MAX_SIZE = 64 << 20
"""Largest blob that is read, in bytes."""
_MAX_DEPTH = 32  # structures, arrays or typedefs within each other
_MAX_MEMBERS = 1 << 16  # looked at for one question
_MAX_NAME = 1024  # bytes


class Kind(IntEnum):
    """Name the BTF_KIND_* values."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


# Bytes that follow a type's 12: so many, and so many more for each of its vlen. A kernel has some
# 100,000 types, and is read while its guest waits: the table is looked up by plain numbers.
_EXTRA = {
    **{int(kind): (0, 0) for kind in Kind},
    int(Kind.INT): (4, 0),
    int(Kind.ARRAY): (12, 0),
    int(Kind.STRUCT): (0, 12),
    int(Kind.UNION): (0, 12),
    int(Kind.ENUM): (0, 8),
    int(Kind.FUNC_PROTO): (0, 8),
    int(Kind.VAR): (4, 0),
    int(Kind.DATASEC): (0, 12),
    int(Kind.DECL_TAG): (4, 0),
    int(Kind.ENUM64): (0, 12),
}

_TRANSPARENT = (Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG)
_COMPOUND = (Kind.STRUCT, Kind.UNION)


@dataclass(frozen=True, slots=True)
class Member:
    """Hold where a member is: ``offset`` from the start of the structure, ``size``, in bytes.

    For an array ``count`` is its number of elements (1 otherwise) and ``size`` is of them all.
    """

    offset: int
    size: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class Btf:
    """Hold parsed BTF. Make one with :func:`parse_btf`.

    ``starts`` has the offset of each type in ``types``, by type number from 1; ``compounds``
    has the number of each named structure and union.
    """

    types: bytes
    strings: bytes
    starts: tuple[int, ...]
    compounds: dict[str, int]
    enumerators: dict[str, int]

    def size_of(self, name: str) -> int | None:
        """Return the size in bytes of a structure or union, or None when there is none."""
        number = self.compounds.get(name)
        return None if number is None else self._size(number)

    def member(self, name: str, path: str) -> Member | None:
        """Return where a member of a structure is, or None when there is no such member.

        ``path`` is dotted and may index arrays: ``member("module", "mem[0].base")``. Anonymous
        structures and unions are looked through. A bit field is no member here: None.
        """
        number = self.compounds.get(name)
        offset = 0
        steps = path.replace("[", ".[").split(".")
        budget = iter(range(_MAX_MEMBERS))
        for step in steps:
            if number is None:
                return None
            if step.startswith("["):
                found = self._element(number, int(step[1:-1]))
            else:
                found = self._find(number, step, budget)
            if found is None:
                return None
            number = found[0]
            offset += found[1]
        if number is None:
            return None
        number = self._skip(number)
        kind, _, _, start = self._type(number)
        count = _ARRAY.unpack_from(self.types, start + 12)[2] if kind is Kind.ARRAY else 1
        return Member(offset, self._size(number), count)

    def bit_field(self, name: str, field: str) -> tuple[int, int] | None:
        """Return first bit and width of a bit field of a structure, or None when it has none."""
        number = self.compounds.get(name)
        if number is None:
            return None
        _, info, _, start = self._type(number)
        for index in range(info & 0xFFFF if info >> 31 else 0):
            label, _, position = _MEMBER.unpack_from(self.types, start + 12 + 12 * index)
            if position >> 24 and _string(self.strings, label) == field:
                return position & 0xFFFFFF, position >> 24
        return None

    def parameters(self, function: str) -> tuple[str, ...] | None:
        """Return the names of a function's parameters, or None when it has no description.

        Goes through all types: for functions that are asked about once.
        """
        for number in range(1, len(self.starts)):
            label, info, prototype = _TYPE.unpack_from(self.types, self.starts[number])
            if info >> 24 & 0x1F != Kind.FUNC or _string(self.strings, label) != function:
                continue
            kind, count, _, start = self._type(prototype)
            if kind is not Kind.FUNC_PROTO:
                break
            labels = (
                _PARAMETER.unpack_from(self.types, start + 12 + 8 * index)[0]
                for index in range(count & 0xFFFF)
            )
            return tuple(_string(self.strings, label) for label in labels)
        return None

    # Private: type numbers in, type numbers out; offsets in bytes.

    def _type(self, number: int) -> tuple[Kind, int, int, int]:
        # Kind, vlen with the kind flag in bit 31, size or type, offset in `types`.
        if number == 0:
            return Kind.VOID, 0, 0, 0
        if not 0 < number < len(self.starts):
            raise KernelImageError(f"damaged BTF: there is no type {number}")
        start = self.starts[number]
        _, info, size = _TYPE.unpack_from(self.types, start)
        return Kind(info >> 24 & 0x1F), info & 0x8000FFFF, size, start

    def _skip(self, number: int) -> int:
        # Through typedefs and qualifiers to the type they stand for.
        for _ in range(_MAX_DEPTH):
            kind, _, target, _ = self._type(number)
            if kind not in _TRANSPARENT:
                return number
            number = target
        raise KernelImageError("damaged BTF: a typedef stands for itself")

    def _size(self, number: int) -> int:
        count = 1
        for _ in range(_MAX_DEPTH):
            kind, _, size, start = self._type(self._skip(number))
            match kind:
                case Kind.ARRAY:
                    number, _, elements = _ARRAY.unpack_from(self.types, start + 12)
                    count *= elements
                case Kind.PTR:
                    return count * _POINTER_SIZE
                case Kind.INT | Kind.STRUCT | Kind.UNION | Kind.ENUM | Kind.ENUM64 | Kind.FLOAT:
                    return count * size
                case _:
                    return 0
        raise KernelImageError("damaged BTF: an array is its own element")

    def _element(self, number: int, index: int) -> tuple[int, int] | None:
        kind, _, _, start = self._type(self._skip(number))
        if kind is not Kind.ARRAY:
            return None
        element, _, count = _ARRAY.unpack_from(self.types, start + 12)
        return (element, index * self._size(element)) if 0 <= index < count else None

    def _find(
        self, number: int, wanted: str, budget: Iterator[int], depth: int = 0
    ) -> tuple[int, int] | None:
        if depth == _MAX_DEPTH:
            raise KernelImageError("damaged BTF: a structure is a member of itself")
        kind, info, _, start = self._type(self._skip(number))
        if kind not in _COMPOUND:
            return None
        for index in range(info & 0xFFFF):
            if next(budget, None) is None:
                raise KernelImageError(f"damaged BTF: more than {_MAX_MEMBERS} members to look at")
            name, target, position = _MEMBER.unpack_from(self.types, start + 12 + 12 * index)
            bits = 0
            if info >> 31:  # kind flag: the offset's upper byte is the width of a bit field
                bits, position = position >> 24, position & 0xFFFFFF
            if name and _string(self.strings, name) == wanted:
                return None if bits else (target, position // 8)
            if not name and not bits:
                inner = self._find(target, wanted, budget, depth + 1)
                if inner is not None:
                    return inner[0], position // 8 + inner[1]
        return None


def parse_btf(data: bytes) -> Btf:
    """Index a little-endian BTF blob, such as a vmlinux's ``.BTF`` section.

    Raises KernelImageError when it is none or is cut off.
    """
    if len(data) < _HEADER.size:
        raise KernelImageError("damaged BTF: shorter than its header")
    if len(data) > MAX_SIZE:
        raise KernelImageError(f"damaged BTF: {len(data)} bytes, more than any kernel has")
    magic, version, _, header, type_at, type_size, string_at, string_size = _HEADER.unpack_from(
        data
    )
    if magic != _MAGIC or version != 1:
        raise KernelImageError(f"not BTF version 1: magic {magic:#x}, version {version}")
    types = data[header + type_at : header + type_at + type_size]
    strings = data[header + string_at : header + string_at + string_size]
    if len(types) != type_size or len(strings) != string_size:
        raise KernelImageError("damaged BTF: cut off")
    starts = [0]
    compounds: dict[str, int] = {}
    enumerators: dict[str, int] = {}
    structure, union, enumeration = int(Kind.STRUCT), int(Kind.UNION), int(Kind.ENUM)
    at = 0
    try:
        while at < type_size:
            name, info, _ = _TYPE.unpack_from(types, at)
            kind, vlen = info >> 24 & 0x1F, info & 0xFFFF
            fixed, each = _EXTRA[kind]
            if kind in (structure, union):
                if name:
                    compounds.setdefault(_string(strings, name), len(starts))
            elif kind == enumeration:
                for index in range(vlen):
                    label, value = _ENUMERATOR.unpack_from(types, at + 12 + 8 * index)
                    enumerators.setdefault(_string(strings, label), value)
            starts.append(at)
            at += 12 + fixed + each * vlen
        if at > type_size:
            raise ValueError("it is cut off")
    except KeyError as error:
        raise KernelImageError(f"damaged BTF at type {len(starts)}: no kind {error}") from error
    except (struct.error, ValueError) as error:
        raise KernelImageError(f"damaged BTF at type {len(starts)}: {error}") from error
    return Btf(types, strings, tuple(starts), compounds, enumerators)


def _string(strings: bytes, offset: int) -> str:
    end = strings.find(b"\0", offset, offset + _MAX_NAME)
    return strings[offset:end].decode("latin-1") if end >= 0 else ""
