"""Register maps out of other tools' files: what they say is what other readers find there.

The files in tests/data/svdsuite are those that svdsuite (MIT) tests itself with, those in hectare
and ipyxact are what HECTARE 0.2.4 (BSD) and ipyxact 0.3.2 (MIT) ship.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vetrace_run import need

from tracer.cli import main
from tracer.devices.file import parse
from tracer.devices.tree import Field, Group, Register
from tracer.devices.writing import Described, expanded, map_text, settled

Output = pytest.CaptureFixture[str]
DATA = Path(__file__).parents[2] / "data"
FILES = DATA / "svdsuite"

Place = tuple[str, int, int, str, tuple[tuple[str, int, int], ...]]
"""A register: name, offset, width, access right, and the bits of its fields."""


def imported(capsys: Output, *arguments: str | Path) -> str:
    assert main.main(["registers", "import", *map(str, arguments)]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def refused(capsys: Output, *arguments: str | Path) -> str:
    assert main.main(["registers", "import", *map(str, arguments)]) in (1, 2)
    told = capsys.readouterr()
    assert not told.out and told.err.count("\n") == 1, told.err
    return told.err


def plain(name: str) -> str:
    """A name without what parts a cluster or an index from it, which each reader writes its way."""
    return re.sub(r"[\[\]._ ]", "", name)


def places(text: str) -> list[Place]:
    found = parse(text, "made", "made")
    return sorted(
        (
            plain(name), offset, register.width, register.access,
            tuple(sorted((field.name, field.high, field.low) for field in register.fields)),
        )
        for name, offset, register in expanded(found.root)
    )  # fmt: skip


# ---- CMSIS-SVD, against another reader of it

RIGHTS = {"read-only": "ro", "write-only": "wo", "read-write": "rw", "writeOnce": "wo", None: "rw"}


def read_by_cmsis_svd(path: Path) -> Iterator[tuple[str, list[Place]]]:
    from cmsis_svd.parser import SVDParser

    for peripheral in SVDParser.for_xml_file(path).get_device().get_peripherals():
        found = []
        for register in peripheral.get_registers():
            access = None if register.access is None else register.access.value
            fields = tuple(
                sorted(
                    (field.name, field.bit_offset + field.bit_width - 1, field.bit_offset)
                    for field in register.get_fields()
                )
            )
            width = (register.size or 32) // 8
            found.append(
                (plain(register.name), register.address_offset, width, RIGHTS[access], fields)
            )
        yield plain(peripheral.name), sorted(found)


@pytest.mark.parametrize(
    "name",
    [
        "simple_array_cluster_level", "simple_array_field_level", "simple_array_peripheral_level",
        "simple_array_register_level", "simple_list_cluster_level", "simple_list_field_level",
        "simple_list_peripheral_level", "simple_list_register_level", "do_not_care_handling",
        "peripheral_override", "register_override", "field_override",
        "cluster_of_another_peripheral",
    ],
)  # fmt: skip
def test_a_map_has_what_another_reader_finds(tmp_path: Path, capsys: Output, name: str) -> None:
    path = FILES / f"{name}.svd"
    imported(capsys, path, "-o", tmp_path)
    made = {plain(file.stem).lower(): places(file.read_text()) for file in tmp_path.glob("*.toml")}
    assert made and all(made.values())
    assert made == {found.lower(): told for found, told in read_by_cmsis_svd(path)}


SVD = """<device schemaVersion="1.3"><name>Chip</name><version>1.2</version>
<size>16</size><access>read-only</access><peripherals>
<peripheral><name>UART</name><description>Serial
  port</description><baseAddress>0x4000</baseAddress><registers>{}</registers></peripheral>
