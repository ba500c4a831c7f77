"""Interrupts that a guest takes inside the monitor: each is a record, and each is taken once.

QEMU's own log of interrupts (`-d int`) is the witness: vector and place of each, in order.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bare_guest import DEVICE, REGION, Case, assemble
from inputs_witness import disagreements, interrupts, logged_interrupts
from vetrace_run import Run, Trace, agreed, boot, drove_its_devices, read_trace, run

pytestmark = pytest.mark.qemu
LONG = pytest.mark.long

ROUNDS = 700
"""As in ``interrupts.S``: the second interrupt of the last one comes long after the first."""
SELF, TIMER, LINE = 0x41, 0xF0, 13
SYSCALLS = (
    "mov ecx, 0xc0000080; rdmsr; or eax, 1; wrmsr; mov ecx, 0xc0000081; xor eax, eax;"
    " mov edx, 8; wrmsr; mov ecx, 0xc0000084; xor edx, edx; wrmsr; lea rax, [rip + called];"
    " mov rdx, rax; shr rdx, 32; mov ecx, 0xc0000082; wrmsr; "
)
GP = "mov ecx, 0xc0010117; rdmsr"  # the guest has no such MSR

CASES = [
    Case(f"{before}race {way}", [], after={"rax": 0})
    for way, before in {
        "by_return": "",
        "by_halt": "",
        "by_pause": "",
        "by_monitor": "",
        "by_syscall": SYSCALLS,
        "by_priority": "",
    }.items()
] + [
    Case("by_line", [], after={"rax": 1}),
    Case(GP, [], {}, fault=(0, 0x1234_5678_9ABC)),
]  # fmt: skip
UART = (
    "-chardev", "null,id=nobody", "-device", "isa-serial,chardev=nobody,iobase=0x2e8,irq=5",
)  # fmt: skip


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("interrupted")
    guest = assemble(folder, CASES, room=True, include="interrupts.S")
    return boot(
        folder, "--kernel", guest, "--inputs", "--quiet", "--check", "--region", REGION,
        "--qemu-log", folder / "qemu.log", "--", *DEVICE, *UART,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trace(traced: Run) -> Trace:
    return read_trace(traced.trace)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_the_guest_takes_each_interrupt_once(number: int, traced: Run) -> None:
    assert traced.status == 0, traced.err
    assert f"case {number:04d} ok" in traced.serial


def test_each_interrupt_is_a_record_and_qemus_log_has_the_same(traced: Run, trace: Trace) -> None:
    races = sum("race" in case.text for case in CASES)
    found = [vector for vector, *_ in interrupts(trace.intercepts)[0]]
    assert found.count(SELF) == found.count(TIMER) == races * ROUNDS
    assert found.count(LINE) == 1 and len(found) == 2 * races * ROUNDS + 1
    assert interrupts(trace.intercepts)[0] == logged_interrupts(trace, traced.qemu_log)[0]
    assert disagreements(trace, traced.qemu_log) == []
    assert agreed(traced) > len(found)


@pytest.mark.parametrize(
    "options",
    [
        (),
        pytest.param(("--realtime", "-smp", "2"), marks=LONG),
        pytest.param(("--realtime", "-smp", "4"), marks=LONG),
    ],
    ids=["one", "two", "four"],
)
def test_a_linux_guests_are_those_of_qemus_log(options: tuple[str, ...], tmp_path: Path) -> None:
    own = [word for word in options if word == "--realtime"]
    more = [word for word in options if word != "--realtime"]
    log = tmp_path / "qemu.log"
    done = boot(
        tmp_path, "--inputs=irq", "--check", "--quiet", *own, "--qemu-log", log, "--", *more
    )
    agreed(done)
    drove_its_devices(done)
    trace = read_trace(done.trace)
    found = interrupts(trace.intercepts)
    assert len(found) == trace.header.vcpus and sum(map(len, found)) > 500
    logged = logged_interrupts(trace, log)
    elsewhere = 0
    for came, given in zip(found, logged, strict=True):
        assert [vector for vector, *_ in came] == [vector for vector, *_ in given]
        elsewhere += sum(one != other for one, other in zip(came, given, strict=True))
    # QEMU with several vCPUs may give one to the guest further on than where it came.
    several = len(found) > 1
    assert elsewhere <= (sum(map(len, found)) // 100 if several else 0)
    # A log that has one less, and one at another place, is told line by line.
    lines = log.read_bytes().splitlines(True)
    given = [n for n, line in enumerate(lines) if line.startswith(b"Servicing virtual")]
    moved = lines[given[300] + 1]
    place = moved[moved.index(b"pc=") : moved.index(b" SP=")]
    lines[given[300] + 1] = moved.replace(place, b"pc=00000000000000ff")
    lines[given[400]] = b"\n".rjust(len(lines[given[400]]))
    (tmp_path / "other.log").write_bytes(b"".join(lines))
    told = run(tmp_path, "verify", done.trace, "--qemu-log", tmp_path / "other.log")
    assert told.status == 3, told.out + told.err
    there = r"^different  irq  .* vector 0x.. at 0x\w+ .*; .* at 0xff$"
    late = rf"^{elsewhere + 1} interrupts came where the trace says"
    assert re.search(late if several else there, told.out, re.M)
    assert re.search(r"^extra +irq  .*: traced #\d+ vector 0x", told.out, re.M)
