"""The Debian kernel, traced from its entry to its power-off; one boot serves many tests."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Set
from itertools import groupby
from pathlib import Path

import pytest
from vetrace_run import Run, Trace, boot, read_trace, run

from tracer.guest.disk import DISKS, checksum
from tracer.trace.mask import kept_bits
from tracer.trace.record import RegionRecord
from tracer.trace.varying import VARYING

pytestmark = pytest.mark.qemu

# A default guest has these; each of them Linux reaches.
REACHED = {
    "ecam", "hpet", "ioapic", "lapic", "nvme", "nvme.msix-table",
    "virtio-blk.common", "virtio-blk.device", "virtio-blk.notify", "virtio-blk.msix-table",
    "virtio-net.common", "virtio-net.device", "virtio-net.notify", "virtio-net.msix-table",
}  # fmt: skip


@pytest.fixture(scope="session")
def again(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return boot(tmp_path_factory.mktemp("again"))


@pytest.fixture(scope="session")
def stopped_again(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return boot(tmp_path_factory.mktemp("again"), "--quiet", "--every-stop")


@pytest.fixture(scope="session")
def untraced(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("untraced")
    return run(folder, "boot", "--untraced", "--serial", folder / "serial")


@pytest.fixture(scope="session")
def trace(either: Run) -> Trace:
    return read_trace(either.trace)


@pytest.fixture(scope="session")
def emulated(stopped: Run) -> Trace:
    return read_trace(stopped.trace)


# ---- complete and exact


def test_qemu_saw_the_same(either: Run) -> None:
    assert either.status == 0, either.err
    said = re.search(
        r"^(\d+) missing, (\d+) extra, (\d+) different over (\d+) accesses in (\d+) regions",
        either.err,
        re.MULTILINE,
    )
    assert said is not None, either.err
    missing, extra, different, accesses, regions = map(int, said.groups())
    assert (missing, extra, different) == (0, 0, 0)
    assert accesses == len(either.objects) >= 2000
    assert regions >= 7


def test_every_device_is_in_the_trace(trace: Trace) -> None:
    counts = Counter(
        access.region for record in trace.intercepts for _, access in record.device_accesses()
    )
    assert set(counts) >= REACHED
    announced = {
        r.region.name: r.region.traced for r in trace.records if isinstance(r, RegionRecord)
    }
    assert set(counts) <= set(announced)
    assert all(announced.values())


def test_mappings_from_the_kernels_entry_on(trace: Trace) -> None:
    first = {}
    for record in trace.intercepts:
        for _, access in record.device_accesses():
            first.setdefault(access.region, (record.symbol or "").partition("+")[0])
    # setup_arch reads the IOAPIC and LAPIC identifiers, long before any ioremap.
    assert "apic" in first["ioapic"] and "apic" in first["lapic"]


def test_the_emulator_knew_every_instruction(emulated: Trace) -> None:
    assert {record.via for record in emulated.intercepts} == {"emulated"}
    assert emulated.end.counts["emulated"] == emulated.end.counts["accesses"]


def test_nothing_was_left_to_a_step(trace: Trace) -> None:
    assert trace.end.outcome == "poweroff"
    assert trace.end.counts.get("stepped", 0) == 0
    widths = {access.width for r in trace.intercepts for _, access in r.device_accesses()}
    assert widths == {1, 2, 4, 8}


def test_registers_hold_what_the_device_gave(trace: Trace) -> None:
    loads = [
        r
        for r in trace.intercepts
        if r.text.startswith("mov e") and r.accesses[0].direction == "read"
    ]
    assert len(loads) > 100
    for record in loads:
        name = "r" + record.text.split()[1].rstrip(",")[1:]
        assert {**record.before, **record.after}[name] == record.accesses[0].value, record


def test_verify_agrees_and_sees_a_change(either: Run, tmp_path: Path) -> None:
    assert run(tmp_path, "verify", either.trace, "--qemu-log", either.qemu_log).status == 0
    lines = either.trace.read_bytes().splitlines(keepends=True)
    dropped = tmp_path / "dropped.vtrace"
    nth = [number for number, line in enumerate(lines) if b'"nvme"' in line and b'"mmio"' in line][
        7
    ]
    dropped.write_bytes(b"".join(lines[:nth] + lines[nth + 1 :]))
    worse = run(tmp_path, "verify", dropped, "--qemu-log", either.qemu_log)
    assert worse.status == 3
    assert "1 missing, 0 extra, 0 different" in worse.out


# ---- the guest cannot tell

# Its own words for the time of day, for durations, and for what both were calibrated to.
VARYING_WORDS = (
    (r"^\[ *\d+\.\d+\] ", ""),
    (r"audit\(\d+\.\d+:", "audit(TIME:"),
    (r"setting system clock to \S+ UTC \(\d+\)", "setting system clock to TIME"),
    (r"Marking stable \(.*", "Marking stable TIME"),
    (r"deferred pages initialised in \d+ms", "deferred pages initialised in TIME"),
    # Later kernels leave out of the count the functions that have a filter in front.
    (r"ftrace: allocating \d+ entries", "ftrace: allocating N entries"),
)
# The clock-source watchdog compares two clocks over a delay that it measures, and decides by it
# whether the TSC is calibrated further before the guest is done.
WATCHDOG = re.compile(
    r"clocksource: timekeeping watchdog on CPU\d: hpet (wd-wd )?read-back delay of"
    r"|clocksource: wd-tsc-early-wd read-back delay of"
    r"|tsc: Refined TSC clocksource calibration:"
    r"|clocksource: tsc: mask:"
    r"|clocksource: Switched to clocksource tsc$"
    r"|vetrace-guest: clocksource tsc(-early)?$"
)
# Devices that are probed by worker threads: who comes first depends on the scheduler, and for a
# disk on when the host's has answered.
CONCURRENT = re.compile(
    r"input: AT Translated Set 2 keyboard as|ACPI: \\_SB_\.GSI[A-H]: Enabled"
    r"|nvme nvme\d+: | *nvme\d+n\d+:"
)


def said(run: Run) -> tuple[list[str], list[str]]:
    """What the guest said in order, and what it said in any order, without times."""
    ordered, concurrent = [], []
    for line in run.serial:
        for pattern, word in VARYING_WORDS:
            line = re.sub(pattern, word, line)
        if WATCHDOG.match(line):
            continue
        if CONCURRENT.match(line):
            concurrent.append(re.sub(r"input\d+$", "inputN", line))
        else:
            ordered.append(line)
    return ordered, sorted(concurrent)


def test_the_guest_says_the_same_as_untraced(stopped: Run, untraced: Run) -> None:
    assert untraced.status == 0, untraced.err
    expected, actual = said(untraced), said(stopped)
    assert len(expected[0]) > 300
    assert actual[0] == expected[0]
    assert actual[1] == expected[1]


# What it says of its RAM, of which it has less where it makes accesses by itself.
RAM = re.compile(
    r"BIOS-e820: |Built 1 zonelists|Memory: | +node +0: \[mem|On node 0, zone "
    r"|PM: hibernation: Registered nosave memory"
)


def test_all_that_a_guest_which_makes_accesses_by_itself_lacks_is_ram(
    traced: Run, untraced: Run
) -> None:
    expected, actual = said(untraced), said(traced)
    beside = [
        [line for line in ordered if not RAM.match(line)] for ordered, _ in (expected, actual)
    ]
    assert len(beside[0]) > 300
    assert beside[1] == beside[0]
    assert actual[1] == expected[1]
    taken = set(actual[0]) - set(expected[0])
    assert any(line.startswith("BIOS-e820") and line.endswith("reserved") for line in taken)


def test_disks_read_right(either: Run) -> None:
    for name in DISKS:
        assert f"vetrace-guest: disk {name} {checksum(name)}" in either.serial
    assert "vetrace-guest: done" in either.serial


def test_ordinary_page_faults_do_not_stop_the_guest(trace: Trace) -> None:
    counts = trace.end.counts
    assert counts["stops"] == counts["intercepts"] + counts["hooks"]
    by_stops = [record for record in trace.intercepts if record.via != "compiled"]
    assert counts["intercepts"] == len(by_stops)
    assert counts["hooks"] < 500


# ---- repeatable


Seen = tuple[str, int | None, int, int | None]


# The driver rings once for all completions that it finds, and the host's disk decides how many.
COMPLETION_DOORBELLS = {("nvme", 0x1004), ("nvme", 0x100C)}


# The main counter, which the watchdog of the clock source reads, and timer 1, which makes the alarm
# of an emulated RTC (IA-PC HPET Specification 1.0a, 2.3): as often as time passes.
CLOCKS = {("hpet", 0xF0), ("hpet", 0x120), ("hpet", 0x128)}


# The comparator of timer 2, which is written for as long as a millisecond takes, as often as it can
# be (Linux drivers/char/hpet.c, __hpet_calibrate).
POLLED = {("hpet", 0x148)}

# The queue of requests is rung for all that the driver has put there, and how much that is depends
# on how far it has got, unless a stop holds it up each time.
REQUESTS = {("nvme", 0x1008)}


def accesses(trace: Trace, without: Set[tuple[str, int]]) -> dict[str, list[Seen]]:
    """Direction, offset, width and value of each access, by region; values of times left out."""
    found = defaultdict(list)
    for record in trace.intercepts:
        for _, access in record.device_accesses():
            assert access.region is not None
            if (access.region, access.offset) in without:
                continue
            value = None if access.region == "hpet" else access.value
            if value is not None:
                # Where in RAM a driver has its queues is chance.
                at = access.offset or 0
                value &= kept_bits(VARYING, access.region, at, access.width)
            if access.region == "ioapic" and access.offset == 0x10:
                # The low byte of a redirection entry is the vector. Drivers that probe side by
                # side get theirs in the order in which the host's disk lets them go on.
                value = (value or 0) & ~0xFF
            found[access.region].append((access.direction, access.offset, access.width, value))
    return found


@pytest.mark.parametrize("one", ["traced", "stopped"])
@pytest.mark.parametrize("other", ["again", "stopped_again"])
def test_two_boots_make_the_same_accesses(
    one: str, other: str, request: pytest.FixtureRequest
) -> None:
    runs: list[Run] = [request.getfixturevalue(name) for name in (one, other)]
    assert all(run.status == 0 for run in runs), runs[1].err
    stops = (one, other) == ("stopped", "stopped_again")
    without = COMPLETION_DOORBELLS | CLOCKS | (set() if stops else POLLED | REQUESTS)
    first, second = (accesses(read_trace(run.trace), without) for run in runs)
    if not stops:
        # Who polls a status goes round as often as there is time until it changes.
        first, second = (
            {region: [seen for seen, _ in groupby(made)] for region, made in found.items()}
            for found in (first, second)
        )
    assert set(first) == set(second)
    # The LAPIC is the guest's timer. A virtio driver rings once for all that it has queued, and
    # how much that is depends on when the host's disk has answered.
    doorbells = {region for region in first if region.endswith(".notify")}
    for region in sorted(set(first) - {"lapic"} - doorbells):
        assert first[region] == second[region], region
    for region in doorbells:
        assert set(first[region]) == set(second[region]), region


# ---- what is shown

KEYS = {
    "seq", "time_ns", "vcpu", "rip", "symbol", "bytes", "text", "region", "offset", "address",
    "width", "direction", "value", "via", "register", "fields",
}  # fmt: skip


def test_json_is_one_object_an_access(either: Run) -> None:
    objects = either.objects
    assert [item["seq"] for item in objects] == list(range(len(objects)))
    assert [item["time_ns"] for item in objects] == sorted(item["time_ns"] for item in objects)
    for item in objects:
        assert item.keys() >= KEYS
        assert item["direction"] in ("read", "write")
        assert item["width"] in (1, 2, 4, 8)
        for key in ("rip", "offset", "address", "value"):
            assert re.fullmatch(r"0x[0-9a-f]+", item[key]), item
        assert re.fullmatch(r"([0-9a-f]{2}){1,15}", item["bytes"]), item
        assert re.fullmatch(r"\w[\w.]*\+0x[0-9a-f]+(/0x[0-9a-f]+)?( \[\w+\])?", item["symbol"]), (
            item
        )


def test_every_access_is_to_a_register_with_a_name(traced: Run) -> None:
    nameless = {(item["region"], item["offset"]) for item in traced.objects if not item["register"]}
    assert not nameless
    indirect = {item["register"] for item in traced.objects if item["offset"] == "0x10"}
    assert {"REDTBL[0].LOW", "REDTBL[23].HIGH", "VER"} <= indirect and "IOWIN" not in indirect


def test_lines_are_shown_while_it_boots(again: Run) -> None:
    lines = [line for line in again.out.splitlines() if re.match(r"\s*\d+\.\d+", line)]
    assert len(lines) == len(read_trace(again.trace).intercepts)
    assert any("nvme" in line and "mov" in line for line in lines)


def test_show_selects(traced: Run, tmp_path: Path) -> None:
    shown = run(tmp_path, "show", traced.trace, "--region", "nvme", "--write", "--json")
    assert shown.status == 0, shown.err
    wanted = [
        item
        for item in traced.objects
        if item["region"].partition(".")[0] == "nvme" and item["direction"] == "write"
    ]
    # What stands between the accesses of a trace, such as a marker, a live line does not tell.
    live = [{name: item[name] for name in wanted[0]} for item in shown.objects]
    assert live == wanted
    function = next(i for i in traced.objects if i["region"] == "ioapic")["symbol"].partition("+")[
        0
    ]
    limited = run(tmp_path, "show", traced.trace, "--symbol", function, "--limit", "3")
    assert len(limited.out.splitlines()) == 3
    assert all("ioapic" in line for line in limited.out.splitlines())


def test_stats_count_everything(traced: Run, tmp_path: Path) -> None:
    stats = run(tmp_path, "stats", traced.trace)
    assert stats.status == 0, stats.err
    for region, count in Counter(item["region"] for item in traced.objects).items():
        row = re.search(rf"^ *{re.escape(region)} +([\d,]+) +([\d,]+) ", stats.out, re.MULTILINE)
        assert row is not None, region
        assert sum(int(cell.replace(",", "")) for cell in row.groups()) == count, region
