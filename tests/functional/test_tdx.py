"""Debian's own kernel as a TDX guest: its #VE handler decodes, and asks for each access."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from confidential_kernel import kernel_for, powered_off
from vetrace_run import Run, agreed, boot, read_trace, run

from tracer.confidential.kind import Kind
from tracer.guest.disk import checksum
from tracer.trace.call import SharedRecord, TdcallRecord
from tracer.trace.event import Events
from tracer.trace.record import Intercept, Mark, UserRecord

pytestmark = pytest.mark.qemu


@pytest.fixture(scope="module")
def tdx(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("tdx")
    return boot(
        folder, "--guest", "tdx", "--kernel", kernel_for(Kind.TDX), "--kaslr", "--every-stop",
        "--quiet", "--check",
    )  # fmt: skip


@pytest.fixture(scope="module")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same guest with its TDX module as code in it."""
    folder = tmp_path_factory.mktemp("swift")
    return boot(
        folder, "--guest", "tdx", "--kernel", kernel_for(Kind.TDX), "--kaslr", "--quiet", "--check"
    )


def test_a_stock_kernel_boots_as_a_tdx_guest_to_its_power_off(tdx: Run) -> None:
    counts = powered_off(tdx, Kind.TDX)
    assert counts["ve"] == counts["ve_info"] == counts["mmio_calls"] == counts["agreed"] > 0
    assert not counts.get("given_up")


# There is no timer but the PIT, whose ports are slow, to measure the CPU's clock by.
def test_it_drives_its_devices_on_a_machine_without_pci(tmp_path: Path) -> None:
    done = boot(
        tmp_path, "--guest", "tdx", "--kernel", kernel_for(Kind.TDX), "--machine", "microvm",
        "--inputs", "--quiet", "--check",
    )  # fmt: skip
    assert agreed(done) > 20_000 and "virtio-mmio#24" in done.out
    said = [line for line in done.serial if line.startswith("vetrace-guest: ")]
    (disk,) = [line.split()[3] for line in said if " disk virtio-blk " in line]
    assert disk == checksum("virtio-blk")
    assert any("network eth0 " in line and line.endswith("reachable") for line in said)


def test_each_access_of_a_tdx_guest_is_recorded_with_what_it_asked(tdx: Run) -> None:
    trace = read_trace(tdx.trace)
    ways: Counter[tuple[str | None, str]] = Counter()
    for record in trace.intercepts:
        for _, access in record.device_accesses():
            ways[access.region, record.via] += 1
        if record.via == "guest":
            assert record.agrees and record.symbol and record.asked is not None
            assert record.asked.given["r14"] >> 47 == 1  # an address that is shared
    assert {"nvme", "virtio-blk.common", "virtio-net.common", "ioapic", "hpet"} <= {
        region for region, via in ways if via == "guest"
    }
    assert {region for region, via in ways if via == "emulated"} == {"lapic"}  # it is private
    names = {record.name for record in trace.records if isinstance(record, TdcallRecord)}
    assert {"TDG.VP.INFO", "TDG.VP.VMCALL<MapGPA>"} <= names
    touched = [record for record in trace.records if isinstance(record, SharedRecord)]
    assert {record.what for record in touched} == {"map", "touch"}
    assert any(record.converted for record in touched if record.what == "touch")


def test_a_trace_of_a_tdx_guest_is_replayed_and_shown(tdx: Run, tmp_path: Path) -> None:
    replayed = run(tmp_path, "replay", tdx.trace)
    assert replayed.status == 0, replayed.out + replayed.err
    counted = run(tmp_path, "stats", tdx.trace)
    assert "by the guest itself" in counted.out and "MapGPA" in counted.out
    shown = run(tmp_path, "show", tdx.trace, "--json", "--region", "nvme", "--limit", "1")
    (access,) = shown.objects
    assert access["via"] == "guest" and access["agrees"] is True
    assert int(access["tdvmcall"]["in"]["r14"], 0) == int(access["address"], 0) | 1 << 47
    assert "── tdcall: TDG.VP.INFO" in run(tmp_path, "show", tdx.trace).out


