"""Rules: the words that make them, which of them decides, and how they count."""

from __future__ import annotations

from dataclasses import replace

import pytest
import stop_sample
from hypothesis import given
from hypothesis import strategies as st

from tracer.access.decision import (
    LONGEST_DELAY,
    NO_LEEWAY,
    Delay,
    Give,
    Leeway,
    Postpone,
    Refuse,
    Ruling,
)  # fmt: skip
from tracer.access.region import Region, RegionMap
from tracer.access.transfer import Transfer
from tracer.devices import library
from tracer.errors import ConditionError, MarkedError, UsageError
from tracer.query.pending import PendingFacts
from tracer.query.place import Known
from tracer.query.rule import AHEAD, Rules, parse_rule
from tracer.repl.names import known_places
from tracer.trace.naming import Naming
from tracer.x86.bus import Direction

NVME, IOAPIC = stop_sample.NVME, Region("ioapic", 0xFEC00000, 0xFEC00FFF, 0xFEC00000, "ioapic", "")
REGIONS = RegionMap([NVME, IOAPIC], [(NVME.start, NVME.end), (IOAPIC.start, IOAPIC.end)], [])
NAMES = Naming(library.load())
KNOWN = known_places(REGIONS, NAMES)


def facts(
    direction: Direction = "read", offset: int = 0x1C, value: int | None = 1, width: int = 4,
    region: Region = NVME, names: Naming = NAMES,
) -> PendingFacts:  # fmt: skip
    """Return the facts of an access that waits."""
    pending = stop_sample.stop("8b06")
    transfer = Transfer(direction, 0, region.base + offset, width, value, region, True, False)
    return PendingFacts(replace(pending, transfer=transfer), register=names.name)


def rules(*texts: str, known: Known = KNOWN) -> Rules:
    found = Rules()
    for text in texts:
        found = found.added(parse_rule(text, known))
    return found


def decided(asked: Rules, *accesses: PendingFacts) -> tuple[list[int], Rules]:
    """Return the numbers of the rules that decide, 0 for none, and what became of the rules."""
    numbers = []
    for access in accesses:
        found = asked.decide(access)
        asked = found.rules
        numbers.append(found.rule.number if found.rule is not None else 0)
    return numbers, asked


# ---- words


@pytest.mark.parametrize(
    ("text", "ruling", "ignore", "remaining"),
    [
        ("on read ioapic.VER do give 0x00ff0020", Give(0xFF0020), 0, None),
        ("on read nvme.CSTS once do give 0xffffffff", Give(0xFFFFFFFF), 0, 1),
        ("on read nvme after 3 once do refuse", Refuse(), 3, 1),
        ("on read nvme once after 3 do refuse", Refuse(), 3, 1),
        ("on nvme times 2 after 3 do retry", Postpone(), 3, 2),
        ("on write do delay 1ms", Delay(1_000_000), 0, None),
        ("on access nvme+0x1000-0x1fff do delay 0.5s", Delay(500_000_000), 0, None),
        ("on do give -1", Give(-1), 0, None),
        ("on if region == nvme and value & 1 == 1 once do give 0b11", Give(3), 0, 1),
        ('on if function ~ "a do b" do give 1', Give(1), 0, None),
        ("  on   read   nvme   do   give   0  ", Give(0), 0, None),
        ("on do give 0xffffffffffffffff", Give((1 << 64) - 1), 0, None),
        ("on do delay 60s", Delay(LONGEST_DELAY), 0, None),
    ],
)
def test_words(text: str, ruling: Ruling, ignore: int, remaining: int | None) -> None:
    rule = parse_rule(text, KNOWN)
    assert (rule.ruling, rule.trigger.ignore, rule.trigger.remaining) == (ruling, ignore, remaining)
    assert rule.text == text.strip() and rule.number == 0 and not rule.trigger.pending


