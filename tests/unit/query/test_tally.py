"""Tallies: what they mean, what they come to, and what is said of those that mean nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.errors import ConditionError
from tracer.query.aggregate import Buckets, Held
from tracer.query.condition import parse
from tracer.query.condition.lexicon import Lexicon
from tracer.query.condition.vocabulary import COVERED, Fact
from tracer.query.tally import Counted, Tally, parse_tally
from tracer.report.tally import closing_line, histogram_lines, tally_object, tally_table, time_text


def facts(**known: Fact) -> Mapping[str, Fact]:
    told: dict[str, Fact] = {
        "region": "nvme", "register": "CC", "function": "f", "value": 1, "width": 4, "time": 0,
        "offset": 0x14, "changes": True,
    }  # fmt: skip
    told |= known
    told[COVERED] = (str(told["register"]),)
    return {name: told.get(name) for name in (*told, "cpl", "changes 0")}


def counted(text: str, *accesses: Mapping[str, Fact]) -> Counted:
    tally = parse_tally(text)
    found = Counted(tally)
    for each in accesses:
        if tally.condition is None or tally.condition.holds(each):
            found.add(each)
    return found


def groups(text: str, *accesses: Mapping[str, Fact]) -> list[tuple[dict[str, object], object]]:
    """Return each group's key with what its first aggregate came to, as programs get them."""
    found = counted(text, *accesses)
    name = found.tally.aggregates[0].text
    return [(group["key"], group[name]) for group in tally_object(found)["groups"]]


READS = (
    facts(time=0, value=1),
    facts(time=100, value=2),
    facts(time=250, value=2, function="g"),
    facts(time=300, value=None),
    facts(time=1000, register="CSTS", value=0x100),
)


def test_accesses_are_counted_by_all_keys_the_most_first() -> None:
    assert groups("count by register, function", *READS) == [
        ({"register": "CC", "function": "f"}, 3),
        ({"register": "CC", "function": "g"}, 1),
        ({"register": "CSTS", "function": "f"}, 1),
    ]
    assert groups("count", *READS) == [({}, 5)] == groups("count()", *READS)


def test_only_those_are_counted_for_which_the_condition_holds() -> None:
    assert groups("count by function if register == CC and value & 2", *READS) == [
        ({"function": "f"}, 1), ({"function": "g"}, 1),
    ]  # fmt: skip
    assert groups("count if register == CC", *READS) == [({}, 4)]


def test_a_key_can_be_any_expression_and_what_is_unknown_is_a_group() -> None:
    assert groups("count by value & 0xff, value > 1", *READS) == [
        ({"value & 0xff": "0x2", "value > 1": True}, 2),
        ({"value & 0xff": "0x0", "value > 1": True}, 1),
        ({"value & 0xff": "0x1", "value > 1": False}, 1),
        ({"value & 0xff": None, "value > 1": None}, 1),
    ]
    assert groups("count by register is CC, width", *READS)[0] == (
        {"register is CC": True, "width": 4}, 4,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("aggregate", "came_to"),
    [
        ("sum(value)", 0x105),
        ("min(value)", "0x1"),
        ("max(value)", "0x100"),
        ("avg(value)", 0x105 / 4),
        ("sum(width * 2)", 40),
        ("max(width)", 4),
        ("sum(register == CC)", 4),
        (
            "stats(value)",
            {"count": 4, "min": "0x1", "avg": 0x105 / 4, "max": "0x100", "sum": 0x105},
        ),
        (
            "hist(value)",
            [
                {"first": "0x1", "last": "0x1", "count": 1},
                {"first": "0x2", "last": "0x3", "count": 2},
                {"first": "0x100", "last": "0x1ff", "count": 1},
            ],
        ),
        (
            "lhist(time, 100, 300, 100)",
            [
                {"first": None, "last": 99, "count": 1},
                {"first": 100, "last": 199, "count": 1},
                {"first": 200, "last": 299, "count": 1},
                {"first": 300, "last": None, "count": 2},
            ],
        ),
        ("delta(time)", {"count": 4, "min": 50, "avg": 250, "max": 700, "sum": 1000}),
        ("min(delta(time) * 2)", 100),
        ("sum(delta(delta(time)))", 600),
    ],
)  # fmt: skip
def test_what_an_aggregate_comes_to(aggregate: str, came_to: object) -> None:
    assert groups(aggregate, *READS) == [({}, came_to)]


