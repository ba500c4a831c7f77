"""Vector 14 under the guest's hands: what it does with its IDT, its stacks and its CPU."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from bare_guest import DEVICE, REGION, Access, Case, assemble, initial, slot
from vetrace_run import Run, Trace, boot, read_trace, vetrace

pytestmark = pytest.mark.qemu

READ: list[Access] = [("R", 0, 4, initial(0, 4))]
CASES = {
    "zeroed as a whole": Case(
        """at_gate
        xor eax, eax
        mov [rsi], rax
        mov [rsi + 8], rax
        mov eax, [rdi]
        fields page_fault
        own_fault""",
        READ,
        after={"rbx": 1},
    ),
    "zeroed by a string instruction": Case(
        """mov r8, rdi
        lea rdi, [rip + idt]
        xor eax, eax
        mov ecx, 15 * 16 / 8
        rep stosq
        mov eax, [r8]
        at_gate
        fields page_fault
        own_fault""",
        READ,
        after={"rbx": 1},
    ),
    "lower half zeroed": Case(
        """at_gate
        mov qword ptr [rsi], 0
        mov eax, [rdi]
        halves page_fault
        own_fault""",
        READ,
        after={"rbx": 1},
    ),
    "upper half zeroed": Case(
        """at_gate
        mov qword ptr [rsi + 8], 0
        mov eax, [rdi]
        mov dword ptr [rsi + 8], -1
        own_fault""",
        READ,
        after={"rbx": 1},
    ),
    "present bit taken away": Case(
        """at_gate
        and byte ptr [rsi + 5], 0x7f
        mov eax, [rdi]
        or byte ptr [rsi + 5], 0x80
        own_fault""",
        READ,
        after={"rbx": 1},
    ),
    "lowest bytes rewritten": Case(
        """at_gate
        lea rax, [rip + page_fault_2]
        mov word ptr [rsi], ax
        mov eax, [rdi]
        own_fault""",
        READ,
        after={"rbx": 2},
    ),
    "another handler, in halves": Case(
        "at_gate\n halves page_fault_3\n mov eax, [rdi]\n own_fault", READ, after={"rbx": 3}
    ),
    "the first again, in fields": Case(
        "at_gate\n fields page_fault\n mov eax, [rdi]\n own_fault", READ, after={"rbx": 1}
    ),
    "another handler, in fields": Case(
        "at_gate\n fields page_fault_3\n mov eax, [rdi]\n own_fault", READ, after={"rbx": 3}
    ),
    "the first again, copied byte by byte": Case(
        """at_gate idt_2
        halves page_fault
        mov r8, rdi
        at_gate
        mov rdi, rsi
        at_gate idt_2
        mov ecx, 16
        rep movsb
        mov eax, [r8]
        own_fault""",
        READ,
        after={"rbx": 1},
    ),
    "saved and put back": Case(
        """at_gate
        mov r8, [rsi]
        mov r9, [rsi + 8]
        halves page_fault_2
        own_fault
        mov r10, rbx
        at_gate
        mov [rsi], r8
        mov [rsi + 8], r9
        mov eax, [rdi]
        own_fault""",
        READ,
        after={"r10": 2, "rbx": 1},
    ),
    "another IDT": Case(
        """at_gate idt_2
        halves page_fault_2
        lidt [rip + idt_2_pointer]
        mov eax, [rdi]
        own_fault""",
        READ,
        after={"rbx": 2},
    ),
    "the other IDT's gate rewritten": Case(
        "at_gate idt_2\n fields page_fault_3\n mov eax, [rdi]\n own_fault", READ, after={"rbx": 3}
    ),
    "the first IDT again": Case(
        "lidt [rip + idt_pointer]\n mov eax, [rdi]\n own_fault", READ, after={"rbx": 1}
    ),
    "push and pop with the stack in the device": Case(
        "mov r8, rsp\n lea rsp, [rdi + 64]\n push rax\n pop rbx\n mov rsp, r8",
        [("W", 56, 8, 0x1234_5678_9ABC_DEF0), ("R", 56, 8, 0x1234_5678_9ABC_DEF0)],
        before={"rax": 0x1234_5678_9ABC_DEF0},
        after={"rbx": 0x1234_5678_9ABC_DEF0},
    ),
    "a page fault of its own with the stack in the device": Case(
        "mov r8, rsp\n lea rsp, [rdi + 64]\n own_fault\n mov rsp, r8", [], after={"rbx": 1}
    ),
    "an exception with the stack in the device": Case(
        """at_gate idt, 6
        fields undefined
        mov r8, rsp
        lea rsp, [rdi + 64]
        ud2
        mov rsp, r8
        mov rbx, [rip + handled_by]""",
        [],
        after={"rbx": 6},
    ),
}


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return assemble(tmp_path_factory.mktemp("gates"), list(CASES.values()), include="gates.S")


@pytest.fixture(scope="module")
def traced(guest: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    options = ("--kernel", guest, "--symbols", guest, "--check", "--quiet", "--region", REGION)
    return boot(tmp_path_factory.mktemp("traced"), *options, "--", *DEVICE)


@pytest.fixture(scope="module")
def trace(traced: Run) -> Trace:
    return read_trace(traced.trace)


def test_the_guest_finds_what_it_finds_untraced(guest: Path, traced: Run, tmp_path: Path) -> None:
    assert traced.status == 0, traced.err + traced.out
    assert re.search(r"^0 missing, 0 extra, 0 different", traced.out, re.MULTILINE), traced.out
    options = ("--kernel", guest, "--symbols", guest, "--untraced", "--quiet")
    untraced = boot(tmp_path, *options, "--", *DEVICE)
    assert untraced.serial == traced.serial
    said = [line for line in traced.serial if line.startswith("case")]
    assert said == [f"case {number:04d} ok" for number in range(len(CASES))]


@pytest.mark.parametrize("name", CASES)
def test_case(name: str, trace: Trace) -> None:
    number, case = list(CASES).index(name), CASES[name]
    records = [
        record
        for record in trace.intercepts
        for _, access in record.device_accesses()
        if (access.offset or 0) // 64 * 64 == slot(number)
    ]
    actual = [
        (
            access.direction[0].upper(),
            (access.offset or 0) - slot(number),
            access.width,
            access.value,
        )
        for record in records
        for _, access in record.device_accesses()
    ]
    if case.accesses:
        assert actual == list(case.accesses)
    else:
        # Frames of the CPU's own, and what a handler did on that stack.
        assert {("W", 56 - 8 * n, 8, None) for n in range(5)} <= set(actual)


def test_exceptions_go_through_an_idt(tmp_path: Path) -> None:
    program = shutil.which("qemu-system-x86_64")
    assert program is not None
    known = subprocess.run([program, "-cpu", "help"], capture_output=True, text=True, check=True)
    guest = assemble(tmp_path)
    kernel = ("--kernel", guest, "--symbols", guest, "--region", REGION)
    with vetrace(tmp_path, "boot", "--quiet", *kernel, "--", *DEVICE) as running:
        words: list[bytes] = []

        def started() -> bool:
            for name, pid in running.children().items():
                if name.startswith("qemu"):
                    words[:] = Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0")
            # A QEMU that is asked for the CPUs it knows comes before.
            return b"-gdb" in words

        running.until(started, "QEMU is there")
        assert (b"x86_64-cpu.fred=off" in words) == ("fred" in known.stdout.split())
        assert running.finish().status == 0


# ---- what cannot go on, and whose doing it is

EMPTY = "lidt [rip + no_idt]"
# The same from where nobody looks for code: lidt [rsi]; ret.
HIDDEN = """lea rdx, [rip + buffer]
    mov dword ptr [rdx], 0xc31e010f
    lea rsi, [rip + no_idt]
    call rdx"""


def crash(folder: Path, text: str, *options: str) -> Run:
    guest = assemble(folder, [Case(text, [])], include="gates.S")
    kernel = ("--kernel", guest, "--symbols", guest, "--quiet", "--region", REGION)
    return boot(folder, *kernel, *options, "--", *DEVICE)


def said(done: Run) -> str:
    lines = [line for line in done.err.splitlines() if line.startswith("vetrace: ")]
    assert "Traceback" not in done.err
    return lines[-1]


def test_a_guest_that_takes_its_gate_away_and_faults_dies_by_itself(tmp_path: Path) -> None:
    text = "at_gate\n mov qword ptr [rsi], 0\n mov eax, [rdi]\n own_fault"
    done = crash(tmp_path, text)
    assert done.status == 1
    assert "the guest triple-faulted by itself, at case_0+" in said(done)
    trace = read_trace(done.trace)
    assert "by itself" in trace.end.outcome
    assert trace.end.counts["accesses"] == 1


def test_an_idt_that_vetrace_could_not_see_is_to_blame(tmp_path: Path) -> None:
    done = crash(tmp_path, f"{HIDDEN}\n mov eax, [rdi]")
    assert done.status == 1
    assert "the guest triple-faulted because it is traced: at case_0+" in said(done)
    assert "was loaded where vetrace could not see it" in said(done)
    assert REGION in said(done) and "--bypass" in said(done)


@pytest.mark.parametrize("check", [(), ("--check",)])
def test_an_idt_without_room_lets_the_guest_go(check: tuple[str, ...], tmp_path: Path) -> None:
    text = f"mov eax, [rdi]\n {EMPTY}\n mov eax, [rdi + 4]\n lidt [rip + idt_pointer]\n own_fault"
    done = crash(tmp_path, text, *check)
    assert "case 0000 ok" in done.serial
    assert re.search(r"not traced: what the guest does from case_0\+0x\w+ on", done.err), done.err
    assert read_trace(done.trace).end.counts["accesses"] == 1
    # An access that nobody traced is missing, where somebody looks.
    assert done.status == (3 if check else 0), done.err
    assert ("1 missing, 0 extra" in done.out) == bool(check)
