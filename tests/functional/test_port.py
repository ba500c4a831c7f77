"""INS and OUTS between device memory and I/O ports: values, order, and each port used once.

The ports are real ones: fw_cfg's data port gives the letters of ``QEMU`` one by one, so that one
too many or one too few shows; the PCI configuration data port gives the host bridge's numbers; the
CMOS keeps a byte; what the serial port is given is in a file. The guest checks what it finds, and
the same guest is run without a tracer.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from bare_guest import DEVICE, DEVICE_LINEAR, NOTHING, REGION, WINDOW, Case, assemble, initial, slot
from vetrace_run import Run, Trace, agreed, boot, read_trace

from tracer.cli import main

pytestmark = pytest.mark.qemu

SIGNATURE = "mov edx, 0x510; xor eax, eax; out dx, ax; inc edx; "  # docs/specs/fw_cfg.rst
BRIDGE = "mov edx, 0xcf8; mov eax, 0x80000000; out dx, eax; mov edx, 0xcfc; "
Q, E, M, U = b"QEMU"
WHOLE = int.from_bytes(b"QEMU", "little")
ID = 0x29C0_8086  # of q35: hw/pci-host/q35.c
ADDRESS = 0x8000_0000
TEXT = int.from_bytes(b"string\n", "little")
UPPER = 0x5_0000_0000


def letters(*offsets: int) -> list[tuple[str, int, int, int | None]]:
    """Stores of the letters, in their order, at these offsets."""
    return [("W", offset, 1, letter) for offset, letter in zip(offsets, b"QEMU", strict=False)]


CASES = [
    Case(SIGNATURE + "insb; movzx eax, byte ptr [rdi - 1]", [*letters(0), ("R", 0, 1, Q)], {},
         {"rax": Q, "rdx": 0x511}),
    Case(SIGNATURE + "rep insb; mov eax, [rdi - 4]", [*letters(0, 1, 2, 3), ("R", 0, 4, WHOLE)],
         {"rcx": 4}, {"rax": WHOLE, "rcx": 0}),
    Case(SIGNATURE + "repne insb; in al, dx", letters(0, 1, 2), {"rcx": 3}, {"rax": U, "rcx": 0}),
    Case(SIGNATURE + "add rdi, 3; std; rep insb; cld; mov eax, [rdi + 1]",
         [*letters(3, 2, 1, 0), ("R", 0, 4, int.from_bytes(b"UMEQ", "little"))], {"rcx": 4},
         {"rax": int.from_bytes(b"UMEQ", "little"), "rcx": 0}),
    # a count of nothing leaves the port alone
    Case(SIGNATURE + "rep insb; in al, dx", [], {"rcx": 0}, {"rax": Q, "rcx": 0}),
    # a count, a pointer and a port with more above than counts
    Case(SIGNATURE + "bts rdx, 40; bts rdi, 40; addr32 rep insb; btr rdx, 40; in al, dx",
         letters(0, 1, 2), {"rcx": UPPER | 3}, {"rax": U, "rcx": 0, "rdx": 0x511}),
    Case(SIGNATURE + "bts edx, 20; insb; movzx edx, dx; in al, dx", letters(0), {}, {"rax": E}),
    # widths
    Case(BRIDGE + "insd; mov eax, [rdi - 4]", [("W", 0, 4, ID), ("R", 0, 4, ID)], {}, {"rax": ID}),
    Case(BRIDGE + ".byte 0x48, 0x6d; mov eax, [rdi - 4]",  # REX.W does not make it wider
         [("W", 0, 4, ID), ("R", 0, 4, ID)], {}, {"rax": ID}),
    Case(BRIDGE + "rep insw", [("W", 0, 2, ID & 0xFFFF), ("W", 2, 2, ID & 0xFFFF)], {"rcx": 2},
         {"rcx": 0}),
    Case(BRIDGE + "add edx, 2; insw; movzx eax, word ptr [rdi - 2]",
         [("W", 0, 2, ID >> 16), ("R", 0, 2, ID >> 16)], {}, {"rax": ID >> 16}),
    Case(BRIDGE + "inc rdi; insd; mov eax, [rdi - 4]", [("W", 1, 4, ID), ("R", 1, 4, ID)], {},
         {"rax": ID}),
    # the other way
    Case(f"mov dword ptr [rdi], {ADDRESS:#x}; mov rsi, rdi; mov edx, 0xcf8; outsd; add edx, 4;"
         " in eax, dx; sub rsi, rdi", [("W", 0, 4, ADDRESS), ("R", 0, 4, ADDRESS)], {},
         {"rax": ID, "rsi": 4}),
    Case("mov word ptr [rdi], 0; mov rsi, rdi; mov edx, 0x510; mov eax, 1; out dx, ax; outsw;"
         " inc edx; xor eax, eax; in al, dx; sub rsi, rdi", [("W", 0, 2, 0), ("R", 0, 2, 0)], {},
         {"rax": Q, "rsi": 2}),
    # index and data of the CMOS: a byte that nobody uses
    Case("mov word ptr [rdi], 0x5a40; mov rsi, rdi; mov edx, 0x70; outsb; inc edx; outsb;"
         " mov eax, 0x40; out 0x70, al; in al, 0x71",
         [("W", 0, 2, 0x5A40), ("R", 0, 1, 0x40), ("R", 1, 1, 0x5A)], {}, {"rax": 0x5A}),
    Case("mov eax, 0x40; out 0x70, al; mov dword ptr [rdi], 0x44332211; lea rsi, [rdi + 3];"
         " mov edx, 0x71; std; rep outsb; cld; in al, dx; sub rsi, rdi",
         [("W", 0, 4, 0x44332211), *(("R", 3 - n, 1, 0x11 * (4 - n)) for n in range(3))],
         {"rcx": 3}, {"rax": 0x22, "rcx": 0, "rsi": 0}),
    Case(f"movabs rax, {TEXT:#x}; mov [rdi], rax; mov rsi, rdi; mov edx, 0x3f8; rep outsb",
         [("W", 0, 8, TEXT), *(("R", n, 1, letter) for n, letter in enumerate(b"string\n"))],
         {"rcx": 7}, {"rcx": 0}),
    Case("mov ecx, 0xc0000100; mov eax, 0x20; xor edx, edx; wrmsr;"
         f" mov dword ptr [rdi + 32], {ADDRESS:#x}; mov rsi, rdi; mov edx, 0xcf8;"
         " outs dx, dword ptr fs:[rsi]; xor eax, eax; xor edx, edx; wrmsr; mov edx, 0xcfc;"
         " in eax, dx", [("W", 32, 4, ADDRESS), ("R", 32, 4, ADDRESS)], {}, {"rax": ID}),
    # from RAM over to the device, and back
    Case(SIGNATURE + "rep insb; mov eax, [rdi - 4]",
         [("W", 0, 1, M), ("W", 1, 1, U), ("R", 0, 2, M | U << 8)],
         {"rdi": DEVICE_LINEAR - 2, "rcx": 4}, {"rax": WHOLE, "rcx": 0}, at=0),
    Case(SIGNATURE + "std; rep insb; cld; mov eax, [rdi + 1]",
         [*letters(1, 0), ("R", 0, 2, E | Q << 8)], {"rdi": DEVICE_LINEAR + 1, "rcx": 4},
         {"rax": int.from_bytes(b"UMEQ", "little"), "rcx": 0}, at=0),
    # over two pages of the device: the second page is 4096 bytes on
    Case(BRIDGE + "insd; mov eax, [rdi - 4]",
         [("W", 0, 2, ID & 0xFFFF), ("W", 2, 2, ID >> 16), ("R", 0, 2, ID & 0xFFFF),
          ("R", 2, 2, ID >> 16)], {"rdi": DEVICE_LINEAR + 0xFFE}, {"rax": ID}, at=0xFFE),
    # to where nothing is mapped: the fault comes before the port
    Case(SIGNATURE + "rep insb", letters(0, 1), {"rdi": NOTHING - 2, "rcx": 4}, {"rcx": 2},
         fault=(2, NOTHING), at=0x1FFE),
    Case("mov edx, 0x511; xor eax, eax; in al, dx", [], {}, {"rax": M}),
]  # fmt: skip


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
