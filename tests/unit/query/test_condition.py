"""Conditions: what they mean, and what is said of those that mean nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.errors import ConditionError, UsageError
from tracer.query.condition import parse
from tracer.query.condition.lexicon import Lexicon
from tracer.query.condition.vocabulary import (
    COVERED,
    MEMORY,
    NAMES,
    OWNERS,
    REGISTERS,
    SITE,
    Between,
    Fact,
    Type,
)  # fmt: skip

SOME: dict[Type, Fact] = {"number": 7, "text": "word", "texts": ("word",), "truth": True}


class Complete(dict[str, Fact]):
    """Hold facts for every condition there can be: of each name, and for any asker and marks."""

    def __missing__(self, name: str) -> Fact:
        if isinstance(name, Between) or name.startswith(MEMORY):
            return True
        raise KeyError(name)


FACTS = Complete({name: SOME[kind] for name, (kind, _) in NAMES.items()})
FACTS |= {f"${full}": 7 for full, _, _ in REGISTERS.values()}
FACTS |= {
    "value": 0x1203, "offset": 0x14, "width": 4, "region": "nvme", "device": "nvme",
    "symbol": "nvme_pci_enable+0x5e", "function": "nvme_pci_enable", "direction": "write",
    "extent": 4, OWNERS: ("nvme", "disk"), COVERED: ("CC",), SITE: "nvme_pci_enable+0x5e",
    "register": "CC", "callers": ("nvme_pci_enable+0x5e", "nvme_pci_enable", "worker_thread"),
    "mark": 'say "hi"', Between("a", "b"): True, Between("b", None): False, "mnemonic": "mov",
    "time": 1_500_000_000, "via": "emulated", "cpl": 0, "$rax": 0xFFFF_8000_1122_33F4,
}  # fmt: skip
WAITING = Complete(FACTS, value=None)
"""The same of a read that the device has not answered."""


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("value & 0xff == 3", True),
        ("value & (0xff == 3) == 3", None),
        ("value | 1 == 0x1203 and width == 4", True),
        ("1 | 2 ^ 3 & 4 << 1 + 2 * 3 == 3", True),
        ("-7 // 2 == -4 and -7 % 3 == 2", True),
        ("~0 == -1 and - - 1 == 1", True),
        ("width == 4 and ~value != 0", True),
        ("not width == 5", True),
        ("!width == 5 && width == 4", True),
        ("width == 5 || width == 4 && cpl == 1", False),
        ("0x10 <= offset < 0x14", False),
        ("0x10 <= offset < 0x18", True),
        ("offset in 0x10..0x10 + 4", True),
        ("offset not in 0x10..0x14", False),
        ("region == nvme", True),
        ("region != nvme.msix-table", True),
        ("region == device", True),
        ("symbol == nvme_pci_enable+0x5e", True),
        ("function ~ nvme_*", True),
        ("function !~ 'nvme_*'", False),
        ("(function ~ hpet*) or direction==write", True),
        ("time >= 1.5s and time < 1_501ms and time > 3us", True),
        ("$al == 0xf4 and $ah == 0x33 and $ax == 0x33f4", True),
        ("$eax == 0x112233f4 and $RAX >> 63 == 1", True),
        ("0b1010 == 10 == 1_0", True),
        ("(width == 4) == true", True),
        ("value & 2", True),
        ("not value & 4 and value & 1 and width", True),
        ("region is nvme and region is nv* and region is disk and not region is nv", True),
        ("region is not nvme", False),
        ("region is not hpet and region is not 'n'", True),
        ("register is cc and register is nvme.CC and register is C?", True),
        ("register is C", False),
        ("symbol is nvme_pci_enable and symbol is *enable+0x5e", True),
        ("function is nvme_* and function is not nvme", True),
        ("offset touches 0x17..0x20 and offset touches 0x14 and offset touches ..0x14", True),
        ("offset touches 0x18.. or offset touches ..0x13", False),
        ("time in 1.5s.. and time in ..1.5s and time not in ..1s", True),
        ("callers == worker_thread and callers ~ *_thread and callers is worker_*", True),
        ("callers != worker_thread or callers !~ worker_* or nvme == callers", None),
        ("callers != worker_thread or callers !~ worker_*", False),
        ('mark in "a"..\'b\' and mark not in "b".. and mark == "say ""hi"""', True),
        ("mnemonic == movsd", False),
    ],
)
def test_meaning(text: str, holds: bool | None) -> None:
    if holds is None:
        with pytest.raises(ConditionError):
            parse(text)
    else:
        assert parse(text).test(FACTS) is holds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("value & 0xff = 3", "unknown operator = at column 14; == compares"),
        ("value / 2 == 3", "unknown operator / at column 7; // divides whole numbers"),
        ("value and region", "and joins what is true or false, `region` at column 11 is text: "
         "write region == WORD"),
        ("region", "a condition is true or false, `region` at column 1 is text: "
         "write region == WORD"),
        ("not region", "not denies what is true or false, `region` at column 5 is text: "
         "write region == WORD"),
        ("region is", "is at column 8 needs a name: region is nvme"),
        ("value is 3", "is at column 7 follows the name of a fact that is text: `value` at column"
         " 1 is a number"),
        ("value touches 3", "touches at column 7 follows offset, address or linear"),
        ("offset in ..", "a value is missing after .. at column 11"),
        ("mark in reset..", "in at column 6 needs texts in quotes: mark in \"before\"..\"after\""),
        ("callers < device",
         "< at column 9 orders numbers: `callers` at column 1 is several texts"),
        ("mnemonic == movzxx", "no instruction is called movzxx; did you mean movzx?"),
        ("region + 1 == 2", "+ takes numbers: `region` at column 1 is text"),
        ("valeu == 1", "unknown name valeu at column 1; did you mean value?"),
        ("direction == raed", "no direction is called raed; did you mean read?"),
        ("write == direction", "write at column 1 is no name but a direction: direction == write"),
        ("$rxx == 1", "unknown register $rxx at column 1; did you mean $rdx?"),
        ("(value == 1", "( at column 1 is never closed"),
        ("value == 1)", ") at column 11 closes nothing"),
        ("5 5", "expected an operator at column 3, not 5"),
        ("value == 1 adn width == 4",
         "expected an operator at column 12, not adn; did you mean and?"),
        ("value ==", "a value is missing after == at column 7"),
        ("", "the condition is empty: value & 0xff == 3 is one"),
        ("offset in 5..3", "the range at column 11 ends before it begins"),
        ("offset in 5", "in at column 8 needs a range: offset in 0x0..0xff"),
        ("offset .. 5", ".. at column 8 needs `in`: offset in 0x0..0xff"),
        ("value ~ 3", "~ at column 7 fits text to a pattern: `value` at column 1 is a number"),
        ("symbol == nvme_*", "== at column 8 takes no pattern; ~ does"),
        ("region < device", "< at column 8 orders numbers: `region` at column 1 is text; ~ fits it"
         " to a pattern"),
        ("value == 'a'", "== at column 7 compares like with like: `value` at column 1 is a number"
         " and `'a'` at column 10 is text"),
        ("1 < 2 in 3..4", "in at column 7 ends no chain of comparisons: join them with `and`"),
        ("1 // 0 == 1", "division by zero at column 3"),
        ("1 << 5000 == 1", "shift by more than 1024 bits at column 3"),
        ("1 << -1 == 1", "shift by -1 bits at column 3"),
        ("time > 1.5", "1.5 at column 8 is no number: a time has a unit: 1.5s"),
        ("12ab == 1", "12ab at column 1 is no number: 16 and 0x10 are"),
        ("'abc", "the text that begins at column 1 has no closing '"),
        ("é == 1", "no condition has the character é at column 1"),
        ("\x1b[2J == 1", "unprintable character '\\x1b' at column 1"),
        ("(" * 31, "more than 30 parentheses in each other"),
        ("1" + "+1" * 150 + " == 3", "too deep for one condition: more than 100 levels"),
        ("-" * 200 + "1 == 3", "too deep for one condition: more than 100 levels"),
        ("9" * 2000, "2,000 characters are too long: 1,000 are read"),
    ],
)  # fmt: skip
def test_what_is_said_of_an_error(text: str, message: str) -> None:
    with pytest.raises(ConditionError) as caught:
        parse(text)
    assert str(caught.value) == message
    assert isinstance(caught.value, UsageError)


