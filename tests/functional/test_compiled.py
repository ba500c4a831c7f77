"""Compiled sites on Debian's kernel: what QEMU saw, what the emulator says, and who takes stops."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest
from vetrace_run import Run, agreed, at_odds, boot, need, read_trace, run, vetrace

from tracer.compiled.layout import REASONS
from tracer.confidential.handler import CURRENT, PROFILES, judge
from tracer.linux.kernel import default_kernel, read_facts
from tracer.trace.phase import PhaseTracker
from tracer.trace.record import Intercept, StackRecord
from tracer.x86.decode import decode
from tracer.x86.state import Mode

pytestmark = pytest.mark.qemu

OFTEN = 100
OVMF = Path("/usr/share/OVMF")
BEYOND = 444 << 30
"""Physical addresses from here on are not in the low part of the window."""


def compiled(folder: Path, *options: str, extra: tuple[str, ...] = ()) -> Run:
    """Boot with compiled sites and compare with QEMU's log."""
    return boot(folder, "-v", "--quiet", "--check", *options, "--", *extra)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return compiled(tmp_path_factory.mktemp("compiled"))


def test_qemu_saw_the_same_and_nearly_all_of_it_took_no_stop(done: Run) -> None:
    accesses = agreed(done)
    trace = read_trace(done.trace)
    counts = trace.end.counts
    assert counts["accesses"] == accesses and trace.end.outcome == "poweroff"
    assert counts["compiled"] > OFTEN * counts["emulated"] / 2 and not counts.get("stepped")
    assert not counts.get("disagreements")
    # An instruction goes the slow way once, and when its code or the ring says so.
    slow = sum(counts.get(f"slow: {name}", 0) for name in REASONS)
    assert counts["emulated"] <= slow and counts["sites"] <= counts["emulated"]
    assert not any(name.startswith("not compiled") for name in counts)


def test_records_are_in_the_order_of_the_guests_time(done: Run) -> None:
    intercepts = read_trace(done.trace).intercepts
    times = [record.time_ns for record in intercepts]
    assert times == sorted(times)
    assert {record.via for record in intercepts} == {"emulated", "compiled"}
    # The first of each place is the emulator's.
    met: set[int] = set()
    for record in intercepts:
        assert record.rip in met or record.via == "emulated"
        met.add(record.rip)


def test_the_emulator_comes_to_the_same_for_each_record(done: Run, tmp_path: Path) -> None:
    again = run(tmp_path, "replay", done.trace)
    assert again.status == 0, again.out + again.err
    assert "no divergence" in again.out


def test_the_closing_table_counts_three_ways(done: Run) -> None:
    assert re.search(r"emulated +compiled +stepped", done.out)
    assert re.search(r"\d+ emulated, 0 stepped, \d+ compiled at \d+ sites", done.err)


# What follows the time: a clock that is polled, interrupts; NVMe's completions come from the host.
TIMED = {"hpet", "lapic"}
DOORBELLS = 0x1000


def by_region(done: Run) -> dict[str, list[tuple[str, int, int]]]:
    """Direction, offset and width of each access, without repeats, by region."""
    found: dict[str, list[tuple[str, int, int]]] = {}
    for record in read_trace(done.trace).intercepts:
        for access in record.accesses:
            region, offset = access.region, access.offset or 0
            if region is None or region in TIMED or (region == "nvme" and offset >= DOORBELLS):
                continue
            found.setdefault(region, []).append((access.direction, offset, access.width))
    return {
        region: [access for access, _ in groupby(accesses)] for region, accesses in found.items()
    }


