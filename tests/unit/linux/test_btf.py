"""tracer.linux.btf: member offsets and sizes from BTF written by hand."""

from __future__ import annotations

import pytest
from btf_sample import CONST, TYPEDEF, UNION, BtfWriter

from tracer.errors import KernelImageError
from tracer.linux.btf import Member, parse_btf


@pytest.fixture
def blob() -> bytes:
    btf = BtfWriter()
    u32 = btf.integer("unsigned int", 4)
    pointer = btf.pointer()
    alias = btf.add(TYPEDEF, "u32", btf.add(CONST, "", u32))
    btf.enum("colour", RED=0, GREEN=-7)
    inner = btf.structure("inner", 16, ("base", pointer, 0), ("size", alias, 8))
    union = btf.structure("", 8, ("left", u32, 0), ("right", pointer, 0), kind=UNION)
    btf.structure(
        "outer",
        88,
        ("id", alias, 0),
        ("", union, 8),
        ("part", inner, 16),
        ("parts", btf.array(inner, 3), 32),
        ("next", btf.pointer(inner), 80),
    )
    btf.structure("bits", 8, ("whole", u32, 0), ("three", u32, 3 << 24 | 32), bit_fields=True)
    return btf.blob()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("id", Member(0, 4)),
        ("left", Member(8, 4)),
        ("right", Member(8, 8)),
        ("part", Member(16, 16)),
        ("part.size", Member(24, 4)),
        ("parts", Member(32, 48, count=3)),
        ("parts[0].base", Member(32, 8)),
        ("parts[2].size", Member(72, 4)),
        ("next", Member(80, 8)),
        ("parts[3].size", None),
        ("nothing", None),
        ("id.nothing", None),
        ("part[0]", None),
        ("next.base", None),  # a pointer is not looked through
    ],
)
def test_member(blob: bytes, path: str, expected: Member | None) -> None:
    assert parse_btf(blob).member("outer", path) == expected


def test_sizes(blob: bytes) -> None:
    btf = parse_btf(blob)
    assert btf.size_of("outer") == 88
    assert btf.size_of("inner") == 16
    assert btf.size_of("colour") is None
    assert btf.member("colour", "x") is None


def test_bit_field_is_no_member(blob: bytes) -> None:
    btf = parse_btf(blob)
    assert btf.member("bits", "whole") == Member(0, 4)
    assert btf.member("bits", "three") is None


def test_parameters() -> None:
    writer = BtfWriter()
    writer.function("nothing")
    writer.function("change_protection", "tlb", "vma", "start")
    writer.structure("orphan", 8)
    btf = parse_btf(writer.blob())
    assert btf.parameters("change_protection") == ("tlb", "vma", "start")
    assert btf.parameters("nothing") == ()
    assert btf.parameters("orphan") is None
    assert btf.parameters("other") is None


def test_enumerators(blob: bytes) -> None:
    assert parse_btf(blob).enumerators == {"RED": 0, "GREEN": -7}


@pytest.mark.parametrize("size", [0, 10, 23, 24, 40, 100, 200])
def test_cut_off(blob: bytes, size: int) -> None:
    assert size < len(blob)
    with pytest.raises(KernelImageError, match="damaged BTF"):
        parse_btf(blob[:size])


def test_foreign(blob: bytes) -> None:
    with pytest.raises(KernelImageError, match="not BTF"):
        parse_btf(b"\x7fELF" + blob[4:])


def test_unknown_kind(blob: bytes) -> None:
    broken = bytearray(blob)
    broken[24 + 7] = 31  # the kind of the first type
    with pytest.raises(KernelImageError, match="at type 1"):
        parse_btf(bytes(broken))


def test_typedef_of_itself_ends() -> None:
    btf = BtfWriter()
    btf.structure("s", 8, ("m", 2, 0))
    btf.add(TYPEDEF, "loop", 2)
    with pytest.raises(KernelImageError, match="stands for itself"):
        parse_btf(btf.blob()).member("s", "m")


def test_type_that_does_not_exist() -> None:
    btf = BtfWriter()
    btf.structure("s", 8, ("m", 77, 0))
    with pytest.raises(KernelImageError, match="no type 77"):
        parse_btf(btf.blob()).member("s", "m")
