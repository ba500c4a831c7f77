"""The default guest's own kernel as an SEV-ES guest: its #VC handler decodes, and asks."""

from __future__ import annotations

from pathlib import Path

import pytest
from confidential_kernel import kernel_for, powered_off
from vetrace_run import Run, boot, read_trace, run

from tracer.confidential.kind import Kind
from tracer.trace.call import VmgexitRecord
from tracer.trace.record import Intercept, Mark

pytestmark = pytest.mark.qemu


@pytest.fixture(scope="module")
def sev(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("sev")
    return boot(folder, "--guest", "sev-es", "--quiet", "--check")


def booted(done: Run) -> None:
    """Check that a kernel came to its power-off as an SEV-ES guest, and agreed all the way."""
    counts = powered_off(done, Kind.SEV_ES)
    assert counts["vc"] == counts["mmio_calls"] == counts["agreed"] == counts["guest"] > 0
    assert not counts.get("given_up")
    assert counts["guest"] == counts["accesses"]


def test_the_default_guests_kernel_boots_as_an_sev_es_guest_to_its_power_off(sev: Run) -> None:
    booted(sev)


@pytest.mark.long
def test_another_kernel_does_wherever_it_lies(tmp_path: Path) -> None:
    # The one that can be a TDX guest, too, where the default one cannot: it is newer.
    kernel = kernel_for(Kind.TDX)
    booted(boot(tmp_path, "--guest", "sev-es", "--kernel", kernel, "--kaslr", "--quiet", "--check"))


def test_each_access_is_recorded_with_what_it_asked(sev: Run) -> None:
    trace = read_trace(sev.trace)
    regions = set()
    for record in trace.intercepts:
        assert record.via == "guest" and record.agrees and record.symbol
        (access,) = record.accesses
        regions.add(access.region)
        assert record.asked is not None
        given, returned = record.asked.given, record.asked.returned
        assert given["sw_exit_code"] == 0x8000_0001 + (access.direction == "write")
        assert (given["sw_exit_info_1"], given["sw_exit_info_2"]) == (access.physical, access.width)
        data = given if access.direction == "write" else returned
        assert data["shared_buffer"] == access.value
        assert record.error_code & 8 and record.cr2 == access.linear
    assert {"nvme", "virtio-blk.common", "virtio-net.common", "ioapic", "hpet", "lapic"} <= regions
    calls = [record for record in trace.records if isinstance(record, VmgexitRecord)]
    assert "AP jump table" in {record.name for record in calls}


def test_a_trace_of_an_sev_es_guest_is_replayed_and_shown(sev: Run, tmp_path: Path) -> None:
    replayed = run(tmp_path, "replay", sev.trace)
    assert replayed.status == 0, replayed.out + replayed.err
    counted = run(tmp_path, "stats", sev.trace)
    assert "by the guest itself" in counted.out and "AP jump table" in counted.out
    shown = run(tmp_path, "show", sev.trace, "--json", "--region", "nvme", "--limit", "1")
    (access,) = shown.objects
    assert access["via"] == "guest" and access["agrees"] is True
    assert access["ghcb"]["info1"] == access["address"]
    assert "── vmgexit: AP jump table" in run(tmp_path, "show", sev.trace).out


def meddled(folder: Path, *words: str) -> Run:
    return boot(folder, "--guest", "sev-es", "--quiet", "--guest-timeout", "60", *words)


def last(done: Run) -> Intercept:
    return read_trace(done.trace).intercepts[-1]


@pytest.mark.long
def test_a_host_gives_another_value_than_the_device(tmp_path: Path) -> None:
    done = meddled(tmp_path, "--rule", "on read nvme.CSTS once do give 0xffffffff")
    assert done.status == 0 and any("disk nvme none" in line for line in done.serial)
    (lied,) = [
        record
        for record in read_trace(done.trace).intercepts
        if record.accesses[0].region == "nvme" and record.accesses[0].device is not None
    ]
    assert lied.agrees and lied.accesses[0].value == 0xFFFF_FFFF


def test_a_host_that_refuses_ends_the_guest(tmp_path: Path) -> None:
    done = meddled(tmp_path, "--rule", "on read nvme.CSTS once do refuse")
    assert done.status == 1 and "the guest told its host that it cannot go on" in done.err
    refused = last(done)
    assert refused.asked is not None and refused.asked.returned["sw_exit_info_1"] == 2
    assert refused.accesses[0].region == "nvme" and refused.after == {}


def test_another_instruction_is_what_the_guests_own_handler_finds(tmp_path: Path) -> None:
    # The handler knows no ADD: the guest asks for its end, and the trace tells for which.
    add = "break read nvme.CSTS once; continue; rewrite 03 00; continue"
    done = meddled(tmp_path, "-e", add)
    assert done.status == 1 and "the guest told its host that it cannot go on" in done.err
    told = [record.text for record in read_trace(done.trace).records if isinstance(record, Mark)]
    assert any("did not ask" in text and "nvme" in text and "oops" in text for text in told)


def test_a_guest_with_several_vcpus_is_refused(tmp_path: Path) -> None:
    done = meddled(tmp_path, "--realtime", "--", "-smp", "2")
    assert done.status == 1 and "2 vCPUs" in done.err and len(done.complaints) >= 1


def test_an_sev_es_guest_cannot_be_without_its_host(tmp_path: Path) -> None:
    done = meddled(tmp_path, "-e", "detach")
    assert done.status == 2 and "vetrace is its host" in done.err + done.out
