"""Completion: what can stand at the cursor, with its hint, and how a list of it looks."""

from __future__ import annotations

import asyncio

import pytest
from guest_sample import Talk

from tracer.repl.completion import Candidates
from tracer.repl.listing import MOST, Found, found, listing, pages
from tracer.text.printable import wrapped


def completed(line: str, *typed: str, symbols: int = 0) -> Found:
    """Return what completes a line, once others have been typed."""
    kept: list[Found] = []

    async def body() -> None:
        talk = await Talk().start()
        assert await talk.type(*typed) == 0, talk.complaints
        names = talk.session.names.symbols.by_name
        names.update({f"many_{number:05}": names["_text"] for number in range(symbols)})
        kept.append(Candidates(talk.context).of(line))
        await talk.control.close()
        await talk.control.close()

    asyncio.run(body())
    return kept[0]


def names(told: Found) -> set[str]:
    return {option.text for option in told.options}


# ---- what can stand there


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("break nvme if register == ", {"CC", "CSTS", "CAP"}),
        ("break nvme if register ==", {"CC", "CSTS"}),
        ("break nvme if register==CS", {"CSTS"}),
        ("break write nvme if value == 3 and register != C", {"CC", "CAP"}),
        ("break nvme if register == 'CS", {"'CSTS'"}),
        ("break nvme if function == ", {"nvme_reset_work", "linux_banner"}),
        ("break nvme if function ~ nvme_r", {"nvme_reset_work"}),
        ('break nvme if symbol == "nvme_r', {"nvme_reset_work"}),
        ("break if region == ", {"nvme"}),
        ("break if device == n", {"nvme"}),
        ("break if direction == ", {"read", "write"}),
        ("break if via == ", {"emulated", "stepped"}),
        ("condition 1 register == CS", {"CSTS"}),
        ("filter nvme if register == CS", {"CSTS"}),
        ("break if value == ", {"value", "$rax"}),
        ("sym ", {"linux_banner", "$rax"}),
        ("x/8xg ", {"linux_banner", "$rsp"}),
        ("break symbol ", {"linux_banner"}),
        ("break verdict ", {"linux-tdx"}),
        ("break nvme ", {"if"}),
        ("set $rax = ", {"$rbx", "linux_banner"}),
    ],
)
def test_what_is_offered(line: str, some: set[str]) -> None:
    assert some <= names(completed(line, "break nvme.CC"))


@pytest.mark.parametrize("place", ["~no-such-person/", "no/such/", "a\0b/"])
def test_no_file_is_offered_where_none_can_be(place: str) -> None:
    assert names(completed(f"source {place}")) == set()


def test_nothing_is_inserted_that_only_some_begin_with() -> None:
    # The registers alone begin alike, and of the symbols the first few hundred.
    assert completed("sym ").shared == ""
    many = completed("sym ma", symbols=3 * MOST)
    assert many.shared == "many_00" and many.total == 3 * MOST
    assert len(many.options) == MOST and many.left_out == 2 * MOST


@pytest.mark.parametrize(
    ("line", "name", "hint"),
    [
        ("st", "step", "go on to before the next access"),
        ("peek nvme.CST", "nvme.CSTS", "read-only"),
        ("break nvme if ", "width", "in bytes"),
        ("break nvme if register == CST", "CSTS", "read-only"),
        ("delete ", "1", "nvme.CC"),
        ("regs $ri", "$rip", "0xffffffff81008000"),
        ("info region ", "nvme", "0x4000 bytes from 0xfebf0000"),
        ("help co", "continue", "go on to the next break"),
    ],
)
def test_the_hints(line: str, name: str, hint: str) -> None:
    told = {option.text: option.hint for option in completed(line, "break nvme.CC").options}
    assert hint in told[name]


# ---- how it looks


def test_hints_are_shown_beside_the_names() -> None:
    told = found("", ["continue", "step"], {"continue": "let it go", "step": "a" * 100})
    assert listing(told, 24) == ["continue  let it go", "step      aaaaaaaaaaaaa…"]


@pytest.mark.parametrize("columns", [10, 24, 40, 80, 200])
def test_no_name_is_parted(columns: int) -> None:
    told = found("", [f"a_{'long_' * (n % 3)}name_{n}" for n in range(50)], {})
    lines = listing(told, columns)
    assert sorted(" ".join(lines).split()) == sorted(names(told))
    assert all(len(line) <= max(columns, len("a_long_long_name_50")) for line in lines)


def test_a_list_that_is_cut_says_so() -> None:
    told = found("a", [f"a{n:05}" for n in range(1000)], {})
    assert listing(told, 80)[-1] == "… and 800 more: type more of the name"


def test_a_name_cannot_steer_the_terminal() -> None:
    assert listing(found("", ["a\x1b[2J"], {}), 80) == ["a\\x1b[2J"]


def test_pages_leave_a_line_for_the_question() -> None:
    lines = [str(n) for n in range(25)]
    assert [len(page) for page in pages(lines, 11)] == [10, 10, 5]
    assert [line for page in pages(lines, 1) for line in page] == lines


@pytest.mark.parametrize(
    ("line", "columns", "lines"),
    [
        ("short", 10, ["short"]),
        ("any length", None, ["any length"]),
        ("one two three", 9, ["one two", "  three"]),
        ("  step, s  go on to the access", 20, ["  step, s  go on to", "    the access"]),
        ("1   2 hits  write nvme", 16, ["1   2 hits", "    write nvme"]),
        ("unpartable", 4, ["unpartable"]),
    ],
)
def test_lines_are_parted_between_words(line: str, columns: int | None, lines: list[str]) -> None:
    assert wrapped(line, columns) == lines