def test_a_caret_stands_under_the_place() -> None:
    with pytest.raises(ConditionError) as caught:
        parse("value & 0xff = 3")
    message, text, caret = caught.value.detail.splitlines()
    assert message == str(caught.value)
    assert text[caret.index("^")] == "=" and caret.strip() == "^"


def test_regions_can_be_checked() -> None:
    with pytest.raises(ConditionError, match=r"^no region is called nvmw; did you mean nvme\?$"):
        parse("region == nvmw", {"region": Lexicon("region", lambda: ("nvme", "hpet"))})


def test_a_condition_knows_what_it_asks_for() -> None:
    assert parse("value == 1 or $eax == 2").names == {"value", "$rax"}
    assert parse("value == 1").needs_value and not parse("offset == 1").needs_value


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("value == 1", None),
        ("not value == 1", None),
        ("width == 4 or value == 1", True),
        ("value == 1 or width == 4", True),
        ("value == 1 and width == 5", False),
        ("value == 1 and width == 4", None),
    ],
)
def test_what_is_unknown_decides_nothing(text: str, holds: bool | None) -> None:
    condition = parse(text)
    assert condition.test(WAITING) is holds
    assert condition.holds(WAITING) is (holds is True)


def test_no_answer_is_an_error_with_its_place() -> None:
    condition = parse("value // cpl == 1")
    with pytest.raises(ConditionError, match=r"^break 2: division by zero at column 7$"):
        try:
            condition.test(FACTS)
        except ConditionError as error:
            raise error.of("break 2") from None
    assert parse("cpl != 0 and value // cpl == 1").test(FACTS) is False


