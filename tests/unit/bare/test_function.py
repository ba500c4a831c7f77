"""Functions that make mappings, as a person describes them."""

from __future__ import annotations

import pytest

from tracer.access.mapping import NewMapping
from tracer.bare.function import Value, parse_function
from tracer.bare.guidance import guidance
from tracer.bare.place import Place
from tracer.errors import UsageError

DEVICE = 0xFEBF_0000


def test_words_say_where_each_is() -> None:
    found = parse_function("install_pte(linear=rdx, entry = rcx,tables=rdi)")
    assert found.name == "install_pte"
    assert found.values == {"linear": Value("rdx"), "entry": Value("rcx"), "tables": Value("rdi")}
    found = parse_function("map( physical=rdi<<12, size=4096, linear=return )")
    assert found.values["physical"] == Value("rdi", shift=12)
    assert found.values["size"] == Value(constant=4096)
    assert found.values["linear"].returned
    assert parse_function("0x101000(physical=esi)").values["physical"] == Value("rsi", half=True)
    assert parse_function("f(physical=r8d)").values["physical"] == Value("r8", half=True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("install_pte", "no function that maps"),
        ("install_pte(linear=rdx", "no function that maps"),
        ("(linear=rdx)", "no function that maps"),
        ("f()", "a word with its value is missing; there are: entry, linear"),
        ("f(linear=rdx,)", "a word with its value is missing"),
        ("f(linear=rdx, linear=rcx)", "linear is there twice"),
        ("f(liner=rdx)", "did you mean linear?"),
        ("f(linear)", "linear has no value, such as linear=rdi"),
        ("f(where=rdi)", "'where' is nothing that a call tells"),
        ("f(linear=rdy)", "'rdy' is no register"),
        ("f(linear=rdx<<)", "'rdx<<' is no register"),
        ("f(linear=)", "is no register"),
        ("f(size=rsi)", "what it maps is not said"),
        ("f(physical=rsi, entry=rdi)", "drop one of both"),
    ],
)
def test_what_is_no_function_is_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_function(text)
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"--mapping {text}: ")


def test_numbers_are_those_of_the_registers() -> None:
    registers = {"rdi": 0x1_FEBF_0000, "rsi": 3, "rax": 7}
    found = parse_function("f(physical=edi, size=rsi<<12, linear=return)")
    call = found.entered(registers)
    assert call.physical() == range(DEVICE, DEVICE + 0x3000)
    assert found.made(call, {"rax": 0x4000}) == NewMapping(0x4000, DEVICE, 0x3000)
    assert parse_function("f(physical=rdi)").entered(registers).physical() is None
    assert parse_function("f(physical=rdi)").made(call, {"rax": 1}) is None


def test_an_entry_tells_what_it_leads_to() -> None:
    found = parse_function("f(linear=rdx, entry=rcx, tables=rdi)")
    here = {"rdx": 0x4000, "rdi": 0x9000}
    for entry, physical in (
        (DEVICE | 3, range(DEVICE, DEVICE + 0x1000)),
        (DEVICE | 1 << 63 | 1 << 51 | 3, range(DEVICE, DEVICE + 0x1000)),
        (DEVICE, range(0)),
        (DEVICE | 0x83, range(0xC000_0000, 0x1_0000_0000)),
    ):
        call = found.entered({**here, "rcx": entry})
        assert call.physical() == physical
        assert found.made(call, {"rax": 0}) == NewMapping(0x4000, DEVICE, 1, 0x9000)
    assert not parse_function("f(linear=rdx, entry=return)").entered(here).known.get("entry")


def test_a_place_is_a_symbol_or_an_address() -> None:
    assert parse_function("install_pte(linear=rdx)").place == Place("install_pte")
    assert parse_function("0x1234(linear=rdx)").place == Place(linear=0x1234)


def test_what_is_said_is_told_by_its_options() -> None:
    every = guidance("main", ["f(linear=rdx)"], "0x1000", "20ms")
    assert every.given == ("--attach-at", "--mapping", "--stub-at", "--look-again")
    assert every.look_every == 0.02
    for never in ("0s", "soon"):
        with pytest.raises(UsageError, match=never):
            guidance(look=never)
    with pytest.raises(UsageError, match="--stub-at a b: that is no place"):
        guidance(stub="a b")
    assert guidance() == guidance(None, ()) and not guidance().given
