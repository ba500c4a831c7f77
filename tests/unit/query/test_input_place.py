"""Ports, MSRs, leaves of CPUID and vectors as places."""

from __future__ import annotations

from typing import Any

import pytest

from tracer.access.region import Region
from tracer.confidential.kind import Kind
from tracer.errors import UsageError
from tracer.query.breakpoint import parse_break
from tracer.query.condition.vocabulary import COVERED
from tracer.query.facts import Partial
from tracer.query.place import Known
from tracer.text.span import Span

I8042 = Region("i8042.cmd", 0x64, 0x64, 0x64, "i8042", "i8042-cmd")
SPANS = {
    ("msr", "EFER"): Span(8 * 0xC000_0080, 8 * 0xC000_0080 + 7),
    ("cpuid", "FEATURES.ECX"): Span(0x18, 0x1B), ("cpuid", "FEATURES.EAX"): Span(0x10, 0x13),
    ("port", "CMOS"): Span(0x70, 0x70),
}  # fmt: skip
KNOWN = Known(
    span=lambda region, name: SPANS.get((region, name)),
    registers=lambda region: [name for each, name in SPANS if each == region],
    ports=[I8042], inputs=("port", "msr", "cpuid", "irq", "msi"),
)  # fmt: skip


def facts(space: str, address: int, **more: Any) -> Partial:
    told = {"space": space, "address": address, "direction": "read", "extent": 1, "region": space}
    if space == "cpuid":
        told |= {"leaf": address & 0xFFFFFFFF, "subleaf": address >> 32, "offset": 16 * address}
    return Partial({**told, **more})


@pytest.mark.parametrize(
    ("text", "fit", "other"),
    [
        ("port 0x64", facts("port", 0x64), facts("port", 0x65)),
        ("port 0x64", facts("port", 0x62, extent=4), facts("port", 0x62, extent=2)),
        ("port 0x64", facts("port", 0x64), facts("msr", 0x64)),
        ("port 0x60-0x6f", facts("port", 0x6F), facts("port", 0x70)),
        ("port i8042-cmd", facts("port", 0x64), facts("port", 0x60)),
        ("port i8042.cmd", facts("port", 0x64), facts("port", 0x60)),
        ("port CMOS", facts("port", 0x70), facts("port", 0x71)),
        ("msr 0xc0000080", facts("msr", 0xC000_0080), facts("msr", 0xC000_0081)),
        ("msr EFER", facts("msr", 0xC000_0080), facts("msr", 0x80)),
        ("cpuid 0x21", facts("cpuid", 0x21 | 5 << 32), facts("cpuid", 0x22)),
        ("cpuid 7.1", facts("cpuid", 7 | 1 << 32), facts("cpuid", 7)),
        ("cpuid FEATURES", facts("cpuid", 1), facts("cpuid", 2)),
        ("cpuid FEATURES.ECX", facts("cpuid", 1, offset=0x18), facts("cpuid", 1, offset=0x10)),
        ("irq 0x30", facts("irq", 0x30), facts("irq", 0x31)),
        ("irq", facts("irq", 0x30), facts("port", 0x30)),
        ("msi", facts("msi", 0xFEE01004), facts("irq", 0x30)),
        ("msi 0x4023", facts("msi", 0xFEE01004, data=0x4023), facts("msi", 0xFEE01004, data=0x23)),
        ("msi 0x20-0x2f", facts("msi", 0, data=0x2F), facts("msi", 0, data=0x30)),
    ],
)
def test_a_place_is_what_it_says(text: str, fit: Partial, other: Partial) -> None:
    pattern = parse_break(text, KNOWN).pattern
    assert pattern.fits(fit) and not pattern.fits(other)


def test_an_address_in_memory_is_no_port() -> None:
    pattern = parse_break("0xfee000b0").pattern
    assert pattern.fits(facts("memory", 0xFEE0_00B0)) and not pattern.fits(facts("msr", 0xFEE000B0))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("port 0x10000", "does not fit"),
        ("msr 0x100000000", "does not fit"),
        ("irq 256", "does not fit"),
        ("msi 0x100000000", "does not fit"),
        ("msi nvme", "no msi is called nvme"),
        ("port 0x64 0x65", "0x65 cannot follow 0x64"),
        ("msr EFFR", "no msr is called EFFR; did you mean EFER?"),
        ("cpuid FEATURE", "no cpuid is called FEATURE"),
    ],
)
def test_what_is_none_is_refused(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told.replace("?", r"\?")):
        parse_break(text, KNOWN)


@pytest.mark.parametrize(
    ("known", "told"),
    [
        (Known(inputs=()), "none are recorded: boot with --inputs"),
        (Known(inputs=("port",)), "boot with --inputs=port,msr"),
        (Known(inputs=("port",), kind=Kind.TDX), "boot with --inputs=port,msr"),
    ],
)
def test_what_is_not_recorded_is_nobodys_to_be_asked_about(known: Known, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        parse_break("msr 0x10", known)


@pytest.mark.parametrize("kind", list(Kind))
def test_what_is_recorded_is_asked_about_in_each_kind_of_guest(kind: Kind) -> None:
    pattern = parse_break("msr 0x10", Known(inputs=("msr",), kind=kind)).pattern
    assert pattern.fits(facts("msr", 0x10))


def test_a_name_that_comes_later_may_be_any_kinds() -> None:
    pattern = parse_break("msr EFER pending", Known(span=lambda region, name: None)).pattern
    assert pattern.fits(facts("msr", 1, **{COVERED: ("EFER",)}))
    assert not pattern.fits(facts("msr", 1, **{COVERED: ("PAT",)}))


def test_a_condition_still_follows_if() -> None:
    with pytest.raises(UsageError, match="a condition follows if"):
        parse_break("port == 0x64", KNOWN)