</peripherals></device>"""


def device(tmp_path: Path, registers: str) -> Path:
    path = tmp_path / "chip.svd"
    path.write_text(SVD.format(registers))
    return path


def test_what_a_peripherals_names_begin_with_stands_before_clusters_too(
    tmp_path: Path, capsys: Output
) -> None:
    register = "<register><name>{}</name><addressOffset>{}</addressOffset></register>"
    path = device(
        tmp_path,
        f"{register.format('A', 0)}<cluster><name>MODE</name><addressOffset>4</addressOffset>"
        f"{register.format('B', 2)}</cluster>",
    )
    named = path.read_text().replace(
        "<name>UART</name>", "<name>UART</name><prependToName>U_</prependToName>"
    )
    path.write_text(named)
    ((_, wanted),) = read_by_cmsis_svd(path)
    assert places(imported(capsys, path)) == wanted
    assert [name for name, *_ in wanted] == ["UA", "UMODEB"]


def test_a_peripheral_is_a_file(tmp_path: Path, capsys: Output) -> None:
    path = device(
        tmp_path,
        """<register><name>CTRL</name><addressOffset>0x10</addressOffset><size>32</size>
        <access>read-write</access><description>What "it" does</description><fields>
        <field><name>EN</name><bitRange>[0:0]</bitRange></field>
        <field><name>MODE</name><lsb>4</lsb><msb>6</msb><description>How</description>
        <enumeratedValues><enumeratedValue><name>off</name><value>0</value></enumeratedValue>
        <enumeratedValue><name>any</name><value>#1xx</value></enumeratedValue></enumeratedValues>
        </field></fields></register>
        <register><name>STATUS</name><addressOffset>0</addressOffset></register>
        <register><dim>3</dim><dimIncrement>8</dimIncrement><name>FIFO%s</name>
        <addressOffset>0x20</addressOffset><size>8</size><access>write-only</access></register>""",
    )
    lines = imported(capsys, path, "--for", "uart*").splitlines()
    values = '{ 0 = "off", 4 = "any", 5 = "any", 6 = "any", 7 = "any" }'
    assert lines == [
        "# Made by `vetrace registers import` of chip.svd.",
        'title = "Serial port"',
        'specification = "Chip 1.2"',
        'applies = [{ region = "uart*" }]',
        "",
        "[register.STATUS]",
        "offset = 0x0",
        "width = 2",
        'access = "ro"',
        "",
        "[register.CTRL]",
        "offset = 0x10",
        'description = "What \\"it\\" does"',
        "[register.CTRL.fields]",
        "EN = 0",
        f'MODE = {{ bits = "6:4", description = "How", values = {values} }}',
        "",
        '[register."FIFO{}"]',
        "offset = 0x20",
        "width = 1",
        'access = "wo"',
        "stride = 0x8",
        "count = 3",
    ]


def test_a_cluster_gives_its_registers_what_they_do_not_say(capsys: Output) -> None:
    assert places(imported(capsys, FILES / "cluster_override.svd")) == [
        ("ClusterARegisterA", 0, 1, "wo", ()), ("ClusterBRegisterB", 4, 2, "wo", ()),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("", "ro"),
        ("<access>read-writeOnce</access>", "rw"),
        ("<access>writeOnce</access>", "wo"),
        ("<access>read-write</access><modifiedWriteValues>oneToClear</modifiedWriteValues>",
         "rw1c"),
        ("<access>read-write</access><modifiedWriteValues>oneToSet</modifiedWriteValues>", "rw1s"),
        ("<readAction>clear</readAction>", "rc"),
    ],
)  # fmt: skip
def test_access_rights(tmp_path: Path, capsys: Output, said: str, right: str) -> None:
    text = f"<register><name>R</name><addressOffset>0</addressOffset>{said}</register>"
    (place,) = places(imported(capsys, device(tmp_path, text)))
    assert place[3] == right


def test_what_a_map_cannot_say_is_told(tmp_path: Path, capsys: Output) -> None:
    path = device(
        tmp_path,
        """<register><name>A</name><addressOffset>0</addressOffset><size>32</size><fields>
        <field><name>X</name><bitRange>[3:0]</bitRange></field>
        <field><name>Y</name><bitRange>[4:3]</bitRange></field>
        <field><name>Z</name><bitRange>[32:30]</bitRange></field></fields></register>
        <register><name>B</name><addressOffset>2</addressOffset></register>""",
    )
    assert main.main(["registers", "import", str(path)]) == 0
    told = capsys.readouterr()
    assert places(told.out) == [("A", 0, 4, "ro", (("X", 3, 0),))]
    assert [line.removeprefix("vetrace: UART: left out: ") for line in told.err.splitlines()] == [
        "A.Y is where another field is", "A.Z lies outside its register",
        "B is where another register is",
    ]  # fmt: skip


def test_one_of_several_is_chosen(tmp_path: Path, capsys: Output) -> None:
    path = FILES / "simple_list_peripheral_level.svd"
    assert "describes 2 devices (PeripheralA, PeripheralB)" in refused(capsys, path)
    assert 'region = "peripheralb"' in imported(capsys, path, "--only", "PeripheralB")
    assert "did you mean PeripheralA" in refused(capsys, path, "--only", "PeripherlA")
    assert "choose it by --only" in refused(capsys, path, "-o", tmp_path, "--for", "x")
    for name, why in ((f"{tmp_path}/nof/", "Is a directory"), ("", "name the file")):
        assert why in refused(capsys, path, "--only", "PeripheralA", "-o", name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"<device", "is cut off: it ends in line 1"),
        (b"<device><name>x</name>\n<peripherals>", "is cut off: it ends in line 2"),
        (b"<device></divice>", "is no XML: mismatched tag"),
        (b"<device>\xe9</device>", "is no XML: not well-formed"),
        (b"<?xml version='1.0' encoding='klingon'?><device/>", "is no XML: unknown encoding"),
        (b"<device></device>", "it has no peripheral"),
        (
            b"<!DOCTYPE html><html></html>",
            "describes no registers: its outermost element is html without a namespace; that of"
            " CMSIS-SVD is device, that of IP-XACT component of its namespace, and SystemRDL is no"
            " XML\n",
        ),
        (b"<p:project xmlns:p='urn:p'/>", "its outermost element is project of urn:p;"),
        (b"<component></component>", "its outermost element is component without a namespace;"),
        (b"<x:component xmlns:x='http://www.accellera.org/XMLSchema/IPXACT/1685-2014'/>",
         "exactly one 'memoryMaps'"),
        (b"addrmap x { reg {", "line 1: "),
        (b"addrmap x { reg { field {} f; } a; unknown y; };", "'unknown' is not defined"),
        (b"", "is empty: CMSIS-SVD, SystemRDL and IP-XACT are read\n"),
        (b"\n \n", "is empty"),
        (b"A page of prose.", "broken (read as SystemRDL): line 1: "),
        (b"<% 1/0 %> addrmap x {};", "(read as SystemRDL)"),
        (b"\0\1\2", "is no text"),
        (b"PK\3\4\0\0", "is no text"),
        (b"\xff\xfe", "is no UTF-8 text: byte 0 is 0xff"),
        (b"addrmap x { \xe4", "is no UTF-8 text: byte 12 is 0xe4"),
    ],
)  # fmt: skip
def test_a_broken_file_is_told_in_one_line(
    tmp_path: Path, capsys: Output, data: bytes, why: str
) -> None:
    path = tmp_path / "broken"
    path.write_bytes(data)
    said = refused(capsys, path)
    assert why in said and "broken" in said


FIELD = "<field><name>F</name><bitOffset>0</bitOffset>{}</field>"
REGISTER = "<register><name>CR</name><addressOffset>4</addressOffset>{}</register>"


@pytest.mark.parametrize(
    ("inside", "why"),
    [
        (REGISTER.replace("4", "4x").format(""),
         "peripheral UART: register CR: addressOffset is 4x, which is no number"),
        (REGISTER.replace("4", "-4").format(""), "CR: addressOffset is -4, which is no number"),
        (REGISTER.replace("4", " ").format(""), "CR: addressOffset is empty"),
        (REGISTER.replace("4", "9" * 5000).format(""), "which is no number"),
        (REGISTER.format("<name>CR2</name>"), "register CR: it has 2 times name"),
        (REGISTER.format("<size>wide</size>"), "register CR: size is wide, which is no number"),
        (REGISTER.format(f"<fields>{FIELD.format('<bitWidth>1.5</bitWidth>')}</fields>"),
         "peripheral UART: register CR: field F: bitWidth is 1.5, which is no number"),
        (REGISTER.format("<fields><field><bitOffset>0</bitOffset></field></fields>"),
         "peripheral UART: register CR: a field has no name"),
        (f"<cluster><name>C</name>{REGISTER.format('<dim>x</dim>')}</cluster>",
         "peripheral UART: cluster C: register CR: dim is x, which is no number"),
        ("<cluster><name>C</name>" * 600 + "</cluster>" * 600, "too deep within each other"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_an_svd_is_told_with_its_place(
    tmp_path: Path, capsys: Output, inside: str, why: str
) -> None:
    path = tmp_path / "chip.svd"
    path.write_text(
        "<device><name>Chip</name><peripherals><peripheral><name>UART</name>"
        f"<registers>{inside}</registers></peripheral></peripherals></device>"
    )
    assert why in refused(capsys, path)


def test_what_tells_of_no_register_may_be_wrong(tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "chip.svd"
    path.write_text(
        "<device><name>Chip</name><cpu><fpuPresent>perhaps</fpuPresent></cpu><peripherals>"
        "<peripheral><name>UART</name><interrupt><name>I</name><value>x</value></interrupt>"
        f"<registers>{REGISTER.format('<resetValue>?</resetValue>')}</registers></peripheral>"
        "</peripherals></device>"
    )
    assert "[register.CR]" in imported(capsys, path)


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ("<spirit:bitOffset>1<", "<spirit:bitOffset>1.5<", ": 1.5 is no number; "),
        ("<spirit:bitOffset>1<", "<spirit:bitOffset>-1<", ": bitOffset is -1, below 0; "),
        ("<spirit:bitOffset>1<", "<spirit:bitOffset><", ": a number is empty; "),
        ("<spirit:access>read-only<", "<spirit:access>now<", ": Invalid value 'now' found"),
    ],
)
def test_what_is_wrong_in_ip_xact_is_told_with_its_place(
    tmp_path: Path, capsys: Output, before: str, after: str, why: str
) -> None:
    path = tmp_path / "chip.xml"
    text = (DATA / "ipyxact" / "generic_example.xml").read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    said = refused(capsys, path)
    assert why in said and "addressBlock some_register_map: register " in said


def test_what_could_stand_there_is_not_told_by_the_dozen(tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "chip.rdl"
    path.write_text("addrmap x { reg { field {} f; } a @ 0x0 }; ) ;")
    assert len(refused(capsys, path)) < 200 + len(str(path))


def test_a_number_may_be_larger_than_memory(tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "chip.rdl"
    field = f"field {{ encode = E; }} f[{'9' * 30}:0]; "
    path.write_text(f"enum E {{ A = 1; }}; addrmap x {{ reg {{ {field} }} a; }};")
    assert "a number in it is larger" in refused(capsys, path)


ENTITIES = {
    "a text that doubles itself": "".join(
        f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in pairwise("abcdefghi")
    ),
    "another file": '<!ENTITY a SYSTEM "file:///etc/passwd">',
    "a parameter": '<!ENTITY % a SYSTEM "file:///etc/passwd"> %a;',
}


@pytest.mark.parametrize("declared", ENTITIES.values(), ids=ENTITIES)
@pytest.mark.parametrize("root", ["device", "component"])
def test_no_entity_is_taken(tmp_path: Path, capsys: Output, declared: str, root: str) -> None:
    path = tmp_path / "bomb.svd"
    path.write_text(f"<!DOCTYPE x [{declared}]><{root}><name>&a;</name></{root}>")
    assert "bomb.svd declares an entity" in refused(capsys, path)


def test_a_file_says_how_it_is_encoded(tmp_path: Path, capsys: Output) -> None:
    known = (FILES / "simple_array_cluster_level.svd").read_text()
    body = known.partition("?>")[2]
    path = tmp_path / "chip.svd"
    path.write_text(known)
    told = imported(capsys, path)
    for data in (
        body.encode("utf-16"),
        body.encode("utf-8-sig"),
        b"<?xml version='1.0' encoding='iso-8859-1'?>" + body.encode("latin-1"),
    ):
        path.write_bytes(data)
        assert imported(capsys, path) == told


def test_a_small_file_does_not_stand_for_more_registers_than_there_is_memory(
    tmp_path: Path, capsys: Output
) -> None:
    many = (
        "<{0}><dim>{1}</dim><dimIncrement>4</dimIncrement><dimIndex>{2}</dimIndex>"
        "<name>x%s</name><addressOffset>0</addressOffset>"
    )
    inner = many.format("register", 60_000, "1-60000") + "</register>"
    path = device(tmp_path, many.format("cluster", 60_000, "1-60000") + inner + "</cluster>")
    assert "stands for more than 65,536 registers" in refused(capsys, path)
    path = device(tmp_path, many.format("register", 9, "0-999999999999") + "</register>")
    assert "is there 9 times, and its dimIndex is 0-999999999999" in refused(capsys, path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Serial\n   port.", "Serial port"),
        ("A timer, e.g. of 32 bits. It counts.\n\nA second paragraph.", "A timer, e.g. of 32 bits"),
        ("word " * 100, "word " * 13 + "word …"),
        ("W" * 100, "W" * 70 + " …"),
        (".", "UART"),
    ],
)
def test_a_title_is_one_short_line(tmp_path: Path, capsys: Output, text: str, line: str) -> None:
    path = tmp_path / "chip.svd"
    whole = SVD.format("<register><name>A</name><addressOffset>0</addressOffset></register>")
    path.write_text(re.sub(r"Serial\s+port", text, whole))
    assert parse(imported(capsys, path), "made", "made").title == line


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("circular", "Circular derivedFrom reference"),
        ("wrong_bits", "[11-8] is no range of bits"),
        ("wrong_indices", "is there 2 times, and its dimIndex is "),
    ],
)
def test_a_file_that_contradicts_itself_is_told(capsys: Output, name: str, why: str) -> None:
    assert why in refused(capsys, FILES / f"{name}.svd")


def test_the_words_of_the_command_line(tmp_path: Path, capsys: Output) -> None:
    assert "import which file" in refused(capsys)
    assert "cannot read" in refused(capsys, tmp_path / "none")
    assert main.main(["registers", "nvme.CC", "chip.svd"]) == 2
    assert "`vetrace registers import chip.svd`" in capsys.readouterr().err
    assert main.main(["registers", "nvme.CC", "--only", "X"]) == 2
    assert "are of `vetrace registers import" in capsys.readouterr().err
    assert main.main(["registers", "nvme.CC"]) == 0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<% while (1) {} %>", "cannot be read"),
        ("addrmap one { reg { field {} f; } ctl; }; addrmap many { one x[100000000]; };",
         "stands for more than 16,384 devices"),
        ("addrmap a { reg { field {} f; } ctl[100000000]; };", ""),
    ],
)  # fmt: skip
def test_a_small_file_takes_no_time_and_room_without_end(
    tmp_path: Path, capsys: Output, text: str, why: str
) -> None:
    path = tmp_path / "chip.rdl"
    path.write_text(text)
    if "<%" in text:
        safe = subprocess.run(["perl", "-MSafe", "-e", "1"], capture_output=True)
        need(safe.returncode == 0, "perl")
    if why:
        assert why in refused(capsys, path)
    else:
        assert "count = 100000000" in imported(capsys, path)


# Debian's perl-base, which every system has, lacks what SystemRDL's preprocessor loads.
def test_a_perl_without_its_modules_is_told(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    perl = tmp_path / "perl"
    words = "Can't locate Safe.pm in @INC (you may need to install the Safe module)"
    perl.write_text(f'#!/bin/sh\ncat > /dev/null\necho "{words}" >&2\nexit 2\n')
    perl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "chip.rdl").write_text("<% print 1 %>")
    assert "the Perl here lacks Safe.pm: install perl" in refused(capsys, tmp_path / "chip.rdl")


# ---- SystemRDL and IP-XACT, against SystemRDL's own model

RDL = """
enum mode_e { off = 2'd0 { name = "Off"; }; on = 2'd2; };
addrmap chip {
    name = "A chip";
    reg {
        desc = "Says
                what it is";
        field { sw = r; } MAJOR[15:8];
        field { sw = r; encode = mode_e; } MODE[1:0];
    } ID @ 0x0;
    reg { field { sw = rw; onwrite = woclr; } DONE[0:0]; } IRQ @ 0x8;
    reg { field { sw = w; } GO[31:31]; } START @ 0xc;
    reg { field { sw = r; onread = rclr; } N[7:0]; } COUNT @ 0x10;
    reg { regwidth = 64; field { sw = rw; } ADDR[63:12]; } BASE[4] @ 0x20 += 0x10;
    regfile {
        reg { field { sw = rw; } V[0:0]; } A @ 0x0;
        reg { field { sw = rw; } V[3:2]; } B[2] @ 0x8;
    } CHANNEL[3] @ 0x100 += 0x20;
    external mem { mementries = 4; memwidth = 32; } BUFFER @ 0x1000;
};
"""
GRID = "addrmap grid { reg { field { sw = rw; } V[0:0]; } CELL[2][3] @ 0x40 += 4; };"


def read_by_systemrdl(path: Path) -> list[Place]:
    from systemrdl import RDLCompiler
    from systemrdl.node import RegNode

    compiler = RDLCompiler()
    compiler.compile_file(str(path))
    top = compiler.elaborate().top
    return sorted(
        (
            plain(node.get_rel_path(top)),
            node.absolute_address,
            node.size,
            {(True, True): "rw", (True, False): "ro", (False, True): "wo"}[
                node.has_sw_readable, node.has_sw_writable
            ],
            tuple(sorted((field.inst_name, field.high, field.low) for field in node.fields())),
        )
        for node in top.descendants(unroll=True)
        if isinstance(node, RegNode)
    )


def rights_of_fields(found: list[Place]) -> list[Place]:
    """Places with access rights as they are without what a write or a read does."""
    wide = {"rw1c": "rw", "rw1s": "rw", "rc": "ro"}
    return [
        (name, at, width, wide.get(right, right), bits) for name, at, width, right, bits in found
    ]


@pytest.mark.parametrize("text", [RDL, GRID])
def test_systemrdl_has_what_its_compiler_finds(tmp_path: Path, capsys: Output, text: str) -> None:
    path = tmp_path / "chip.rdl"
    path.write_text(text)
    made = places(imported(capsys, path))
    assert rights_of_fields(made) == read_by_systemrdl(path)
    rights = {name: right for name, _, _, right, _ in made}
    if text is RDL:
        assert (rights["IRQ"], rights["COUNT"], rights["ID"]) == ("rw1c", "rc", "ro")


@pytest.mark.parametrize("path", sorted((DATA / "hectare").glob("*.rdl")), ids=lambda it: it.stem)
def test_systemrdl_that_a_package_ships(path: Path, capsys: Output) -> None:
    assert main.main(["registers", "import", str(path)]) == 0
    told = capsys.readouterr()
    left_out = set(re.findall(r"left out: (\S+) is where another field is", told.err))
    known = [
        (name, at, width, right,
         tuple(each for each in fields if f"{name}.{each[0]}" not in left_out))
        for name, at, width, right, fields in read_by_systemrdl(path)
    ]  # fmt: skip
    assert rights_of_fields(places(told.out)) == known and known
    assert bool(left_out) == (path.stem == "atxmega_spi_32b")


def read_by_eye(path: Path) -> list[Place]:
    """Registers of the address blocks of an IP-XACT file, whose numbers are all plain."""
    found = []
    for register in ElementTree.parse(path).iterfind(".//{*}addressBlock/{*}register"):

        def text(element: ElementTree.Element, name: str, default: str = "") -> str:
            return element.findtext(f"{{*}}{name}", default)

        fields, rights = [], set()
        for field in register.iterfind("{*}field"):
            low = int(text(field, "bitOffset"), 0)
            fields.append((text(field, "name"), low + int(text(field, "bitWidth"), 0) - 1, low))
            rights.add(text(field, "access", text(register, "access", "read-write")))
        reads = any("read" in right for right in rights)
        writes = any("write" in right for right in rights)
        found.append((
            plain(text(register, "name")), int(text(register, "addressOffset"), 0),
            int(text(register, "size"), 0) // 8, "rw" if reads and writes else "ro" if reads
            else "wo", tuple(sorted(fields)),
        ))  # fmt: skip
    return sorted(found)


def test_ipxact_that_a_package_ships(capsys: Output) -> None:
    path = DATA / "ipyxact" / "generic_example.xml"
    made = rights_of_fields(places(imported(capsys, path)))
    assert made == read_by_eye(path) and len(made) > 5
    told = refused(capsys, DATA / "ipyxact" / "businterfaces.xml")
    assert "must contain exactly one 'memoryMaps' element" in told


def test_systemrdl_is_told_with_its_words(tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "chip.rdl"
    path.write_text(RDL)
    assert main.main(["registers", "import", str(path)]) == 0
    told = capsys.readouterr()
    found = parse(told.out, "made", "chip")
    assert found.title == "A chip"
    names = {name: register for name, _, register in expanded(found.root)}
    assert names["ID"].description == "Says what it is"
    assert names["ID"].fields[0].values == {0: "off", 2: "on"}
    assert {"BASE[3]", "CHANNEL[2].B[1]"} <= set(names)
    assert told.err == "vetrace: chip: left out: BUFFER is memory, which has no registers\n"


@pytest.mark.parametrize("standard", ["IEEE_1685_2009", "IEEE_1685_2014"])
def test_ipxact_has_what_systemrdl_had(tmp_path: Path, capsys: Output, standard: str) -> None:
    from peakrdl_ipxact import IPXACTExporter, Standard
    from systemrdl import RDLCompiler

    path, exported = tmp_path / "chip.rdl", tmp_path / "chip.xml"
    # IP-XACT has no arrays with gaps.
    text = RDL.replace("CHANNEL[3] @ 0x100 += 0x20", "CHANNEL @ 0x100")
    path.write_text(text.replace("BASE[4] @ 0x20 += 0x10", "BASE[4] @ 0x20 += 0x8"))
    compiler = RDLCompiler()
    compiler.compile_file(str(path))
    IPXACTExporter(standard=Standard[standard]).export(compiler.elaborate().top, str(exported))
    made, known = places(imported(capsys, exported)), places(imported(capsys, path))
    assert rights_of_fields(made) == rights_of_fields(known)


IPXACT_2022 = """\
<i:component xmlns:i="http://www.accellera.org/XMLSchema/IPXACT/1685-2022">
<i:vendor>v</i:vendor><i:library>l</i:library><i:name>chip</i:name><i:version>1</i:version>
<i:memoryMaps><i:memoryMap><i:name>map</i:name><i:addressBlock><i:name>block</i:name>
<i:baseAddress>0</i:baseAddress><i:range>0x1000</i:range><i:width>32</i:width>
<i:register><i:name>ID</i:name><i:addressOffset>0</i:addressOffset><i:size>32</i:size>
 {right}
 <i:field><i:name>F</i:name><i:bitOffset>0</i:bitOffset><i:bitWidth>4</i:bitWidth></i:field>