def test_with_the_module_in_the_guest_a_boot_makes_few_stops(swift: Run) -> None:
    counts = powered_off(swift, Kind.TDX)
    assert counts["ve"] == counts["ve_info"] == counts["mmio_calls"] == counts["guest"] > 0
    assert counts["stops"] < counts["guest"] / 10
    assert counts["agreed"] > 0 and not counts.get("given_up")


def test_it_makes_no_difference_whether_the_module_is_in_the_guest(tdx: Run, swift: Run) -> None:
    def told(run: Run) -> tuple[dict[str, set[object]], set[tuple[object, ...]]]:
        sites: dict[str, set[object]] = {}
        others: set[tuple[object, ...]] = set()
        for record in read_trace(run.trace).records:
            if isinstance(record, Intercept) and record.via == "guest":
                assert record.agrees and record.asked is not None and record.symbol
                for _, access in record.device_accesses():
                    what = record.text, access.direction, access.offset, access.width
                    call = {*record.asked.given}, {*record.asked.returned}
                    sites.setdefault(f"{access.region} {record.symbol}", set()).add(
                        (*what, str(call))
                    )
            elif isinstance(record, TdcallRecord):
                others.add((record.name, *record.given, *record.returned))
            elif isinstance(record, SharedRecord):
                others.add((record.what, record.converted, record.shared))
        return sites, others

    slow, fast = told(tdx), told(swift)
    assert slow[0].keys() == fast[0].keys()
    # A clock that is read until it says something is read at other times.
    assert all(slow[0][site] == fast[0][site] for site in slow[0] if "hpet" not in site)
    assert slow[1] == fast[1]


def test_each_access_of_the_module_in_the_guest_is_replayed(swift: Run, tmp_path: Path) -> None:
    replayed = run(tmp_path, "replay", swift.trace)
    assert replayed.status == 0, replayed.out + replayed.err
    shown = run(tmp_path, "show", swift.trace, "--json", "--region", "nvme", "--limit", "1")
    (access,) = shown.objects
    assert access["via"] == "guest" and access["agrees"] is True
    assert int(access["tdvmcall"]["in"]["r14"], 0) == int(access["address"], 0) | 1 << 47


def test_an_access_of_the_module_in_the_guest_has_its_phase(tdx: Run, swift: Run) -> None:
    def phases(run: Run) -> set[tuple[str, str]]:
        events = Events()
        return {
            (event.access.region or "", event.phase or "")
            for record in read_trace(run.trace).records
            for event in events.add(record)
            if record.via == "guest"
        }

    slow, fast = phases(tdx), phases(swift)
    assert any(phase.startswith("initcall ") for _, phase in fast)
    # An interrupt is in the phase that it comes upon, and makes such accesses: doorbells.
    devices = {"nvme.msix-table", "virtio-blk.common", "virtio-net.common"}
    assert {it for it in fast if it[0] in devices} == {it for it in slow if it[0] in devices}


def test_what_a_person_is_asked_about_takes_stops_and_nothing_is_lost(tmp_path: Path) -> None:
    # The host says that the controller is gone. A ring of a few records fills at once.
    done = boot(
        tmp_path, "--guest", "tdx", "--kernel", kernel_for(Kind.TDX), "--quiet", "--check",
        "--ring", "16", "-e", "break nvme; continue; set value 0xffffffff; delete; continue",
    )  # fmt: skip
    assert agreed(done) > 0
    trace = read_trace(done.trace)
    assert any("disk nvme none" in line for line in done.serial)
    (lied,) = [
        (record, access)
        for record in trace.intercepts
        for access in record.accesses
        if access.region == "nvme" and access.device is not None
    ]
    assert lied[0].via == "guest" and lied[0].agrees and lied[1].value == 0xFFFF_FFFF
    counts = trace.end.counts
    assert counts["ve"] == counts["ve_info"] == counts["mmio_calls"] == counts["guest"] > 0
    assert counts["slow: full"] > 0 and not counts.get("disagreed")