# The words of the error, and the text from the caret on.
@pytest.mark.parametrize(
    ("text", "words", "at"),
    [
        ("read nvme do give 1", "a rule begins with on", "read nvme do give 1"),
        ("om nvme do give 1", "a rule begins with on: on read", "om nvme do give 1"),
        ("on read nvme", "do is missing", ""),
        ("on read nvme do", "one of give, refuse, retry, delay", ""),
        ("on nvme do gve 1", "did you mean give?", "gve 1"),
        ("on nvme do pretend", "nothing can pretend an access: give", "pretend"),
        ("on nvme do give", "give needs a value", ""),
        ("on nvme do give zz", "zz is no value", "zz"),
        ("on nvme do give 1.5", "1.5 is no value", "1.5"),
        ("on nvme do give 1 2", "2 comes behind the end", "2"),
        ("on nvme do refuse it", "it comes behind the end", "it"),
        ("on nvme do give 0x1ffffffffffffffff", "does not fit in 8 bytes", "0x1ffff"),
        ("on nvme do delay", "delay needs a time", ""),
        ("on nvme do delay soon", "soon is no time", "soon"),
        ("on nvme do delay 0", "above 0", "0"),
        ("on nvme do delay 61s", "60s at most", "61s"),
        ("on nvme once once do give 1", "the rule has such a clause already", "once do"),
        ("on nvme once times 3 do give 1", "the rule has such a clause already", "times 3"),
        ("on nvme times do give 1", "do is no number for times", "do give"),
        ("on nvme times 0 do give 1", "below 1", "0 do"),
        ("on nvme after x do give 1", "x is no number for after", "x do"),
        ("on nvme often do give 1", "", "nvme often"),
        ("on nvme once often do give 1", "often cannot follow", "often"),
        ("on nvme if valu == 3 do give 1", "did you mean value?", "valu"),
        ("on nvme if do give 1", "the condition is empty", "do give"),
        ("on nvme if value == 1 ounce do give 1", "did you mean once?", "ounce"),
        ("on value == 3 do give 1", "a condition follows if", "value == 3"),
        ("on hypercall MMIO do refuse", "hypercall begins a break of its own", "hypercall MMIO"),
        ("on read tdcall do refuse", "tdcall begins a break of its own", "tdcall do"),
        ("on nvmee do give 1", "no region is called nvmee; did you mean nvme?", "nvmee"),
        ("on read nvme.CSTSS do give 1", "did you mean CSTS?", "nvme.CSTSS"),
        ("on read nvme+0x9000 do give 1", "nvme ends at offset 0x3fff", "nvme+0x9000"),
        ("on read nvme+zz do give 1", "zz is no offset", "nvme+zz"),
        ("on 0x10 do give 1", "no device answers at physical 0x10", "0x10"),
        ("on nvme if region == nvmee do give 1", "did you mean nvme?", "nvmee"),
    ],
)
def test_what_makes_no_rule_is_pointed_at(text: str, words: str, at: str) -> None:
    with pytest.raises(MarkedError) as caught:
        parse_rule(text, KNOWN)
    error = caught.value
    assert words in str(error)
    message, typed, caret = error.detail.split("\n")
    assert (message, typed) == (str(error), f"  {text}")
    assert text[caret.index("^") - 2 :].startswith(at)
    assert (text[error.column - 1 :] == "") == (at == "")


def test_no_words_make_no_rule() -> None:
    with pytest.raises(UsageError, match="the rule is empty: on read nvme"):
        parse_rule("  ")


def test_a_name_that_nothing_has_may_be_waited_for() -> None:
    for text in ("on nvmee pending do give 1", "on nvmee do give 1 pending"):
        rule = parse_rule(text, KNOWN)
        assert rule.trigger.pending and rule.text == text
    with pytest.raises(UsageError) as caught:
        parse_rule("on nvmee do give 1", KNOWN)
    assert caught.value.may_come
    with pytest.raises(MarkedError) as marked:
        parse_rule("on nvmee pending do gve 1", KNOWN)
    assert marked.value.column == len("on nvmee pending do ") + 1


@pytest.mark.parametrize(
    "text", ["on nvmee.CC do give 1", "on what ever do give 1", "on if region == x do give 1"]
)
def test_ahead_of_a_guest_any_name_may_come(text: str) -> None:
    parse_rule(text, AHEAD)


@given(st.text(max_size=60))
def test_whatever_is_typed_is_a_rule_or_an_error_for_the_reader(text: str) -> None:
    for known in (KNOWN, AHEAD):
        try:
            parse_rule(f"on {text}", known)
        except UsageError as error:
            assert str(error)
            if isinstance(error, MarkedError):
                assert len(error.detail.split("\n")) == 3


# ---- deciding


def test_the_first_that_fits_decides() -> None:
    asked = rules("on write do give 1", "on read nvme.CSTS once do give 2", "on nvme do give 3")
    numbers, _ = decided(asked, facts(), facts(), facts("write"), facts(region=IOAPIC))
    assert numbers == [2, 3, 1, 0]


def test_counts_combine() -> None:
    numbers, asked = decided(rules("on read nvme times 2 after 3 do give 0"), *8 * [facts()])
    assert numbers == [0, 0, 0, 1, 1, 0, 0, 0]
    (rule,) = asked.items
    assert (rule.applied, rule.live, rule.trigger.hits) == (2, False, 5)


def test_a_rule_counts_what_none_before_it_decided() -> None:
    asked = rules("on read nvme.CSTS once do give 1", "on read nvme after 1 once do give 2")
    assert decided(asked, *4 * [facts()])[0] == [1, 0, 2, 0]


def test_a_condition_that_asks_for_the_value() -> None:
    asked = rules("on read nvme if value == 1 once do give 9")
    assert decided(asked, facts(value=2), facts(value=1), facts(value=1))[0] == [0, 1, 0]


