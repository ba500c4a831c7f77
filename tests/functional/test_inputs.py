"""What else the host gives a Linux guest: ports, MSRs, CPUID, in one order with its accesses."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from debian_kernel import kernel_of
from inputs_witness import ports
from vetrace_run import Run, agreed, boot, drove_its_devices, read_trace, run

from tracer.host.package import METAPACKAGE
from tracer.trace.record import Intercept, StackRecord

pytestmark = pytest.mark.qemu

FULL = "linux-image-amd64"
AHCI_DISK = (
    "-drive", "if=none,id=sata,driver=null-co,size=1M", "-device", "ide-hd,drive=sata,bus=ide.0",
)  # fmt: skip
SERIAL, PIT, CONFIGURATION = 0x3F8, 0x42, 0xCFC


def inputs(folder: Path, *options: str | Path) -> Run:
    return boot(folder, "--inputs", "--check", "--quiet", *options)


def unwitnessed(done: Run) -> str:
    (said,) = [line for line in done.out.splitlines() if line.startswith("without a witness")]
    return said


def attributed(done: Run, untold: float = 0.0) -> int:
    """Return how many interrupts there are, each of the cause that QEMU's messages tell.

    Those of messages have these before them, with the address and the data that QEMU sent. Of a
    share of them the messages may tell nothing.
    """
    *_, came = re.findall(r"^ irq +([\d,]+) ", done.out, re.MULTILINE)
    (told,) = re.findall(
        r"^([\d,]+) interrupts have the cause that the messages tell$", done.out, re.MULTILINE
    )
    number = int(came.replace(",", ""))
    assert number * (1 - untold) <= int(told.replace(",", "")) <= number
    (messages,) = re.findall(r"^ msi +([\d,]+) +([\d,]+) +0 +0 +0", done.out, re.MULTILINE)
    assert messages[0] == messages[1]
    assert re.search(r"^\d+ MSI messages from devices$", done.out, re.MULTILINE)
    return number


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("default")
    return inputs(folder, "--qemu-log", folder / "qemu.log")


@pytest.fixture(scope="module")
def records(default: Run) -> list[Intercept]:
    return read_trace(default.trace).intercepts


def test_ports_and_memory_are_those_of_qemus_log(default: Run) -> None:
    assert agreed(default) > 50_000
    assert re.fullmatch(
        r"without a witness in QEMU's log: [\d,]+ cpuid, [\d,]+ msr", unwitnessed(default)
    )
    assert re.search(r"^ irq +[\d,]{3,} ", default.out, re.MULTILINE)
    (sent,) = re.findall(r"^sent by: (.*)$", default.out, re.MULTILINE)
    assert re.search(r"ioapic pin 4 \d+, .*nvme\[1\] \d+", sent)
    assert "unknown" not in sent
    assert attributed(default) > 1000
    drove_its_devices(default)


def test_everything_is_in_one_order(records: list[Intercept]) -> None:
    numbers = [number for record in records for number, _ in record.device_accesses()]
    assert numbers == list(range(len(numbers)))
    times = [record.time_ns for record in records]
    assert times == sorted(times)
    spaces = [record.accesses[0].space for record in records]
    assert set(spaces) == {"memory", "port", "msr", "cpuid", "irq", "msi"}
    turns = sum(a != b for a, b in pairwise(spaces))
    assert turns > 100


def test_who_accessed_what_is_told(records: list[Intercept]) -> None:
    at = {access.physical: record for record in records for access in record.accesses
          if access.space == "port"}  # fmt: skip
    assert (at[SERIAL].symbol or "").startswith("io_serial_")
    assert at[SERIAL].accesses[0].region == "isa-serial.serial"
    assert (at[CONFIGURATION].symbol or "").startswith("pci_conf1_")
    assert {record.text.split()[0] for record in records if record.via == "monitor"} >= {
        "in", "out", "rdmsr", "wrmsr", "cpuid", "interrupt",
    }  # fmt: skip
    assert any(record.cpl == 3 for record in records)


def test_a_guest_finds_neither_svm_nor_its_bit_in_efer(records: list[Intercept]) -> None:
    values = {
        (access.physical, access.offset or 0): access.value or 0
        for record in records
        for access in record.accesses
        if access.space in ("cpuid", "msr")
    }
    features = [
        v for (leaf, at), v in values.items() if leaf & 0xFFFFFFFF == 0x80000001 and at % 16 == 8
    ]
    assert features and not any(value & 4 for value in features)
    efer = [v for (index, _), v in values.items() if index == 0xC0000080]
    assert efer and not any(value & 1 << 12 for value in efer)


def test_the_trace_holds_to_its_instructions_and_is_read_by_all(
    default: Run, tmp_path: Path
) -> None:
    assert run(tmp_path, "replay", default.trace).status == 0
    shown = run(tmp_path, "show", "--json", "--if", "space == port and port == 0x64", default.trace)
    lines = [json.loads(line) for line in shown.out.splitlines()]
    assert lines and all(line["space"] == "port" for line in lines)
    stats = json.loads(run(tmp_path, "stats", "--json", default.trace).out)
    assert stats["monitor"] > 50_000
    causes = {each["cause"]: each["interrupts"] for each in stats["causes"]}
    assert causes.keys() >= {"lapic timer", "ioapic pin 4", "nvme[1]", "virtio-blk[1]"}
    assert "unknown" not in causes
    asked = run(tmp_path, "show", "--json", "--if", 'cause == "nvme[1]"', default.trace)
    told = [json.loads(line) for line in asked.out.splitlines()]
    assert len(told) == causes["nvme[1]"] and all(each["space"] == "irq" for each in told)
    asked = run(tmp_path, "show", "--json", "--if", 'source == "nvme[1]"', default.trace)
    sent = [json.loads(line) for line in asked.out.splitlines()]
    assert [each["seq"] + 1 for each in sent] == [each["seq"] for each in told]
    vectors = [int(each["value"], 16) for each in told]
    assert [int(each["data"], 16) & 0xFF for each in sent] == vectors
    # Destination 1, logical or physical, as the kernel has it (SDM vol. 3A, 11.11.1).
    assert {each["address"] for each in sent} <= {"0xfee01004", "0xfee00000"}
    assert run(tmp_path, "diff", default.trace, default.trace).status == 0


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--kaslr",), marks=pytest.mark.long),
        pytest.param(("--append", "pti=on"), marks=pytest.mark.long),
        ("--realtime", "--", "-smp", "2"),
        pytest.param(("--realtime", "--", "-smp", "3"), marks=pytest.mark.long),
        pytest.param(("--realtime", "--", "-smp", "4"), marks=pytest.mark.long),
        ("--", "-cpu", "Skylake-Server-v1"),
        pytest.param(("--", "-cpu", "EPYC"), marks=pytest.mark.long),
        pytest.param(("--", "-cpu", "max"), marks=pytest.mark.long),
    ],
    ids=["kaslr", "pti", "two", "three", "four", "intel", "amd", "five-levels"],
)
def test_other_guests(options: tuple[str, ...], tmp_path: Path) -> None:
    done = inputs(tmp_path, *options)
    assert agreed(done) > 50_000
    # One vCPU may serve a message before the thread of another has written that it sent it.
    assert attributed(done, untold=0.001 if "-smp" in options else 0.0) > 100
    drove_its_devices(done)


@pytest.mark.long
@pytest.mark.parametrize(
    ("suite", "metapackage", "words"),
    [
        (None, FULL, ("--module", "ahci")),
        (None, "linux-image-rt-amd64", ("--append", "loglevel=5")),
        ("trixie", FULL, ()),
        ("trixie-backports", METAPACKAGE, ()),
    ],
)
def test_other_kernels(
    suite: str | None, metapackage: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    done = inputs(tmp_path, "--kernel", kernel_of(suite, metapackage), *words, "--", *AHCI_DISK)
    assert agreed(done) > 50_000
    drove_its_devices(done)
    (sent,) = re.findall(r"^sent by: (.*)$", done.out, re.MULTILINE)
    assert "unknown" not in sent
    # Its messages are those of a capability, which has no table.
    assert ("00:1f.2 msi" in sent) == ("ahci" in words)


def test_each_vcpu_leaves_records(tmp_path: Path) -> None:
    done = boot(tmp_path, "--inputs=msr,cpuid", "--quiet", "--realtime", "--", "-smp", "2")
    assert done.status == 0, done.err
    made = [r for r in read_trace(done.trace).intercepts if r.via == "monitor"]
    assert {record.vcpu for record in made} == {0, 1}
    assert not ports(made)


def test_call_chains_are_recorded_with_them_and_a_small_ring_holds_the_guest(
    tmp_path: Path,
) -> None:
    done = inputs(tmp_path, "--stacks", "--ring", "256")
    assert agreed(done) > 50_000
    trace = read_trace(done.trace)
    made = [r for r in trace.intercepts if r.via == "monitor"]
    # An interrupt may come upon code of vetrace's own, which no table tells of.
    lost = [record for record in trace.records if isinstance(record, StackRecord) and record.lost]
    assert [record for record in lost if len(record.frames) > 1] == []
    assert all((record.stack is not None) == (record.cpl == 0) for record in made)
    # The guest's time stands while records are taken: the short way to calibrate its clock works.
    symbols = {(record.symbol or "").partition("+")[0] for record in made}
    assert "native_calibrate_cpu_early.part.0" in symbols
    assert "pit_hpet_ptimer_calibrate_cpu" not in symbols


def test_a_guest_is_held_and_let_go(tmp_path: Path) -> None:
    script = "break nvme.CC; continue; step 3; until nvme_reset_work; detach"
    done = boot(tmp_path, "--inputs", "--quiet", "-e", script)
    assert done.status == 0, done.err
    drove_its_devices(done)
    trace = read_trace(done.trace)
    last = max(r.seq for r in trace.intercepts if r.via == "monitor")
    assert trace.end.outcome == "poweroff" and last > 10_000


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--inputs=prot",), "there is no input 'prot'; did you mean port?"),
        (("--inputs", "--every-stop"), "--every-stop does without"),
        (("--inputs", "--untraced"), "--untraced does without"),
        (("--inputs", "--", "-cpu", "EPYC,svm=off"), "the guest's CPU has no SVM"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(
    options: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    done = run(tmp_path, "boot", "--quiet", *options)
    last = done.err.strip().splitlines()[-1]
    assert done.status in (1, 2) and words in last and "Traceback" not in done.err