def test_a_difference_is_to_the_access_before_in_the_same_group() -> None:
    found = counted("sum(delta(time)), count by function", *READS)
    assert [
        (group["key"]["function"], group["sum(delta(time))"], group["count"])
        for group in tally_object(found)["groups"]
    ] == [("f", 1000, 4), ("g", 0, 1)]
    assert found.unknown == 2  # the first of each group


def test_each_difference_has_a_memory_of_its_own() -> None:
    found = counted("sum(delta(time)), max(delta(width)), max(delta(time))", *READS)
    (group,) = tally_object(found)["groups"]
    assert (group["sum(delta(time))"], group["max(delta(width))"], group["max(delta(time))"]) == (
        1000, 0, 700,
    )  # fmt: skip


def test_numbers_that_json_cannot_hold_are_hex_strings() -> None:
    wide = facts(width=1 << 60)
    assert groups("sum(width)", wide, wide) == [({}, hex(1 << 61))]
    assert groups("count by width", wide) == [({"width": hex(1 << 60)}, 1)]
    huge = facts(width=1 << 2000)
    assert groups("avg(width)", huge) == [({}, None)]


def test_what_lacks_a_number_is_counted_and_told() -> None:
    found = counted("count, sum(value) by register", *READS)
    assert found.unknown == 1 and found.accesses == 5
    assert closing_line(found).startswith("5 accesses in 2 groups; 1 of them without a number")


@given(st.integers(-(1 << 70), 1 << 70))
def test_a_bucket_has_its_numbers(number: int) -> None:
    for buckets in (Buckets(), Buckets(-10, 75, 9), Buckets(0, 1, 5)):
        first, end = buckets.ends(buckets.of(number))
        assert (first is None or first <= number) and (end is None or number < end)


@given(st.lists(st.integers(-100, 100), min_size=1))
def test_a_number_that_came_often_is_many(numbers: list[int]) -> None:
    one, many = Held(Buckets()), Held(Buckets())
    for number in numbers:
        for _ in range(3):
            one.add(number)
        many.add(number, 3)
    assert (one.count, one.total, one.least, one.most, one.counts, one.average) == (
        many.count, many.total, many.least, many.most, many.counts, many.average,
    )  # fmt: skip
    assert one.total == 3 * sum(numbers) and one.least == min(numbers) and one.most == max(numbers)


@pytest.mark.parametrize(
    ("text", "column", "why"),
    [
        ("", 1, "nothing is tallied"),
        ("conut by register", 1, "did you mean count"),
        ("value by register", 1, "no tally is called value"),
        ("hist", 1, "hist at column 1 needs a number"),
        ("hist(", 6, "a value is missing at column 6"),
        ("hist(value", 11, "( at column 5 is never closed"),
        ("hist(value, 3)", 11, "takes no more than that"),
        ("sum(region)", 5, "sum takes numbers: `region` at column 5 is text"),
        ("sum(callers)", 5, "is several texts"),
        ("sum(vlaue)", 5, "did you mean value"),
        ("count(value)", 7, "takes nothing"),
        ("count by", 9, "a value is missing"),
        ("count by region,", 17, "a value is missing"),
        ("count by region if", 19, "a value is missing"),
        ("count by region fi width == 4", 17, "expected an operator at column 17, not fi"),
        ("count fi width == 4", 7, "expected no fi at column 7; by and if may follow"),
        ("count by callers", 10, "several texts"),
        ("count if count > 3", 10, "count at column 10 is of breaks"),
        ("count by count", 10, "of breaks"),
        ("count if delta(time) > 3", 10, "delta is of a tally"),
        ("count by delta(region)", 15, "delta takes numbers"),
        ("lhist(width)", 12, "lacks its first number"),
        ("lhist(width, 0, 8)", 18, "lacks its step"),
        ("lhist(width, 0, value, 1)", 17, "needs no access"),
        ("lhist(width, 8, 0, 1)", 1, "has no steps from 8 to 0 by 1"),
        ("lhist(width, 0, 8, 0)", 1, "has no steps"),
        ("lhist(width, 0, 1 << 40, 1)", 1, "has no steps"),
        ("count by region == foo, width", 20, "no region is called foo"),
        ("count, ", 8, "nothing is tallied"),
    ],
)
def test_what_means_nothing_is_refused_with_its_place(text: str, column: int, why: str) -> None:
    known = {"region": Lexicon("region", lambda: ("nvme", "hpet"))}
    with pytest.raises(ConditionError, match=re.escape(why)) as caught:
        parse_tally(text, known)
    assert (caught.value.text, caught.value.column) == (text, column), caught.value.detail


