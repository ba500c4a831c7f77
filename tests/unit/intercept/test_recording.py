"""A recorded device: what it answers, what it refuses, and how it says so."""

from __future__ import annotations

import trace_sample as sample
from pytest import mark, raises

from tracer.errors import Diverged
from tracer.intercept.recording import (
    VARYING_WRITES,
    RecordedDevice,
    Replayed,
    Request,
    recorded_device,
)
from tracer.trace.mask import parse_mask
from tracer.trace.record import Record
from tracer.x86.bus import Direction

BOTH = Replayed(("nvme",))


def device(*accesses: Record) -> RecordedDevice:
    """Play back these records after the announcements of the sample."""
    regions: list[Record] = [sample.region(name) for name in sample.START]
    return recorded_device("a.vtrace", [*regions, *accesses], BOTH)


def nvme(direction: Direction, offset: int, value: int | None = None, width: int = 4) -> Request:
    return Request("nvme", direction, offset, width, value)


def recorded() -> RecordedDevice:
    return recorded_device("a.vtrace", sample.RECORDS, BOTH)


def test_reads_get_what_was_read_and_writes_what_they_repeat() -> None:
    replay = recorded()
    assert (replay.recorded, replay.answered) == (3, 0)
    first = replay.answer(nvme("read", 0x1C))
    assert (first.seq, first.value) == (0, 1)
    second = replay.answer(nvme("write", 0x14, 0x460001))
    assert (second.seq, second.value) == (1, 0x460001)
    assert replay.answered == 2


def test_each_region_has_an_order_of_its_own() -> None:
    replay = recorded()
    # Recorded last, asked for first.
    assert replay.answer(Request("nvme.msix-table", "write", 0, 4, 7)).seq == 2
    assert replay.answer(nvme("read", 0x1C)).seq == 0


@mark.parametrize(
    ("request_", "shown"),
    [
        (nvme("read", 0x18), "R4 nvme+0x18"),
        (nvme("read", 0x1C, width=2), "R2 nvme+0x1c"),
        (nvme("write", 0x1C, 1), "W4 nvme+0x1c 0x00000001"),
    ],
)
def test_another_request_shows_both(request_: Request, shown: str) -> None:
    replay = recorded()
    with raises(Diverged) as caught:
        replay.answer(request_)
    assert str(caught.value) == (
        "nvme diverges from access #0 of a.vtrace: recorded R4 nvme+0x1c at nvme_pci_enable+0x5e, "
        f"the guest made {shown}; record again if that is meant"
    )
    assert replay.answered == 0
    assert replay.answer(nvme("read", 0x1C)).seq == 0  # and nothing was used up


def test_the_guests_call_site_comes_with_what_it_made() -> None:
    with raises(Diverged) as caught:
        recorded().answer(nvme("read", 0x18))
    assert "the guest made R4 nvme+0x18 at nvme_timeout+0x3; " in str(
        caught.value.at("nvme_timeout+0x3")
    )


def test_another_value_names_the_mask_that_would_allow_it() -> None:
    replay = recorded()
    replay.answer(nvme("read", 0x1C))
    with raises(
        Diverged, match=r"W4 nvme\+0x14 0x00460001 .* W4 nvme\+0x14 0x00460000; .*--mask"
    ) as caught:
        replay.answer(nvme("write", 0x14, 0x460000))
    rule = parse_mask(str(caught.value).rpartition("--mask ")[2])
    masked = recorded_device("a.vtrace", sample.RECORDS, BOTH, (*VARYING_WRITES, rule))
    masked.answer(nvme("read", 0x1C))
    assert masked.answer(nvme("write", 0x14, 0x460000)).value == 0x460001


@mark.parametrize(
    ("region", "offset", "agrees"),
    [("nvme", 0x28, True), ("nvme", 0x24, False), ("nvme.msix-table", 0x18, True),
     ("nvme.msix-table", 0x1C, False)],
)  # fmt: skip
def test_where_memory_lies_and_messages_go_may_differ(
    region: str, offset: int, agrees: bool
) -> None:
    replay = device(sample.intercept(0, sample.device(region, offset, 4, "write", 0x1000)))
    request = Request(region, "write", offset, 4, 0x2000)
    if agrees:
        assert replay.answer(request).value == 0x1000
    else:
        with raises(Diverged):
            replay.answer(request)


def test_past_the_end_of_the_recording() -> None:
    replay = recorded()
    replay.answer(nvme("read", 0x1C))
    replay.answer(nvme("write", 0x14, 0x460001))
    with raises(Diverged, match=r"a\.vtrace ends with #1, the guest went on with R4 nvme\+0x1c;"):
        replay.answer(nvme("read", 0x1C))
    with raises(Diverged, match=r"a\.vtrace has none, .* R4 nvme\.msix-pba\+0x0;"):
        replay.answer(Request("nvme.msix-pba", "read", 0, 4, None))


def test_a_guest_that_ends_first() -> None:
    replay = recorded()
    replay.answer(nvme("read", 0x1C))
    with raises(Diverged, match=r"ended 2 accesses before a\.vtrace did: .* #1, W4 nvme\+0x14"):
        replay.finish()
    replay.answer(nvme("write", 0x14, 0x460001))
    replay.answer(Request("nvme.msix-table", "write", 0, 4, 7))
    replay.finish()


def test_a_value_that_a_native_step_hid() -> None:
    replay = device(sample.intercept(0, sample.device("nvme", 0, 4, "read", None), via="stepped"))
    with raises(Diverged, match=r"#0 of a\.vtrace has no value to answer R4 nvme"):
        replay.answer(nvme("read", 0))
    replay = device(sample.intercept(0, sample.device("nvme", 0, 4, "write", None), via="stepped"))
    assert replay.answer(nvme("write", 0, 5)).seq == 0


@mark.parametrize(
    ("wanted", "bypassed", "regions"),
    [
        (("nvme",), (), {"nvme", "nvme.msix-table"}),
        (("nvme",), ("nvme.msix-table",), {"nvme"}),
        (("msix-table",), (), {"nvme.msix-table"}),
        (("*",), ("lapic",), {"nvme", "nvme.msix-table", "hpet"}),
    ],
)
def test_which_regions_are_answered(
    wanted: tuple[str, ...], bypassed: tuple[str, ...], regions: set[str]
) -> None:
    replay = recorded_device("a.vtrace", sample.RECORDS, Replayed(wanted, bypassed))
    assert replay.regions == regions


@mark.parametrize(
    ("wanted", "why"),
    [
        (("nvme", "ecam"), "a.vtrace has no access to ecam; it has accesses to: hpet, lapic, nvme"),
        (("lapic",), "--bypass lapic"),
        (("*",), "--bypass lapic"),
    ],
)
def test_what_cannot_be_answered(wanted: tuple[str, ...], why: str) -> None:
    with raises(ValueError, match=why):
        recorded_device("a.vtrace", sample.RECORDS, Replayed(wanted))