def test_a_condition_may_count() -> None:
    asked = rules("on nvme if count % 2 == 0 do give 9")
    assert decided(asked, *4 * [facts()])[0] == [0, 1, 0, 1]


def test_a_condition_without_an_answer_names_its_rule() -> None:
    asked = rules("on write do give 1", "on nvme if value // 0 do give 1")
    with pytest.raises(ConditionError, match=r"^rule 2: "):
        asked.decide(facts())


@pytest.mark.parametrize(
    ("ruling", "width", "given", "cut"),
    [
        ("give 0xffffffff", 4, 0xFFFFFFFF, False),
        ("give 0xffffffff", 2, 0xFFFF, True),
        ("give 0xffffffff", 8, 0xFFFFFFFF, False),
        ("give -1", 1, 0xFF, False),
        ("give -1", 8, (1 << 64) - 1, False),
        ("give -200", 1, 0x38, True),
    ],
)
def test_a_value_has_the_width_of_the_access(
    ruling: str, width: int, given: int, cut: bool
) -> None:
    (rule,) = rules(f"on do {ruling}").items
    assert (rule.to(width), rule.cuts(width)) == (Give(given, "rule 1"), cut)


def test_other_rulings_carry_their_rule_as_well() -> None:
    asked = rules("on do refuse", "on do retry", "on do delay 1us")
    assert [rule.to(4) for rule in asked.items] == [
        Refuse("rule 1"), Postpone("rule 2"), Delay(1000, "rule 3"),
    ]  # fmt: skip
    assert not any(rule.cuts(1) for rule in asked.items)


def test_a_register_behind_a_window_is_told_from_others_there() -> None:
    names = Naming(library.load())
    asked = rules("on read ioapic.VER do give 0xff0020", known=known_places(REGIONS, names))
    at = facts(offset=0x10, region=IOAPIC, names=names)
    assert decided(asked, at)[0] == [0], "nobody has chosen a register yet"
    for index, number in ((1, 1), (0x10, 0), (0, 0), (1, 1)):
        names.note("ioapic", 0, "write", 4, index)
        again = facts(offset=0x10, region=IOAPIC, names=names)
        assert decided(asked, again)[0] == [number]


# ---- where


def test_places_are_those_of_rules_that_may_still_decide() -> None:
    asked = rules("on read nvme.CSTS once do give 1", "on ioapic do give 2")
    csts, ioapic = range(NVME.base + 0x1C, NVME.base + 0x20), range(IOAPIC.start, IOAPIC.end + 1)
    assert asked.leeway(REGIONS, 0) == Leeway((csts, ioapic))
    _, used = decided(asked, facts())
    assert used.leeway(REGIONS, 0) == Leeway((ioapic,))
    assert rules().leeway(REGIONS, 0) == Leeway()
    reads = rules("on read do give 1")
    assert reads.leeway(REGIONS, 0) == Leeway(interests=(reads.items[0].trigger.pattern,))
    assert rules("on if count > 3 do give 1").leeway(REGIONS, 0) == NO_LEEWAY
    nvme = range(NVME.start, NVME.end + 1)
    assert rules("on if region is nvme do give 1").leeway(REGIONS, 0) == Leeway((nvme,))
    assert rules("on if time > 1s do give 1").leeway(REGIONS, 0) == Leeway(until_ns=10**9 + 1)


def test_rules_tell_what_they_ask_for() -> None:
    assert rules("on ioapic.VER do give 1").asks(("register",))
    assert not rules("on nvme.CSTS do give 1").asks(("register", "phase"))
    assert rules("on nvme if phase == early do give 1").asks(("phase",))


# ---- by number


def test_numbers_are_kept() -> None:
    asked = rules("on do give 1", "on do give 2", "on do give 3")
    assert asked.numbers("") == (1, 2, 3) and asked.numbers("1 2-9 2") == (1, 2, 3)
    left = asked.without((1, 3))
    assert [rule.number for rule in left.items] == [2]
    assert left.added(parse_rule("on do give 4")).items[-1].number == 4
    with pytest.raises(UsageError, match="there is no rule 1; there are: 2"):
        left.numbers("1")
    with pytest.raises(UsageError, match="none at all"):
        Rules().numbers("7")
    with pytest.raises(UsageError, match="x is no number of a rule"):
        left.numbers("x")


@pytest.mark.parametrize(
    ("text", "accesses", "why"),
    [
        ("on write do give 1", [facts()], "no access that it is for came to it"),
        ("on read after 5 do give 1", 2 * [facts()], "of the accesses that it is for only 2 came"),
        (
            "on read if value == 7 do give 1", 2 * [facts()],
            "its condition held for none of the 2 accesses that came to it",
        ),
    ],
)  # fmt: skip
def test_why_a_rule_never_decided(text: str, accesses: list[PendingFacts], why: str) -> None:
    _, asked = decided(rules(text), *accesses)
    assert asked.items[0].why_idle == why