@pytest.fixture(scope="module")
def stops(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return boot(tmp_path_factory.mktemp("stops"), "--quiet", "--every-stop", "--check")


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return boot(tmp_path_factory.mktemp("chains"), "--quiet", "--stacks", "--check")


def test_the_accesses_are_those_that_take_a_stop_each(done: Run, stops: Run) -> None:
    agreed(stops)
    assert read_trace(stops.trace).end.counts["emulated"] > 3000
    theirs, ours = by_region(stops), by_region(done)
    assert ours.keys() == theirs.keys() and len(ours) > 10
    for region, accesses in theirs.items():
        assert ours[region] == accesses, region


def test_what_compiled_sites_take_is_told_to_who_asks(done: Run) -> None:
    counts = read_trace(done.trace).end.counts
    said = done.err
    assert f"{counts['sites']} compiled sites, of {counts['thunks']:,} bytes" in said
    assert f"{counts['block'] >> 10:,} KiB of the guest's RAM" in said
    assert f"{counts['entries']} entries of the page table" in said
    slow = counts["slow: absent"]
    assert f"{slow:,} accesses took a stop: their instruction had no compiled site yet" in said


def test_who_asks_for_a_stop_at_each_access_has_that_said_in_a_line(tmp_path: Path) -> None:
    done = boot(tmp_path, "--quiet", "--every-stop", "--region", "virtio-blk.device")
    assert done.status == 0, done.err
    counts = read_trace(done.trace).end.counts
    assert counts["emulated"] == counts["accesses"] == counts["intercepts"]
    (line,) = [line for line in done.err.splitlines() if ": tracing " in line]
    assert line.endswith("regions, with a stop at each access")


def test_a_ring_that_is_full_loses_nothing(tmp_path: Path) -> None:
    done = compiled(tmp_path, "--ring", "16")
    agreed(done)
    counts = read_trace(done.trace).end.counts
    assert counts["slow: full"] and counts["compiled"] > counts["emulated"]


def test_a_kernel_that_moves_and_has_other_tables_for_programs(tmp_path: Path) -> None:
    agreed(compiled(tmp_path, "--kaslr", "--append", "pti=on"))


def test_page_tables_of_five_levels(tmp_path: Path) -> None:
    done = compiled(tmp_path, extra=("-cpu", "max,la57=on"))
    agreed(done)
    trace = read_trace(done.trace)
    assert trace.end.counts["compiled"] > OFTEN and "disagrees" not in done.err
    mapped = [access.linear for record in trace.intercepts for access in record.accesses]
    assert any(linear < 0xFFFF_8000_0000_0000 for linear in mapped), "that takes a fifth level"


def test_a_cpu_model_that_announces_no_pages_of_a_gib(tmp_path: Path) -> None:
    # Its CPUID says so; QEMU translates by such leaves all the same.
    done = compiled(tmp_path, extra=("-cpu", "Haswell"))
    agreed(done)
    assert read_trace(done.trace).end.counts["compiled"] > OFTEN
    assert "takes a stop" not in done.err


def test_what_a_guest_did_before_qemu_was_killed_is_all_there(tmp_path: Path) -> None:
    log = tmp_path / "qemu.log"
    with vetrace(
        tmp_path, "boot", "--quiet", "--qemu-log", log,
        "-o", tmp_path / "trace.vtrace", "--serial", tmp_path / "serial",
    ) as running:  # fmt: skip
        serial = tmp_path / "serial"
        running.until(
            lambda: serial.exists() and b"clocksource: Switched" in serial.read_bytes(), "its clock"
        )
        os.kill(running.pid_of("qemu"), signal.SIGKILL)
        done = running.finish()
    assert done.status == 1 and len(done.complaints) > 0 and "Traceback" not in done.err
    checked = run(tmp_path, "verify", tmp_path / "trace.vtrace", "--qemu-log", log)
    # It may have ended in the middle of an access.
    assert at_odds(checked.out) <= 2, checked.out
    counts = read_trace(tmp_path / "trace.vtrace").end.counts
    assert counts["accesses"] > 5000
    assert counts["compiled"] > OFTEN * counts["emulated"] / 2


@pytest.mark.parametrize("ring", ["8192", pytest.param("16", marks=pytest.mark.long)])
def test_four_vcpus_in_real_time(ring: str, tmp_path: Path) -> None:
    done = compiled(tmp_path, "--realtime", "--ring", ring, extra=("-smp", "4"))
    agreed(done)
    assert not any("Kernel panic" in line for line in done.serial)
    trace = read_trace(done.trace)
    assert {record.vcpu for record in trace.intercepts if record.via == "compiled"} == {0, 1, 2, 3}
    counts = trace.end.counts
    assert not counts.get("disagreements")
    if ring == "16":  # how full a large one becomes is for the host's speed to say
        assert counts["slow: full"]


@pytest.mark.long
def test_devices_that_firmware_has_put_beyond_all_ram(tmp_path: Path) -> None:
    code, variables = OVMF / "OVMF_CODE_4M.fd", OVMF / "OVMF_VARS_4M.fd"
    need(code.exists(), "ovmf")
    shutil.copy(variables, tmp_path / "variables")
    drives = (
        "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}",
        "-drive", f"if=pflash,unit=1,format=raw,file={tmp_path / 'variables'}",
    )  # fmt: skip
    done = compiled(tmp_path, extra=drives)
    agreed(done)
    trace = read_trace(done.trace)
    made = [
        record.via for record in trace.intercepts
        if any(a.region and a.physical >= BEYOND for a in record.accesses)
    ]  # fmt: skip
    assert made.count("compiled") > OFTEN
    assert trace.end.counts["emulated"] < 2 * trace.end.counts["sites"]


def test_two_vcpus_make_accesses_at_once(tmp_path: Path) -> None:
    done = compiled(tmp_path, "--realtime", extra=("-smp", "2"))
    agreed(done)
    trace = read_trace(done.trace)
    ways = {(record.vcpu, record.via) for record in trace.intercepts}
    assert {(0, "compiled"), (1, "compiled")} <= ways
    assert not trace.end.counts.get("disagreements")


def test_a_ring_that_cannot_be_is_refused(tmp_path: Path) -> None:
    for size in ("0", "3", "x"):
        refused = boot(tmp_path, "--ring", size)
        assert refused.status == 2 and f"--ring {size}" in refused.err


STEPS = """
until {}ms
next hpet
step 1000
next nvme
break if region == virtio-blk.notify
tbreak read virtio-blk.device if count == 3
continue
info breaks
continue
continue
delete
continue
"""


def test_a_person_passes_many_accesses_without_a_stop_each(tmp_path: Path) -> None:
    script = tmp_path / "script"
    image = default_kernel()
    assert image is not None
    # A later kernel is unpacked for longer, and its first access comes at 1.5 s.
    early = 600 if read_facts(image).release.startswith("6.1.") else 1700
    script.write_text(STEPS.format(early))
    done = boot(tmp_path, "--check", "--json", "-x", script)
    agreed(replace(done, out=done.err))
    told = [item["result"] for item in done.objects if item["type"] == "command"]
    until, hpet, stepped, nvme, _, _, third, breaks, rung, again, *_ = told
    trace = read_trace(done.trace)
    made = [(seq, access.region) for r in trace.intercepts for seq, access in r.device_accesses()]
    times = {r.seq: r.time_ns for r in trace.intercepts}
    assert (
        until["access"]["seq"] == min(seq for seq, at in times.items() if at >= early * 10**6) > 9
    )
    # The guest stands before the first access of the region, and a thousand accesses later.
    begin = until["access"]["seq"]
    first = next(seq for seq, region in made if region == "hpet" and seq > begin)
    assert (hpet["access"]["seq"], stepped["access"]["seq"]) == (first, first + 1000)
    other = next(seq for seq, region in made if region == "nvme" and seq > first + 1000)
    assert nvme["access"]["seq"] == other
    read = [seq for seq, region in made if region == "virtio-blk.device"]
    assert third["access"]["seq"] == read[2]
    assert [item["hits"] for item in breaks] == [0]
    bells = [seq for seq, region in made if region == "virtio-blk.notify"]
    assert [rung["access"]["seq"], again["access"]["seq"]] == bells[:2]
    ways = {r.seq: r.via for r in trace.intercepts}
    passed = [way for seq, way in ways.items() if first < seq < first + 1000]
    assert passed.count("compiled") > len(passed) / 2


BREAKS = """
tbreak if count == 2000
continue
tbreak if time >= 1s and direction == read
continue
tbreak write if function ~ nvme_*
continue
break if module == nothing pending
tbreak verdict
continue
"""


def test_a_guest_runs_to_breaks_that_have_no_place_without_a_stop_for_each_access(
    tmp_path: Path,
) -> None:
    script = tmp_path / "script"
    script.write_text(BREAKS)
    done = boot(tmp_path, "--check", "--json", "-x", script)
    agreed(replace(done, out=done.err))
    told = [item["result"] for item in done.objects if item.get("command") == "continue"]
    counted, timed, named, judged = (item.get("access", {}).get("seq") for item in told[:4])
    trace = read_trace(done.trace)
    made = [(seq, r, access) for r in trace.intercepts for seq, access in r.device_accesses()]
    # Each is the first one that fits, from where the guest stood.
    assert counted == 1999
    late = (seq for seq, r, access in made if r.time_ns >= 10**9 and access.direction == "read")
    assert timed == next(seq for seq in late if seq >= counted)
    writes = (
        seq for seq, r, access in made
        if access.direction == "write" and (r.symbol or "").startswith("nvme_")
    )  # fmt: skip
    assert named == next(seq for seq in writes if seq >= timed)
    refused = (seq for seq, r, _ in made if seq >= named and is_refused(r))
    assert judged == next(refused, None)
    # Nearly all accesses before it took no stop.
    counts = trace.end.counts
    assert counts["emulated"] < counts["accesses"] / 10


def is_refused(record: Intercept) -> bool:
    insn = decode(record.code + bytes(15), record.rip, Mode.LONG)
    return judge(PROFILES[CURRENT], insn, cpl=record.cpl, linear=record.cr2).outcome == "oops"


PROMPT = """
break write nvme.CC
continue
delete
break write lapic+0xb0 if count == 50
continue
info breaks
set value 0
delete
"""


@pytest.mark.parametrize("leave", ["continue", "detach"])
def test_a_break_stops_a_site_that_was_compiled_and_the_guest_goes_on(
    tmp_path: Path, leave: str
) -> None:
    script = tmp_path / "script"
    script.write_text(PROMPT + leave)
    check = ("--check",) if leave == "continue" else ()
    done = boot(tmp_path, "--quiet", *check, "-x", script)
    assert done.status == 0, done.out + done.err
    assert re.search(r"1 hit +write lapic\+0xb0 if count == 50", done.out)
    trace = read_trace(done.trace)
    assert trace.end.outcome == "poweroff"
    counts = trace.end.counts
    assert counts["slow: stopped"] >= 50 and counts["compiled"] > OFTEN
    ends = [
        record.via for record in trace.intercepts
        if any(access.region == "lapic" and access.offset == 0xB0 for access in record.accesses)
    ]  # fmt: skip
    # By itself, then as long as the break is there by a stop, then by itself again.
    ways = [way for way, _ in groupby(ends)]
    again = ["compiled"] if leave == "continue" else []
    assert ways[-2 - len(again) :] == ["compiled", "emulated", *again]
    if leave == "continue":
        agreed(done)
    assert any("reboot: Power down" in line for line in done.serial)
    if leave == "detach":
        assert "entries for compiled sites stay" not in done.err


# No interrupt makes an access to these, so each belongs to what a thread does. That leaves out what
# tells the time and doorbells; the IOAPIC, whose entry the kernel masks or writes anew when an edge
# comes (`handle_edge_irq`: `mask_ack_irq`, `irq_move_irq`), in whatever initcall that is; and the
# MSI-X table of virtio-net, which asks for a CPU for each interrupt, and gets it when one comes.
TOLD_ALIKE = ("ecam", "virtio-blk.common", "virtio-net.common", "virtio-blk.msix-table",
              "nvme.msix-table")  # fmt: skip

Labelled = tuple[str, int, int, str | None]


def labelled(done: Run) -> dict[str, list[Labelled]]:
    """Direction, offset, width and phase of each access in its order, by region."""
    tracker, found = PhaseTracker(), dict[str, list[Labelled]]()
    for record in read_trace(done.trace).records:
        phase = tracker.add(record)
        if isinstance(record, Intercept):
            for _, access in record.device_accesses():
                label = access.direction, access.offset or 0, access.width, phase
                found.setdefault(access.region or "", []).append(label)
    return found


def made_in_interrupts(done: Run) -> set[str]:
    """The regions of accesses whose call chain begins with an interrupt."""
    records = read_trace(done.trace).records
    outermost = {r.id: r.frames[-1].site for r in records if isinstance(r, StackRecord)}
    return {
        access.region or "" for r in records
        if isinstance(r, Intercept) and outermost[r.stack or 0].startswith("asm_")
        for _, access in r.device_accesses()
    }  # fmt: skip


def phases_of(accesses: dict[str, list[Labelled]]) -> set[str | None]:
    return {phase for told in accesses.values() for *_, phase in told}


@pytest.mark.parametrize("way", ["stops", pytest.param("chains", marks=pytest.mark.long)])
def test_phases_are_those_that_stops_and_call_chains_tell(
    done: Run, way: str, request: pytest.FixtureRequest
) -> None:
    other = request.getfixturevalue(way)
    agreed(other)
    own, theirs = labelled(done), labelled(other)
    assert None not in phases_of(own) | phases_of(theirs)
    for region in TOLD_ALIKE:
        assert own[region] == theirs[region], region
    if way == "chains":
        interrupted = made_in_interrupts(other)
        assert "lapic" in interrupted and interrupted.isdisjoint(TOLD_ALIKE)
    kinds = {(phase or "").partition(" ")[0] for phase in phases_of(own)}
    assert kinds >= {"early", "kernel", "initcall", "work", "thread", "user"}


def test_no_access_is_without_a_phase_on_several_vcpus_and_a_kernel_that_moves(
    tmp_path: Path,
) -> None:
    words = ("--quiet", "--realtime", "--kaslr", "--", "-smp", "3")
    done = boot(tmp_path, *words)
    told = labelled(done)
    assert read_trace(done.trace).end.counts["compiled"] > OFTEN and None not in phases_of(told)
    assert any((phase or "").startswith("work ") for *_, phase in told["nvme"])


def test_conditions_choose_by_the_phase_of_accesses_without_a_stop(
    done: Run, tmp_path: Path
) -> None:
    shown = run(tmp_path, "show", done.trace, "--json", "--if", "phase ~ 'work nvme*'")
    lines = [json.loads(line) for line in shown.out.splitlines()]
    assert lines and {line["region"].partition(".")[0] for line in lines} > {"nvme"}
    assert "compiled" in {line["via"] for line in lines}
    counted = run(tmp_path, "stats", done.trace, "--json", "--phase", "work nvme*")
    assert json.loads(counted.out)["accesses"] == len(lines)


def test_a_detached_guest_goes_on_with_its_errands(tmp_path: Path) -> None:
    # In the middle of one: what it sleeps in returns through code of vetrace's.
    guest = boot(tmp_path, "-e", "break if region is nvme; continue; detach")
    assert guest.status == 0, guest.out + guest.err
    serial = (tmp_path / "serial").read_text(errors="replace")
    assert not re.search(r"Oops|BUG:|WARNING:|Call Trace", serial)
    told = labelled(guest)
    assert told["ecam"] and "user space" not in phases_of(told)