@pytest.mark.parametrize("name", [*NAMES, *(f"${register}" for register in REGISTERS)])
def test_a_condition_can_be_of_any_name(name: str) -> None:
    text = name if name == "changes" else f"{name} == {name}"
    assert parse(text).test(FACTS) is True


NUMBERS = st.recursive(
    st.sampled_from(["value", "offset", "width"]) | st.integers(0, 2**70).map(str),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "|", "&", "^"]), inner).map(" ".join),
        st.tuples(st.sampled_from(["-", "~"]), inner).map("".join),
        st.tuples(inner, st.sampled_from(["//", "%"]), st.integers(0, 9).map(str)).map(" ".join),
        st.tuples(inner, st.sampled_from(["<<", ">>"]), st.integers(0, 70).map(str)).map(" ".join),
        inner.map("({})".format),
    ),
    max_leaves=8,
)
COMPARISONS = st.lists(NUMBERS, min_size=2, max_size=3).flatmap(
    lambda parts: st.tuples(
        *(st.tuples(st.just(p), st.sampled_from(["==", "!=", "<", "<=", ">", ">="])) for p in parts)
    ).map(lambda pairs: " ".join(word for pair in pairs for word in pair).rsplit(" ", 1)[0])
)
TRUTHS = st.recursive(
    COMPARISONS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(" ".join),
        inner.map("not ({})".format),
        inner.map("({})".format),
    ),
    max_leaves=4,
)


@given(TRUTHS)
@settings(max_examples=400, deadline=None)
def test_it_means_what_python_means(text: str) -> None:
    try:
        found = parse(text).test(FACTS)
    except ConditionError as error:
        # A constant without an answer is refused even where Python would not come to it.
        assert any(why in str(error) for why in ("division", "shift", "too ")), text
        return
    names = {"value": 0x1203, "offset": 0x14, "width": 4}
    assert found is eval(text, {"__builtins__": {}}, names)


WORDS = """value region $rax ( ) and or not in ~ !~ == < .. 1 0x 1.5s 'a' * << // - true " #"""
PIECES = st.sampled_from(WORDS.split())


@given(st.text(max_size=40) | st.lists(PIECES, max_size=12).map(" ".join))
@settings(max_examples=600, deadline=None)
def test_any_text_is_a_condition_or_an_error_in_one_line(text: str) -> None:
    try:
        parse(text).test(WAITING)
    except ConditionError as error:
        assert str(error) and "\n" not in str(error) and str(error).isprintable()
        assert len(error.detail.splitlines()) == 3


def test_the_page_has_every_name_and_its_examples_parse() -> None:
    page = (Path(__file__).parents[3] / "docs/conditions.md").read_text()
    quoted = set(re.findall(r"`([^`\n]+)`", page))
    assert set(NAMES) <= quoted
    for text in quoted:
        if re.match(r"\w+ (?:[&<=~]+|in) \S", text):
            parse(text)