</i:register>
<i:register><i:name>BELL</i:name>
 <i:array><i:dim>4</i:dim><i:stride>0x10</i:stride></i:array>
 <i:addressOffset>0x100</i:addressOffset><i:size>32</i:size>
 <i:accessPolicies><i:accessPolicy><i:access>write-only</i:access></i:accessPolicy>
 </i:accessPolicies></i:register>
<i:register><i:name>STATE</i:name><i:addressOffset>8</i:addressOffset><i:size>32</i:size>
 <i:field><i:name>PORT</i:name>
  <i:array><i:dim>2</i:dim><i:dim>2</i:dim><i:bitStride>8</i:bitStride></i:array>
  <i:bitOffset>0</i:bitOffset><i:bitWidth>4</i:bitWidth>
  <i:fieldAccessPolicies><i:fieldAccessPolicy><i:access>read-write</i:access>
   <i:modifiedWriteValue>oneToClear</i:modifiedWriteValue>
  </i:fieldAccessPolicy></i:fieldAccessPolicies>
 </i:field></i:register>
</i:addressBlock></i:memoryMap></i:memoryMaps></i:component>
"""


def policies(*rights: str) -> str:
    told = "".join(
        f"<i:accessPolicy><i:modeRef>m{number}</i:modeRef><i:access>{right}</i:access>"
        "</i:accessPolicy>"
        for number, right in enumerate(rights)
    )
    return f"<i:accessPolicies>{told}</i:accessPolicies>"


def test_ipxact_of_2022_has_its_rights_and_its_arrays(tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "chip.xml"
    path.write_text(IPXACT_2022.format(right=policies("read-only")))
    found = parse(imported(capsys, path), "made", "chip")
    told = {name: (offset, register.access) for name, offset, register in expanded(found.root)}
    assert told == {
        "ID": (0, "ro"),
        "STATE": (8, "rw1c"),
        **{f"BELL[{number}]": (0x100 + 0x10 * number, "wo") for number in range(4)},
    }
    [state] = [register for name, _, register in expanded(found.root) if name == "STATE"]
    fields = {field.name: (field.high, field.low) for field in state.fields}
    assert fields == {f"PORT{number}": (8 * number + 3, 8 * number) for number in range(4)}


@pytest.mark.parametrize(
    ("rights", "access"),
    [
        (("read-only", "write-only"), "rw"),
        (("no-access", "read-only"), "ro"),
        (("no-access",), None),
    ],
)
def test_what_a_mode_of_ipxact_allows_is_allowed(
    tmp_path: Path, capsys: Output, rights: tuple[str, ...], access: str | None
) -> None:
    path = tmp_path / "chip.xml"
    path.write_text(IPXACT_2022.format(right=policies(*rights)))
    found = parse(imported(capsys, path), "made", "chip")
    told = {name: register.access for name, _, register in expanded(found.root)}
    assert told.get("ID") == access


@pytest.mark.parametrize(
    "right",
    [
        "<i:registerDefinitionRef>there</i:registerDefinitionRef>",
        "<i:accessPolicies><i:accessPolicy><i:accessPolicyDefinitionRef>there"
        "</i:accessPolicyDefinitionRef></i:accessPolicy></i:accessPolicies>",
    ],
)
def test_ipxact_that_another_file_defines_is_refused(
    tmp_path: Path, capsys: Output, right: str
) -> None:
    path = tmp_path / "chip.xml"
    path.write_text(IPXACT_2022.format(right=right))
    said = refused(capsys, path)
    assert "is defined elsewhere (" in said
    assert "DefinitionRef there): have the file written with its definitions in place" in said


def test_a_library_that_is_missing_is_named(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("tracer.devices.description.svd", raising=False)
    monkeypatch.setitem(sys.modules, "tracer.devices.description.svd", None)
    said = refused(capsys, FILES / "circular.svd")
    assert "needs svd2py" in said and "vetrace[import]" in said


# ---- what is written is what is read

NAMES = st.text("AB_c", min_size=1, max_size=3)
REGISTERS = st.builds(
    Register, NAMES, st.integers(0, 40), st.sampled_from([1, 2, 4, 8]),
    st.sampled_from(["ro", "rw", "rw1c"]), st.text(max_size=5),
    fields=st.lists(
        st.builds(
            lambda name, low, bits, values: Field(name, low + bits, low, "d", values),
            NAMES, st.integers(0, 70), st.integers(0, 4),
            st.dictionaries(st.integers(0, 1), st.sampled_from(["x", 'y"'])),
        ),
        max_size=3,
    ).map(tuple),
)  # fmt: skip


@given(st.lists(REGISTERS, min_size=1, max_size=6).map(tuple), st.text(min_size=1, max_size=8))
def test_what_is_written_can_be_read(registers: tuple[Register, ...], title: str) -> None:
    group = Group("G", "G[{}].", 0x1000, registers, stride=0x40, count=2)
    described = settled(Described("x", title, Group("", registers=registers, groups=(group,))))
    found = parse(map_text(described, "x*"), "made", "x")
    assert [(n, at, _seen(r)) for n, at, r in expanded(found.root)] == [
        (n, at, _seen(r)) for n, at, r in expanded(described.root)
    ]


def _seen(register: Register) -> Any:
    shown = "".join(char for char in register.description if char.isprintable())
    return (
        register.width, register.access, shown,
        sorted((f.name, f.high, f.low, f.description, dict(f.values)) for f in register.fields),
    )  # fmt: skip