def test_a_condition_alone_knows_no_difference() -> None:
    with pytest.raises(ConditionError, match="delta is of a tally"):
        parse("delta(time) > 1ms")


def test_names_with_a_comma_inside_are_names() -> None:
    tally = parse_tally("count by register is VENDOR_ID,DEVICE_ID, width")
    assert [each.text for each in tally.keys] == ["register is VENDOR_ID,DEVICE_ID", "width"]
    assert tally.keys[0].mentions[0].word == "VENDOR_ID,DEVICE_ID"


def table(text: str, *accesses: Mapping[str, Fact], limit: int | None = None) -> list[list[str]]:
    found = tally_table(counted(text, *accesses), limit)
    assert found is not None
    cells = [[str(cell) for cell in column.cells] for column in found.columns]
    return [[str(column.header) for column in found.columns], *map(list, zip(*cells, strict=True))]


def test_a_table_has_a_column_a_number() -> None:
    assert table("stats(delta(time)), max(value) by function", *READS) == [
        ["function", *(f"{name}(delta(time))" for name in ("count", "min", "avg", "max", "sum")),
         "max(value)"],
        ["f", "3", "100ns", "333.3ns", "700ns", "1us", "0x100"],
        ["g", "0", "-", "-", "-", "0ns", "0x2"],
    ]  # fmt: skip
    assert table("delta(time)", *READS)[0] == ["count", "min", "avg", "max", "sum"]


def test_a_table_tells_what_a_limit_keeps_out() -> None:
    assert table("count, sum(width) by time", *READS, limit=2) == [
        ["time", "count", "sum(width)"],
        ["0ns", "1", "4"],
        ["100ns", "1", "4"],
        ["… 3 more", "3", ""],
    ]


def test_what_has_no_name_is_a_dash_and_what_is_unknown_a_question() -> None:
    nameless = facts(register="", value=None)
    assert table("count by register, value", nameless)[1] == ["-", "?", "1"]


def test_a_histogram_is_as_wide_as_there_is_room() -> None:
    found = counted("hist(width)", *[facts(width=1)] * 4, *[facts(width=2048)] * 2, facts(width=-1))
    lines = list(histogram_lines(found, 34))
    assert lines[1] == "hist(width)"
    assert lines[2] == "  (..., 0)    1 |@@@            |"
    assert lines[4] == "  [1]         4 |@@@@@@@@@@@@@@@|"
    assert lines[-1] == "  [2K, 4K)    2 |@@@@@@@        |"
    assert len(lines) == 2 + 14


def test_times_are_told_with_their_unit() -> None:
    told = [time_text(each) for each in (0, 5, 1000, 1_500, 2_000_000, 3_250_000_000, -1_500)]
    assert told == ["0ns", "5ns", "1us", "1.5us", "2ms", "3.25s", "-1.5us"]


@given(st.text("counthisumdela()by if,valuergion&=0x ", max_size=40))
def test_any_text_is_a_tally_or_is_refused(text: str) -> None:
    try:
        assert isinstance(parse_tally(text), Tally)
    except ConditionError as error:
        assert 1 <= error.column <= len(text) + 1