def test_a_tdx_guest_of_two_vcpus_boots(tmp_path: Path) -> None:
    done = boot(
        tmp_path, "--guest", "tdx", "--kernel", kernel_for(Kind.TDX), "--quiet", "--check",
        "--realtime", "--", "-smp", "2",
    )  # fmt: skip
    assert agreed(done) > 0 and any("Brought up 1 node, 2 CPUs" in line for line in done.serial)
    counts = read_trace(done.trace).end.counts
    assert counts["ve"] == counts["ve_info"] == counts["mmio_calls"] > 0
    assert not counts.get("disagreed")


def test_a_tdx_guest_cannot_be_without_its_module(tmp_path: Path) -> None:
    words = ("--guest", "tdx", "--kernel", kernel_for(Kind.TDX), "--quiet")
    done = boot(tmp_path / "untraced", *words, "--untraced")
    assert done.status == 2 and "leaves a TDX guest without who answers it" in done.err
    done = boot(tmp_path / "alone", *words, "-e", "detach")
    assert done.status == 2 and "vetrace is its TDX module" in done.err + done.out


def test_call_chains_cost_stops_and_that_is_told_at_the_start(tmp_path: Path) -> None:
    words = ("--guest", "tdx", "--kernel", kernel_for(Kind.TDX), "--quiet", "--stacks")
    told = "each access takes a stop: there the stack of a TDX guest is read"
    first = "break read ioapic once; continue; backtrace; quit"
    done = boot(tmp_path / "stacks", *words, "-e", first)
    assert done.status == 0 and told in done.err and "start_kernel" in done.out
    done = boot(tmp_path / "asked", *words, "--every-stop", "-e", "quit")
    assert done.status == 0 and told not in done.err


def test_a_cpu_of_another_vendor_is_refused(tmp_path: Path) -> None:
    cpu = ("--", "-cpu", "max,la57=off,phys-bits=40,vendor=AuthenticAMD")
    done = boot(tmp_path, "--guest", "tdx", "--kernel", kernel_for(Kind.TDX), "--quiet", *cpu)
    assert done.status == 1 and "AuthenticAMD" in done.err and len(done.complaints) >= 1


# ---- a host that says no, a compiler that chose otherwise


def first_oops(done: Run) -> str:
    """The place of the guest's first oops, as its console has it."""
    lines = iter(done.serial)
    assert any("Oops: VE fault" in line for line in lines), done.serial[-40:]
    return next(line for line in lines if "RIP: 0010:" in line)


def meddled(folder: Path, *words: str) -> Run:
    # The probe hangs behind its oops.
    kernel = kernel_for(Kind.TDX)
    return boot(
        folder, "--guest", "tdx", "--kernel", kernel, "--every-stop", "--quiet",
        "--guest-timeout", "8", *words,
    )  # fmt: skip


def test_a_hypercall_that_is_refused_is_an_oops_at_the_read(tmp_path: Path) -> None:
    done = meddled(tmp_path, "--rule", "on read nvme.CSTS once do refuse")
    (refused,) = [
        record
        for record in read_trace(done.trace).intercepts
        if record.asked is not None and record.asked.returned["r10"]
    ]
    assert refused.symbol is not None and refused.symbol in first_oops(done)
    assert refused.accesses[0].region == "nvme" and refused.after == {}
    assert not any("WARNING" in line and "handle_mmio" in line for line in done.serial)
    assert run(tmp_path / "replayed", "replay", done.trace).status == 0


def test_another_instruction_is_what_the_guests_own_handler_rejects(tmp_path: Path) -> None:
    add = "break read nvme.CSTS once; continue; rewrite 03 00; continue"
    done = meddled(tmp_path, "-e", add)
    assert any("WARNING" in line and "handle_mmio" in line for line in done.serial)
    site = re.search(r"RIP: 0010:(\w+\+0x[0-9a-f]+)/", first_oops(done))
    assert site is not None
    trace = read_trace(done.trace)
    assert any(isinstance(r, UserRecord) and r.text == "rewrite 03 00" for r in trace.records)
    told = [record.text for record in trace.records if isinstance(record, Mark)]
    assert any("did not ask" in text and site[1] in text and "oops" in text for text in told)
