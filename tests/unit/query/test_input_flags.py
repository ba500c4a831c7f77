"""Which inputs a break may want, so that the monitor has to ask about these alone."""

from __future__ import annotations

import pytest

from tracer.access.decision import NO_LEEWAY
from tracer.access.region import Region, RegionMap
from tracer.compiled.flagging import (
    ALL_INPUTS,
    ALL_IRQS,
    ALL_LEAVES,
    ALL_MSRS,
    ALL_PORTS,
    flag_of_irq,
    flag_of_leaf,
    flag_of_msr,
    flagged,
)
from tracer.query.breakpoint import parse_break
from tracer.query.place import Known

I8042 = Region("i8042.cmd", 0x64, 0x64, 0x64, "i8042", "i8042-cmd")
NVME = Region("nvme", 0xFE00_0000, 0xFE00_0FFF, 0xFE00_0000, "nvme", "nvme")
REGIONS = RegionMap(
    [NVME], [(NVME.start, NVME.end)], (), [I8042], ("port", "msr", "cpuid", "irq", "msi")
)
KNOWN = Known(ports=[I8042], inputs=REGIONS.inputs)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("port 0x64", flagged(range(0x61, 0x65))),  # what is wider reaches it from below
        ("port 0x64 if width == 1", flagged([0x64])),
        ("port i8042-cmd", flagged(range(0x61, 0x65))),
        ("if region is i8042.cmd", flagged([0x64])),
        ("if port == 0x64", flagged([0x64])),
        ("port", ALL_PORTS),
        ("write", ALL_PORTS | ALL_MSRS),
        ("msr 0xc0000080", flagged([flag_of_msr(0xC000_0080)])),
        ("msr 0x40000000", flagged([flag_of_msr(0x4000_0000)])),  # all that have no bit
        ("if msr == 0xc0000080", flagged([flag_of_msr(0xC000_0080), flag_of_msr(0x2000)])),
        ("if space == msr", ALL_MSRS),
        ("cpuid 0x21", flagged([flag_of_leaf(0x21)])),
        ("cpuid 0x21.1", flagged([flag_of_leaf(0x21)])),
        ("cpuid 0x40000100", flagged([flag_of_leaf(0x100)])),  # all that have no bit
        ("if leaf == 0x21", flagged([flag_of_leaf(0x21), flag_of_leaf(0x100)])),
        ("cpuid", ALL_LEAVES),
        ("irq 0x30", flagged([flag_of_irq(0x30)])),
        ("irq if vcpu == 1", ALL_IRQS),
        ("msi", ALL_IRQS),
        ("msi 0x4023", ALL_IRQS),
        ('if source == "nvme[1]"', ALL_IRQS),
        ('if cause == "nvme[1]"', ALL_IRQS),
        ("if space == msi and port == 3", 0),
        ("if data == 3 and msr == 3", 0),
        ("nvme", 0),
        ("0xfe000000", 0),
        ("if space == memory and value == 3", 0),
        ("if value == 3", ALL_INPUTS),
        ("symbol nvme_*", ALL_INPUTS),
    ],
    ids=lambda told: told if isinstance(told, str) else "",
)
def test_a_break_is_for_these_inputs_alone(text: str, wanted: int) -> None:
    assert parse_break(text, KNOWN).leeway(REGIONS, 0).inputs == wanted


def test_a_time_that_is_to_come_has_none_asked_about_until_then() -> None:
    found = parse_break("if time > 2s", KNOWN).leeway(REGIONS, 0)
    assert (found.inputs, found.until_ns) == (0, 2_000_000_001)


def test_two_leave_what_both_do() -> None:
    one, two = (parse_break(text, KNOWN).leeway(REGIONS, 0) for text in ("port 1", "irq 2"))
    assert one.within(two).inputs == one.inputs | two.inputs
    assert one.within(NO_LEEWAY).inputs == ALL_INPUTS


def test_inputs_that_are_not_recorded_are_nobodys() -> None:
    plain = RegionMap([NVME], [(NVME.start, NVME.end)], ())
    assert parse_break("nvme").leeway(plain, 0).inputs == 0
