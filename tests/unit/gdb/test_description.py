"""Register layouts: from the annexes of a target description to the values in an answer."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tracer.errors import DebuggerError
from tracer.gdb.description import RegisterLayout, describe, parse_chunk, parse_register, request

TARGET = (
    '<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target>'
    '<architecture> i386:x86-64 </architecture><xi:include href="core.xml"/>'
    '<xi:include href="more.xml"/></target>'
)
ANNEXES = {
    "target.xml": TARGET,
    "core.xml": '<feature name="core"><reg name="a" bitsize="64" regnum="0"/>'
    '<reg name="b" bitsize="16"/><flags id="f" size="4"><field name="a" start="0" end="1"/>'
    '</flags><reg name="c" bitsize="80"/></feature>',
    # A number that jumps, and one that goes back in front of what came before.
    "more.xml": '<feature><reg name="x" bitsize="32" regnum="40"/><reg name="y" bitsize="8"/>'
    '<reg name="w" bitsize="32" regnum="39"/></feature>',
}


def layout(annexes: Mapping[str, str]) -> RegisterLayout:
    description = describe()
    annex = next(description)
    while True:
        try:
            annex = description.send(annexes[annex].encode())
        except StopIteration as stop:
            return stop.value


def test_numbers_and_offsets() -> None:
    found = layout(ANNEXES)
    assert found.architecture == "i386:x86-64"
    assert [(p.name, p.number, p.offset, p.size) for p in found.places] == [
        ("a", 0, 0, 8),
        ("b", 1, 8, 2),
        ("c", 2, 10, 10),
        ("w", 39, 20, 4),
        ("x", 40, 24, 4),
        ("y", 41, 28, 1),
    ]


def test_an_answer() -> None:
    data = bytes(range(29))
    values = layout(ANNEXES).unpack(data.hex())
    assert values["a"] == 0x0706050403020100
    assert values["b"] == 0x0908
    assert values["c"] == int.from_bytes(data[10:20], "little")
    assert (values["w"], values["y"]) == (0x17161514, 28)
    # A register that is not available counts as zero; what follows was not described.
    assert layout(ANNEXES).unpack("xx" * 8 + data[8:].hex() + "ffff")["a"] == 0


def test_packets_of_one_register() -> None:
    found = layout(ANNEXES)
    assert found.write("b", 0x1234) == "P1=3412"
    assert found.write("w", 5) == "P27=05000000"
    assert found.read("y") == "p29"
    assert parse_register("3412") == 0x1234
    with pytest.raises(DebuggerError, match="answered 'E14' to a request for a register"):
        parse_register("E14")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("E01", "answered 'E01'"),
        ("", "sent 0 bytes"),
        ("00" * 28, "sent 28 bytes.* of 29"),
        ("OK", "answered 'OK'"),
    ],
)
def test_an_answer_that_is_none(answer: str, says: str) -> None:
    with pytest.raises(DebuggerError, match=says):
        layout(ANNEXES).unpack(answer)


def test_what_is_missing_is_named() -> None:
    found = layout(ANNEXES)
    found.require(("a", "y"))
    with pytest.raises(DebuggerError, match=r"\(i386:x86-64\) lack r1, r2, r3, r4 and 1 more"):
        found.require(("r1", "a", "r2", "r3", "r4", "r5"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<target>",
        '<target><reg name="a"/></target>',
        '<target><reg bitsize="8"/></target>',
        '<target><reg name="a" bitsize="many"/></target>',
        '<target><reg name="a" bitsize="-8"/></target>',
        '<target><reg name="a" bitsize="7"/></target>',
        '<target><xi:include href="target.xml"/></target>',
        "<target><xi:include/></target>",
    ],
)
def test_a_description_that_is_none(text: str) -> None:
    with pytest.raises(DebuggerError, match=r"target\.xml"):
        layout({"target.xml": text})


def test_chunks() -> None:
    assert request("core.xml", 0x7D0) == "qXfer:features:read:core.xml:7d0,7d0"
    first = parse_chunk("a", r'm<a>\x0a\x09"\xc3\xa9"')
    assert (first.data, first.more) == ('<a>\n\t"é"'.encode(), True)
    # `}` goes before an escaped byte, which may be one that GDB does not print.
    assert parse_chunk("a", r"l}\x03}]}" + "\n").data == b"#}*"
    assert not parse_chunk("a", "l").more
    assert not parse_chunk("a", "m").more


@pytest.mark.parametrize(
    ("answer", "says"), [("", "knows no target desc"), ("E00", "answered 'E00' when asked for a$")]
)
def test_a_chunk_that_is_none(answer: str, says: str) -> None:
    with pytest.raises(DebuggerError, match=says):
        parse_chunk("a", answer)
