"""Numbers that a person types: what each reader takes, and that all take and refuse the same."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tracer.access.region import parse_range
from tracer.cli import decode, diff, filters, parser
from tracer.devices import file
from tracer.errors import TracerError, UsageError
from tracer.launch.plan import parse_memory
from tracer.query.breakpoint.words import parse_break, parse_until
from tracer.query.condition import parse
from tracer.query.place import Known, parse_place
from tracer.repl.expression import linear_address
from tracer.session.watchdog import seconds
from tracer.text.number import (
    byte_size,
    duration,
    ends,
    fitting,
    hexadecimal,
    is_whole,
    nanoseconds,
    open_ends,
    whole,
)
from tracer.trace.mask import parse_mask


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0), ("16", 16), ("0x10", 16), ("0X1f", 31), ("0b101", 5), ("0o17", 15),
        ("010", 10), ("1_000", 1000), ("0x_ff", 255), ("0xdead_beef", 0xDEADBEEF),
        (f"0x{'f' * 128}", (1 << 512) - 1), (f"0b{'1' * 512}", (1 << 512) - 1),
    ],
)  # fmt: skip
def test_whole_numbers(text: str, value: int) -> None:
    assert whole(text) == value and is_whole(text)


NOT_WHOLE = [
    "", "x", "0x", "0b", "0b2", "0o8", "1.5", "1e3", "1__0", "_1", "1_", "0x1_", " 1", "1 ", "+1",
    "--1", "²", "٣", "\uff11\uff16", "0x\uff11", "1\n", "9" * 601, "9" * 100_000, "\x1b[31m1",
]  # fmt: skip


@pytest.mark.parametrize("text", NOT_WHOLE)
def test_what_is_no_whole_number_is_refused_in_one_printable_line(text: str) -> None:
    assert not is_whole(text)
    with pytest.raises(UsageError, match=r"is no width: 16 and 0x10 are$") as caught:
        whole(text, "width")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 120


def test_the_longest_number_is_read_and_one_digit_more_is_not() -> None:
    assert whole("9" * 600) == 10**600 - 1
    assert not is_whole("9" * 601)


def test_the_limits_of_a_whole_number() -> None:
    assert whole("1", least=1) == 1
    assert whole("255", bits=8) == 255
    assert whole("-2", least=-2) == -2
    with pytest.raises(UsageError, match=r"^0 is no count: it is below 1$"):
        whole("0", "count", least=1)
    with pytest.raises(UsageError, match=r"^-1 is no number: it is below 0$"):
        whole("-1")
    with pytest.raises(UsageError, match=r"^256 does not fit in 1 byte$"):
        whole("256", bits=8)
    with pytest.raises(UsageError, match=r"^4 does not fit in 2 bits$"):
        whole("4", bits=2)


@pytest.mark.parametrize(
    ("text", "bits", "value"),
    [("-1", 8, 0xFF), ("-128", 8, 0x80), ("255", 8, 0xFF), ("-1", 512, (1 << 512) - 1),
     ("-2", 2, 2), ("3", 2, 3)],
)  # fmt: skip
def test_a_value_may_be_negative_as_far_as_its_bits_go(text: str, bits: int, value: int) -> None:
    assert fitting(text, bits) == value


@pytest.mark.parametrize(
    ("text", "bits", "room"),
    [("-129", 8, "1 byte"), ("256", 8, "1 byte"), ("4", 2, "2 bits"), ("2", 1, "1 bit"),
     (f"0x1{'0' * 16}", 64, "8 bytes")],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_refused(text: str, bits: int, room: str) -> None:
    with pytest.raises(UsageError, match=f"^{text} does not fit in {room}$"):
        fitting(text, bits)


def test_hexadecimal_needs_no_prefix() -> None:
    assert hexadecimal("fee00000") == hexadecimal("0xFEE0_0000") == 0xFEE00000
    for text in ("", "0x", "g", "-1", "_1", "f" * 601):
        with pytest.raises(UsageError, match="is no number: fee00000 and 0xfee00000 are"):
            hexadecimal(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1", 1 << 20), ("3K", 3 << 10), ("3m", 3 << 20), ("2G", 2 << 30)],
)
def test_sizes(text: str, size: int) -> None:
    assert byte_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "1T", "-1M", "²G", "٣", "1.5G", "1 G", "0x10", "1" * 61])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no size: 512M and 2G are"):
        byte_size(text)


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("2", 2_000_000_000), ("1.5", 1_500_000_000), (".5", 500_000_000), ("5.", 5_000_000_000),
        ("1.5s", 1_500_000_000), ("20ms", 20_000_000), ("3us", 3000), ("5ns", 5), ("1_0ms", 10**7),
        ("0.9ns", 0), ("0.000000001", 1),
        # A float has not that many digits.
        ("123456789.123456789", 123_456_789_123_456_789),
    ],
)  # fmt: skip
def test_times(text: str, time_ns: int) -> None:
    assert nanoseconds(text) == time_ns
    assert duration(text) == (time_ns if text.endswith("s") else None)


@pytest.mark.parametrize(
    "text", ["", ".", "s", "ms", ".s", "1e3", "1m", "1 s", "-1", "nan", "inf", "²", "٣s", "1" * 61]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    assert duration(text) is None
    with pytest.raises(UsageError, match=r"is no time: 1.5, 1.5s and 20ms are"):
        nanoseconds(text)


def test_both_ends_of_a_span_are_in_it() -> None:
    assert ends("0x10-0x1f", whole) == ends("0x10..0x1f", whole) == (16, 31)
    assert ends("7", whole) == ends("7-7", whole) == (7, 7)
    assert open_ends("7-", whole) == (7, None)
    assert open_ends("-7", whole) == (None, 7)
    assert open_ends("-", whole) == (None, None)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("8-7", "8-7 ends before it begins"),
        ("1-x", "x is no number: 16 and 0x10 are"),
        ("1-2-3", "2-3 is no number: 16 and 0x10 are"),
        ("", "nothing is no number: 16 and 0x10 are"),
        ("-", "- is no number: 16 and 0x10 are"),
        ("1-", "1- is no number: 16 and 0x10 are"),
        ("-1", "-1 is no number: it is below 0"),
    ],
)
def test_what_is_no_span_is_refused(text: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        ends(text, whole)
    assert str(caught.value) == why


# ---- One reader everywhere


def _device(value: str) -> None:
    text = "applies = [{ region = 'edu' }]\n[register.CC]\noffset = 0\nfields.A.bits = '31:0'\n"
    file.parse(f"{text}[register.CC.fields.A.values]\n'{value}' = 'ON'\n", "edu.toml", "edu")


def _option(add: Callable[[argparse.ArgumentParser], None], *given: str) -> Callable[[str], object]:
    made = parser.Parser(exit_on_error=False)
    add(made)
    return lambda text: made.parse_args([*given[:-1], f"{given[-1]}={text}"])


READERS: dict[str, Callable[[str], object]] = {
    "a place": lambda text: parse_place(f"nvme+{text}", Known()),
    "a break's count": lambda text: parse_break(f"nvme times {text}"),
    "a condition": lambda text: parse(f"value == {text}"),
    "an address": lambda text: linear_address(text, None, lambda name: None),
    "a rule": lambda text: parse_mask(f"nvme+{text}"),
    "a device's value": _device,
    "--vcpu": _option(filters.add_filters, "--vcpu"),
    "--offset": _option(filters.add_filters, "--offset"),
    "--value": _option(filters.add_filters, "--value"),
    "diff --limit": _option(diff.add_arguments, "a", "b", "--limit"),
    "decode --set": lambda text: decode._number("--set rax", text, 64),
}


@pytest.mark.parametrize("text", ["16", "0x10", "0b10000", "0o20", "016", "1_6", "0x1_0"])
@pytest.mark.parametrize("reader", READERS)
def test_what_is_a_number_is_one_everywhere(reader: str, text: str) -> None:
    READERS[reader](text)


@pytest.mark.parametrize("text", ["0x", "1__6", "0b3", "1_", "9" * 5000])
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_number_is_none_anywhere(reader: str, text: str) -> None:
    with pytest.raises((TracerError, argparse.ArgumentError)):
        READERS[reader](text)


EVERY: dict[str, Callable[[str], object]] = READERS | {
    "parse_memory": parse_memory,
    "parse_range": parse_range,
    "parse_until": lambda text: parse_until(text, 0),
    "--timeout": lambda text: seconds("--timeout", text),
    "--time": _option(filters.add_filters, "--time"),
}


@pytest.mark.parametrize("reader", EVERY)
@example(text="-0")
@given(text=st.text(alphabet="0123456789abxo_.-+%/²٣１ \u2028", max_size=12))
def test_no_text_is_too_strange_to_be_refused(reader: str, text: str) -> None:
    if reader == "a device's value":
        text = text.replace("\u2028", "")
    try:
        EVERY[reader](text)
    except (TracerError, argparse.ArgumentError, SystemExit) as error:
        assert "\n" not in str(error)


def test_a_timeout_is_a_time_above_0() -> None:
    assert seconds("--timeout", "90") == 90
    assert seconds("--timeout", "1.5") == seconds("--timeout", "1500ms") == 1.5
    for text in ("0", "0.0", "0s"):
        with pytest.raises(UsageError, match=r"^--timeout: .* is no time to wait"):
            seconds("--timeout", text)
    with pytest.raises(UsageError, match=r"^--timeout: inf is no time: 1.5, 1.5s and 20ms are$"):
        seconds("--timeout", "inf")
