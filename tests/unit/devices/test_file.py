"""Files that describe registers: those that come with vetrace, and what is wrong with others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.devices import library
from tracer.devices.file import parse
from tracer.devices.map import RegisterMap
from tracer.devices.tree import Group, Register
from tracer.errors import UsageError
from tracer.trace.naming import Naming
from tracer.trace.record import RegionInfo, RegionRecord

HEAD = 'applies = [{ region = "edu" }]\n'
CC = "[register.CC]\noffset = 0x14\n"
WINDOW = "[group.DATA]\noffset = 4\nsize = 4\n"
INSIDE = "[group.DATA.register.A]\noffset = 0\n"


def registers(group: Group) -> list[Register]:
    return [*group.registers, *(r for child in group.groups for r in registers(child))]


@pytest.mark.parametrize("found", list(library.load()), ids=lambda found: found.name)
def test_each_file_that_comes_with_vetrace_is_whole(found: RegisterMap) -> None:
    assert found.title and found.specification and found.applies
    everything = registers(found.root)
    assert everything
    for register in everything:
        # The section, or that of all of the file's registers.
        assert register.section or "," in found.specification, register.name


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("offset = ", " is no TOML: Invalid value (at end of document)"),
        ("a = 1\na = 2", " is no TOML: Cannot overwrite a value (at end of document)"),
        ("aplies = []", ": unknown key aplies; did you mean applies?"),
        ("[zebra]", ": unknown key zebra; there are: applies, entry, fields, group,"
         " queue, register, specification, title, values"),
        ("title = 3", ": title = 3 is no text"),
        (CC, ': applies: it names no region: applies = [{ region = "nvme" }] does'),
        ("applies = [3]\n" + CC, ': applies: 3 is none of { region = "nvme" } and the like'),
        ('applies = [{ regoin = "a" }]\n' + CC,
         ": applies: unknown key regoin; did you mean region?"),
        (HEAD, ": it has no register: [register.NAME] opens one"),
        (HEAD + "register = 3", ": register = 3 is no table"),
        (HEAD + "[register]\nCC = 3", ": register.CC = 3 is no table"),
        (HEAD + "[register.CC]", ": register CC: it has no offset"),
        (HEAD + CC + "widht = 4", ": register CC: unknown key widht; did you mean width?"),
        (HEAD + CC + "width = 0", ": register CC: width = 0: give bytes from 1 to 4096"),
        (HEAD + CC + "width = true", ": register CC: width = True is no whole number"),
        (HEAD + "[register.CC]\noffset = -1",
         ": register CC: offset = -1 is below 0 or above 64 bits"),
        (HEAD + "[register.CC]\noffset = '4'", ': register CC: offset = "4" is no whole number'),
        (HEAD + CC + "access = 'r'",
         ': register CC: access = "r" is none of rw, ro, wo, rw1c, rw1s, rc'),
        (HEAD + CC + "fields = { EN = 32 }",
         ": register CC, field EN: bits 32 lie outside its 4 bytes"),
        (HEAD + CC + "fields = { EN = '40:33' }",
         ": register CC, field EN: bits 40:33 lie outside its 4 bytes"),
        (HEAD + CC + "fields = { EN = '3:6' }",
         ': register CC, field EN: bits = "3:6" end before they begin: write "6:3"'),
        (HEAD + CC + "fields = { EN = 'x' }",
         ': register CC, field EN: bits = "x" are none: 3 and "6:4" are'),
        (HEAD + CC + "fields = { EN = {} }", ": register CC, field EN: it has no bits"),
        (HEAD + CC + "fields = { EN = { bit = 3 } }",
         ": register CC, field EN: unknown key bit; did you mean bits?"),
        (HEAD + CC + "fields = { A = '4:0', B = '8:4' }",
         ": register CC: fields A [4:0] and B [8:4] overlap"),
        (HEAD + CC + "fields = { A = { bits = '2:1', values = { 4 = 'four' } } }",
         ": register CC, field A: value 4 (four) is wider than its 2 bits"),
        (HEAD + CC + "fields = { A = { bits = 1, values = { x = 'four' } } }",
         ": register CC, field A: value x is no number: 16 and 0x10 are"),
        (HEAD + CC + "fields = { A = { bits = 1, values = { 1 = 4 } } }",
         ": register CC, field A: value 1 = 4 is no name"),
        (HEAD + CC + "fields = { A = { bits = 1, values = { 1 = 'a', 0x1 = 'b' } } }",
         ": register CC, field A: value 0x1 is there twice"),
        (HEAD + CC + "fields = 'ltv'\n[fields.lvt]\nA = 1",
         ': register CC: fields = "ltv": there is no [fields.ltv]; did you mean lvt?'),
        (HEAD + CC + "fields = { A = { bits = 1, values = 'edge' } }",
         ': register CC, field A: values = "edge": there is no [values.edge]; there are: none'),
        (HEAD + CC + "[register.CD]\noffset = 0x16", ": CC and CD overlap at offset 0x16"),
        (HEAD + CC + "[register.A]\noffset = 0\nstride = 4\n",
         ": A[5] and CC overlap at offset 0x14"),
        (HEAD + CC + "count = 2", ": register CC: count says something only with stride"),
        (HEAD + CC + "stride = 2", ": register CC: stride = 0x2 is below its width of 4 bytes"),
        (HEAD + CC + "stride = 0", ": register CC: stride = 0 repeats nothing"),
        (HEAD + "[register.'A{}']\noffset = 0",
         ": register A{}: the name A{} has an index, and nothing repeats: give stride"),
        (HEAD + "[register.'A{x}']\noffset = 0\nstride = 4",
         ": register A{x}: the name A{x} has a brace that is no index: {}, {7:3} and {,02x} are"),
        (HEAD + "[group.G]\nstride = 4\nprefix = 'G.'\n[group.G.register.A]\noffset = 0",
         ": group G: prefix G. has no index, and it repeats: write {} where it goes"),
        (HEAD + "[group.G]\n", ": group G: it has no register"),
        (HEAD + "[group.G.register.A]\noffset = 0\nstride = 4",
         ": group G: it holds an array without an end: give its size"),
        (HEAD + "[group.G]\nstride = 4\n[group.G.register.A]\noffset = 2",
         ": group G: its registers take 0x6 bytes, and it has 0x4"),
        (HEAD + "[group.G]\nstride = 4\nsize = 8\n[group.G.register.A]\noffset = 2",
         ": group G: size = 0x8 does not fit in its stride"),
        (HEAD + "[group.G.register.A]\noffset = 0\nwidht = 1",
         ": group G, register A: unknown key widht; did you mean width?"),
        (HEAD + CC + WINDOW + "select = 'CD'\n" + INSIDE,
         ': group DATA: select = "CD": no register beside it has this name; there are: CC'),
        (HEAD + CC + "fields = { INDEX = 1 }\n" + WINDOW + "select = 'CC.INDX'\n" + INSIDE,
         ': group DATA: select = "CC.INDX": CC has no such field; did you mean INDEX?'),
        (HEAD + CC + "[group.DATA]\nselect = 'CC'\n" + INSIDE,
         ": group DATA: a window wants size: its bytes"),
        (HEAD + CC + WINDOW + "bank = 0\n" + INSIDE,
         ": group DATA: bank says something only with select"),
        (HEAD + CC + WINDOW + "select = 'CC'\n" + INSIDE
         + "[group.DATA.group.D]\nsize = 4\nselect = 'A'\n"
         + "[group.DATA.group.D.register.B]\noffset = 0",
         ": group DATA, group D: a window cannot be inside a window"),
        (HEAD + "[register.\"\\u001b[2J\"]\noffset = 0",
         ": register '\\x1b[2J' is no name that can be shown"),
        (HEAD + "[" + ".".join(["group.G"] * 9) + ".register.A]\noffset = 0",
         ": " + ", ".join(["group G"] * 9) + ": it is in 8 groups already: no device needs more"),
        ("a = " + "[" * 5000, " is no TOML: it nests too deep"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(text: str, wrong: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text, "edu.toml", "edu")
    assert str(caught.value) == f"edu.toml{wrong}"


@given(st.text(alphabet="[].=\"'{}\n registogupfldvab0x14:#", max_size=80))
def test_no_text_is_too_much(text: str) -> None:
    try:
        parse(HEAD + text, "edu.toml", "edu")
    except UsageError as error:
        assert "\n" not in str(error) and str(error).startswith("edu.toml")


def test_the_example_of_the_docs_is_a_file(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "registers.md").read_text(encoding="utf-8")
    example, _ = re.findall(r"^```toml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    path = tmp_path / "edu.toml"
    path.write_text(example, encoding="utf-8")
    maps = library.load([path])
    assert maps.of_region("edu") is None
    naming = Naming(maps)
    info = RegionInfo(
        name="edu", start=0x0, end=0xFFFFF, qemu_name="edu-mmio", device="edu", traced=True
    )
    naming.learn(RegionRecord(time_ns=0, region=info))

    def told(offset: int, width: int, value: int) -> str:
        found = naming.name("edu", offset, width)
        assert found is not None
        return f"{found.text}: {found.describe(value)}"

    assert told(0x0, 4, 0x010000ED) == "ID: MAGIC=edu MAJOR=1"
    assert told(0x98, 8, 0b11) == "DMA[0].COMMAND: START DIRECTION=to-RAM"
    assert told(0xA0, 8, 0) == "DMA[1].SOURCE: "
    assert told(0x204, 4, 0) == "DATA: "
    for index, name in ((0, "MODE"), (1, "LEVEL[0]"), (8, "LEVEL[7]"), (9, "DATA[0x9]")):
        naming.note("edu", 0x200, "write", 4, index)
        assert told(0x204, 4, 0) == f"{name}: "


def test_a_users_file_goes_first(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b'applies = [{ region = "nvme" }]\r\n[register.MINE]\r\noffset = 0x14\r\n')
    maps = library.load([path])
    found = maps.of_region("nvme")
    assert found is not None and found.name == "mine" and found.source == str(path)
    assert list(found.names()) == ["MINE"]
    assert maps.of_region("hpet") is not None


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        (None, "No such file or directory"),
        (b"\xff", "is no UTF-8 text: byte 0 is 0xff"),
        (b"x", "is no TOML: Expected '=' after a key in a key/value pair (at end of document)"),
        (b"#" * (1 << 23), "is no description of registers: it is above 4 MiB"),
        (b"", "it has no register"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, data: bytes | None, wrong: str
) -> None:
    path = tmp_path / "mine.toml"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        library.load([path])
    assert str(path) in str(caught.value) and wrong in str(caught.value)


def test_a_file_of_another_system(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    text = 'applies = [{ region = "mine" }]\r\n[register.A]\r\noffset = 0\r\n'
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert library.load([path])


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Is a directory"):
        library.load([tmp_path])
