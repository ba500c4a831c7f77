"""INS and OUTS between device memory and I/O ports: values, order, and each port used once.

The ports are real ones: fw_cfg's data port gives the letters of ``QEMU`` one by one, so that one
too many or one too few shows; the PCI configuration data port gives the host bridge's numbers; the
CMOS keeps a byte; what the serial port is given is in a file. The guest checks what it finds, and
the same guest is run without a tracer.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from bare_guest import DEVICE, DEVICE_LINEAR, REGION, WINDOW, Case, assemble, initial, slot
from port_cases import CASES, SIGNATURE, E, Q
from vetrace_run import Run, Trace, agreed, boot, read_trace

from tracer.check.qemu_log import parse_line
from tracer.cli import main
from tracer.x86.state import GPR

pytestmark = pytest.mark.qemu

STRING = re.compile(r"\b(ins|outs)[bwd]\b")

# With I/O breakpoints, and at a port that answers by the registers, it is the code's own access.
OWN = [
    Case(f"mov rax, cr4; bts rax, 3; mov cr4, rax; {SIGNATURE}insb; in al, dx;"
         " mov rcx, cr4; btr rcx, 3; mov cr4, rcx; mov ecx, 0", [("W", 0, 1, None)], {},
         {"rax": E}, via="stepped"),
    # VMware's port tells its version in EAX, and sets EBX (hw/i386/vmport.c).
    Case("mov eax, 0x564d5868; mov ecx, 10; mov edx, 0x5658; insd; mov eax, ebx",
         [("W", 0, 4, None)], {}, {"rax": 0x564D5868}, via="stepped"),
]  # fmt: skip


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert DEVICE_LINEAR == WINDOW + 0x1000
    return assemble(tmp_path_factory.mktemp("guest"), CASES)


@pytest.fixture(scope="module")
def traced(guest: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("traced")
    options = ("--kernel", guest, "--check", "--quiet", "--region", REGION)
    return boot(folder, *options, "--", *DEVICE)


@pytest.fixture(scope="module")
def trace(traced: Run) -> Trace:
    return read_trace(traced.trace)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.text for case in CASES])
def test_case(number: int, traced: Run, trace: Trace) -> None:
    holds(CASES[number], number, traced, trace)


def test_what_is_the_codes_own(tmp_path: Path) -> None:
    done = boot(tmp_path, "--kernel", assemble(tmp_path, OWN), "--quiet", "--region", REGION,
                "--", *DEVICE)  # fmt: skip
    for number, case in enumerate(OWN):
        holds(case, number, done, read_trace(done.trace))


def holds(case: Case, number: int, traced: Run, trace: Trace) -> None:
    """Check that the trace has the accesses of a case, and that the guest found what it should."""
    records = [
        r for r in trace.intercepts if (r.symbol or "").partition("+")[0] == f"case_{number}"
    ]
    at = slot(number) if case.at is None else case.at
    made = [
        ("R" if access.direction == "read" else "W", (access.offset or 0) - at,
         access.width, access.value)
        for record in records for _, access in record.device_accesses()
    ]  # fmt: skip
    assert made == list(case.accesses)
    assert {record.via for record in records} <= {case.via}
    assert f"case {number:04d} ok" in traced.serial


def test_qemu_saw_the_same(traced: Run) -> None:
    assert agreed(traced) == sum(len(case.accesses) for case in CASES)


def test_the_guest_says_what_it_says_untraced(guest: Path, traced: Run, tmp_path: Path) -> None:
    untraced = boot(tmp_path, "--kernel", guest, "--quiet", "--untraced", "--", *DEVICE)
    assert untraced.serial == traced.serial
    assert traced.serial.count("string") == 1


def test_what_was_recorded_is_what_the_emulator_does(traced: Run) -> None:
    assert main.main(["replay", str(traced.trace)]) == 0


def test_a_recording_stands_in_for_the_device_and_the_ports_are_real(
    guest: Path, traced: Run, tmp_path: Path
) -> None:
    options = ("--kernel", guest, "--quiet", "--region", REGION, "--replay", traced.trace)
    done = boot(tmp_path, *options, "--", *DEVICE)
    assert done.status == 0, done.err
    assert done.serial == traced.serial


def test_a_person_changes_either_side_and_the_port_is_used_once(tmp_path: Path) -> None:
    text = "insb; movzx eax, byte ptr [rdi - 1]"
    cases = [
        Case(SIGNATURE + text, [], {}, {"rax": initial(0, 1)}),
        Case(SIGNATURE + text, [], {}, {"rax": ord("*")}),
        Case("mov rsi, rdi; mov edx, 0x3f8; outsb; outsb", []),
        Case(SIGNATURE + "insb; xor eax, eax; in al, dx", [], {}, {"rax": E}),
    ]
    script = (
        f"break {REGION}; continue; skip; continue; continue; set value 0x2a; continue; continue;"
        " set value 0x2a; continue; skip 0x0a; continue; set $rdi = $rdi + 8; continue"
    )
    options = ("--kernel", assemble(tmp_path, cases), "--quiet", "--region", REGION, "-e", script)
    done = boot(tmp_path, *options, "--", *DEVICE)
    assert done.status == 0, done.err
    assert [line for line in done.serial if line] == [
        "case 0000 ok", "case 0001 ok", "*", "case 0002 ok", "case 0003 ok",
    ]  # fmt: skip
    made = [access for r in read_trace(done.trace).intercepts for _, access in r.device_accesses()]
    assert [(a.direction, a.value, a.device, a.skipped) for a in made] == [
        ("write", Q, None, True), ("read", initial(0, 1), None, False),
        ("write", Q, 0x2A, False), ("read", 0x2A, None, False),
        ("read", 0x2A, initial(0, 1), False), ("read", 0xA, None, True),
        ("write", Q, None, False),
    ]  # fmt: skip
    assert main.main(["replay", str(done.trace)]) == 0


def test_outs_that_powers_the_machine_off_is_recorded(tmp_path: Path) -> None:
    off = 0x2000  # to PM1a_CNT of q35, as in guest.S
    text = f"mov word ptr [rdi], {off:#x}; mov rsi, rdi; mov edx, 0x604; outsw; hlt"
    options = ("--kernel", assemble(tmp_path, [Case(text, [])]), "--quiet", "--region", REGION)
    done = boot(tmp_path, *options, "--check", "--", *DEVICE)
    assert agreed(done) == 2
    made = [a for r in read_trace(done.trace).intercepts for _, a in r.device_accesses()]
    assert [(a.direction, a.value) for a in made] == [("write", off), ("read", off)]


def test_so_it_is_by_physical_address(guest: Path, tmp_path: Path) -> None:
    # The monitor makes strings at ports itself, and not where one lies in a device.
    options = ("--kernel", guest, "--trap", "nested", "--check", "--quiet", "--region", REGION)
    done = boot(tmp_path, *options, "--inputs=port", "--", *DEVICE)
    trace = read_trace(done.trace)
    inputs = [record for record in trace.intercepts if record.via == "monitor"]
    others = [record for record in trace.records if record not in inputs]
    trace = replace(trace, records=others)
    for number, case in enumerate(CASES):
        holds(case, number, done, trace)
    made = sum(len(record.device_accesses()) for record in trace.intercepts)
    assert made == sum(len(case.accesses) for case in CASES)
    assert agreed(done) == made + sum(len(record.accesses) for record in inputs)
    # Both sides of an element have the same registers; that of memory has the segment's base, too.
    ports, devices = (
        [(e.rip, e.text, {name: e.before[name] for name in ("rflags", *GPR)}, e.after)
         for e in some if STRING.search(e.text)]
        for some in (inputs, trace.intercepts)
    )  # fmt: skip
    assert len(devices) > 40 and [each for each in ports if each in devices] == devices
    assert main.main(["replay", str(done.trace)]) == 0


def test_the_monitor_reads_no_device_for_itself(tmp_path: Path) -> None:
    # The guest has an instruction in its device, which the CPU alone fetches: RDMSR, and a return.
    case = Case("mov dword ptr [rdi], 0xc3320f; mov ecx, 0xc0000100; call rdi; nop", [])
    guest, log = assemble(tmp_path, [case]), tmp_path / "qemu.log"
    options = ("--kernel", guest, "--trap", "nested", "--inputs=msr", "--quiet", "--region", REGION)
    done = boot(tmp_path, *options, "--qemu-log", log, "--", *DEVICE)
    assert done.status == 0 and "case 0000 ok" in done.serial, done.err
    assert [record.text for record in read_trace(done.trace).intercepts][1:] == ["rdmsr"]
    entries = [parse_line(line) for line in log.read_bytes().splitlines()]
    fetched = [e.value for e in entries if e is not None and e.name == "nvme-cmb" and e.cpu >= 0]
    assert fetched == [0x0F, 0x32, 0xC3]
