"""Bytes of instructions as people find them: in oopses, listings, source and logs."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.cli import main
from tracer.errors import UsageError
from tracer.x86.code_text import read_code

OOPS = Path(__file__).parents[2] / "data" / "oops.log"
Output = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("8b401c", "8b401c"),
        ("8B 40 1C", "8b401c"),
        ("0x8b,0x40,0x1c", "8b401c"),
        ("0X8B401C", "8b401c"),
        ("0x0f 0xae", "0fae"),
        (r"\x8b\x40\x1c", "8b401c"),
        (r'"\x67\x48"', "6748"),
        (r"'\x67\x48'", "6748"),
        ("48-8b-07", "488b07"),
        ("48:8b:07", "488b07"),
        ("48_8b_07", "488b07"),
        ("{0x48, 0x8b, 0x7};", "488b07"),
        ("[0x48, 0x8b]", "488b"),
        ("(0x48, 0x8b)", "488b"),
        (".byte 0x0f, 0xae, 0x38", "0fae38"),
        (r"b'\x8b@\x1c'", "8b401c"),
        ("0xffffffff8160a31e <nvme_pci_enable+94>:\t0x8b\t0x40\t0x1c", "8b401c"),
        ("=> 0xffffffff8160a31e <nvme_pci_enable+94>:\t8b 40 1c\tmov    eax,[rax+0x1c]", "8b401c"),
        ("ffffffff8160a31e:\t8b 40 1c             \tmov    0x1c(%rax),%eax", "8b401c"),
        ("  40:\t48 b8 88 77 66 55 44 \tmovabs $0x1122334455667788,%rax\n  47:\t33 22 11 ",
         "48b88877665544332211"),
        ("0xffffffff81000000:  8b 40 1c                 movl     0x1c(%rax), %eax", "8b401c"),
        ("[    1.234567] 8b 40 1c", "8b401c"),
    ],
)  # fmt: skip
def test_bytes_are_read_as_they_are_written(text: str, code: str) -> None:
    found = read_code(text)
    assert (found.code.hex(), found.before) == (code, 0)


@pytest.mark.parametrize(
    ("text", "code", "before"),
    [
        ("Code: 48 8b 07 <8b> 40 1c", "8b401c", 3),
        ("48 8b 07 <8b> 40 1c", "8b401c", 3),
        ("48 8b 07 (8b) 40 1c", "8b401c", 3),
        ("Code: 8b <0f> 0b", "0f0b", 1),
        ("<0f> 0b", "0f0b", 0),
        ("Code: 48 8b 07 8b", "488b078b", 0),
        ("[   12.345678] Code: 48 8b 07 <8b> 40 1c", "8b401c", 3),
        ("<4>[   12.345678][  T123] Code: 48 8b 07 <8b> 40 1c", "8b401c", 3),
        ("Jan  1 00:00:00 host kernel: [  1.0] Code: <8b> 03", "8b03", 0),
        ("Code: 48 8b 07 <8b> 40 1c RSP: 0018:ffffc90000013c58", "8b401c", 3),
        ("Code: 8b <0f> 0b 48 89\n 8b 40\nRAX: 00", "0f0b48898b40", 1),
        ("Code: 48 8b 07 <8b> 40 1c 4", "8b401c", 3),
        ("Code: Unable to access opcode bytes at 0x7f.\nCode: 90 <8b> 03", "8b03", 1),
        ("Code=0f 0b <f3> a4", "f3a4", 2),
        ("   0:\t55   \tpush   %rbp\n  2a:*\t8b 40 1c \tmov    0x1c(%rax),%eax  <-- trapping\n"
         "  2d:\tc3   \tret", "8b401cc3", 1),
    ],
)  # fmt: skip
def test_the_marked_byte_is_the_first(text: str, code: str, before: int) -> None:
    found = read_code(text)
    assert (found.code.hex(), found.before) == (code, before)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no bytes"),
        ("zz", "hex digits"),
        ("8b4", "odd number of hex digits"),
        ("0x8b4", "odd number of hex digits"),
        ("8b 4 01c", "'4' in '8b 4 01c': an odd number of hex digits"),
        ("8b mov", "'mov' in '8b mov' is not bytes"),
        ("Code: Bad RIP value.", "the report has no bytes: it says 'Code: Bad RIP value.'"),
        ("<8b> <40>", "more than one"),
        ("0x401000 <main>:\t0x1c408b48\t0x11223344", "x/16xb"),
        ("b'\\xz'", "no bytes literal"),
        ("٨b", "hex digits"),
    ],
)
def test_what_is_no_bytes_is_told(text: str, words: str) -> None:
    with pytest.raises(UsageError) as raised:
        read_code(text)
    assert words in str(raised.value)


@given(st.text(alphabet="0123456789abcdefxX\\<>(){}[]:;,-_*=\"' \n\tCodeb", max_size=60))
def test_no_text_breaks_the_reader(text: str) -> None:
    try:
        found = read_code(text)
    except UsageError as error:
        assert len(str(error)) < 300
    else:
        assert found.code and found.before >= 0


@given(st.binary(min_size=1, max_size=20), st.integers(0, 19))
def test_every_way_of_writing_means_the_same(code: bytes, at: int) -> None:
    at %= len(code)
    marked = [f"<{byte:02x}>" if place == at else f"{byte:02x}" for place, byte in enumerate(code)]
    assert read_code("Code: " + " ".join(marked)).code == code[at:]
    for text in (
        code.hex(), code.hex(" "), code.hex("-").upper(), "".join(f"\\x{b:02x}" for b in code),
        ", ".join(map(hex, code)), repr(code), f"ffffffff81000000:\t{code.hex(' ')}\tnop",
    ):  # fmt: skip
        assert read_code(text).code == code, text


# --- the command


def test_an_oops_is_read_whole(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(OOPS.read_text()))
    assert main.main(["decode", "-"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "mov eax, dword ptr [rax + 0x1c]"
    assert "8b 40 1c  (3 bytes; 42 before the marked one; 19 more not looked at)" in out[1]


def test_what_is_left_out_is_in_the_object(capsys: Output) -> None:
    assert main.main(["decode", "--json", "Code:", "48", "8b", "07", "<8b>", "40", "1c", "90"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["bytes"], found["leading_bytes"], found["trailing_bytes"]) == ("8b401c", 3, 1)
