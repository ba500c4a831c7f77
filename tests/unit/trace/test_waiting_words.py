"""Waits of code, in words and as an object."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tracer.devices import library
from tracer.trace.poll import Poll
from tracer.trace.waiting import WaitRecord, WayOut
from tracer.trace.waiting_words import (
    fitted_poll_line,
    poll_line,
    poll_object,
    poll_words,
    wait_line,
)

TOLD = WaitRecord(
    time_ns=0, seq=1, vcpu=0, rip=0x1000, symbol="nvme_pci_reg_read32+0xb", region="nvme",
    offset=0x1C, width=4, head=0x2000, loop="nvme_wait_ready+0x7f",
    awaited=[
        WayOut(rip=0x2010, symbol="nvme_wait_ready+0x8f", mask=0xFFFF_FFFF, value=0xFFFF_FFFF),
        WayOut(rip=0x2020, mask=0x1, value=0x1),
    ],
    gives_up=[
        WayOut(rip=0x2030, symbol="nvme_wait_ready+0x64", said="jiffies"),
        WayOut(rip=0x2040),
    ],
)  # fmt: skip
POLL = Poll(
    region="nvme", offset=0x1C, width=4, rip=0x1000, site="nvme_pci_reg_read32+0xb", vcpu=0,
    physical=0xFEBD_001C, turns=5120, since_ns=1_000_000_000, until_ns=4_250_000_000, value=0,
    told=TOLD,
)  # fmt: skip
REGISTERS = library.load().of_region("nvme")
assert REGISTERS is not None
CSTS = REGISTERS.lookup(0x1C, 4)


def test_a_poll_is_told_in_a_line() -> None:
    assert poll_line(POLL, CSTS) == (
        "waiting for nvme CSTS until RDY=1, or it reads 0xffffffff: read 5,120 times in "
        "3.250000 s at nvme_wait_ready+0x7f, last 0x00000000; gives up at nvme_wait_ready+0x64 "
        "(jiffies) or 0x2040"
    )


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (
            130,
            "waiting for nvme CSTS until RDY=1: 5,120 times in 3.250 s at nvme_wait_ready+0x7f;"
            " gives up at nvme_wait_ready+0x64 (jiffies)",
        ),
        (100, "waiting for nvme CSTS until RDY=1: 5,120 times in 3.250 s at nvme_wait_ready+0x7f"),
        (60, "waiting for nvme CSTS until RDY=1: 5,120 times in 3.250 s"),
        (50, "nvme CSTS until RDY=1: 5,120 times in 3.250 s"),
        (20, "nvme CSTS until RDY…"),
    ],
)
def test_a_narrow_line_says_first_how_often_and_how_long(columns: int, line: str) -> None:
    assert fitted_poll_line(POLL, CSTS, columns) == line
    assert fitted_poll_line(POLL, CSTS, 400) == poll_line(POLL, CSTS)


def test_without_names_bits_have_numbers() -> None:
    assert "nvme +0x1c until bit 0=1" in poll_line(POLL)
    ways = [WayOut(rip=1, mask=6, value=2, other=True), WayOut(rip=2, mask=0)]
    other = replace(TOLD, awaited=ways, gives_up=[])
    assert wait_line(other) == (
        "── waits: nvme +0x1c until not bits 0x6=0x2, or a condition at 0x2 holds; "
        "nothing else ends it ──"
    )


def test_a_poll_that_nobody_has_looked_at() -> None:
    line = poll_line(replace(POLL, told=None), CSTS)
    assert line == (
        "waiting for nvme CSTS: read 5,120 times in 3.250000 s at nvme_pci_reg_read32+0xb, "
        "last 0x00000000"
    )
    assert poll_object(replace(POLL, told=None))["awaited"] == []
    assert wait_line(replace(TOLD, awaited=[])).startswith("── waits: no loop around nvme_pci")


def test_an_object() -> None:
    made = poll_object(POLL, CSTS)
    assert (made["register"], made["turns"], made["value"]) == ("CSTS", 5120, "0x0")
    assert made["awaited"][1] == {
        "site": "0x2020", "mask": "0x1", "value": "0x1", "other": False, "words": "RDY=1",
    }  # fmt: skip
    assert made["gives_up"] == [
        {"site": "nvme_wait_ready+0x64", "by": "jiffies"}, {"site": "0x2040", "by": None},
    ]  # fmt: skip
    assert poll_words(POLL)[0] == "+0x1c"


def test_fields_of_a_register_and_bits_without_one() -> None:
    assert CSTS is not None
    assert CSTS.bits(0xC, 0x8) == "SHST=complete"
    assert CSTS.bits(0x5, 0x1) == "RDY=1 bit 2=0"
    assert not CSTS.is_clock
