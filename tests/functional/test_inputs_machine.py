"""A guest inside the monitor: what each instruction that leaves for it does, and what is recorded.

The guest checks registers, memory and faults by itself; it runs once inside and once untraced.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from bare_guest import DEVICE, REGION, WINDOW, Case, assemble
from inputs_witness import disagreements, ports
from port_cases import CASES as ON_DEVICES
from port_cases import SIGNATURE, WHOLE
from vetrace_run import Run, Trace, agreed, boot, read_trace

pytestmark = pytest.mark.qemu

CR2 = 0x1234_5678_9ABC  # as the guest sets it
RAM = WINDOW + 0x100
BACKWARDS = int.from_bytes(b"UMEQ", "little")
EFER = "mov ecx, 0xc0000080; "
STEPPED = (
    "mov qword ptr [rip + traps], 0; pushfq; or dword ptr [rsp], 0x100; popfq; {text};"
    " pushfq; and dword ptr [rsp], 0xfffffeff; popfq; mov rax, [rip + traps]"
)

# An untraced guest of the same machine does these in another way: it has SVM.
HIDDEN = [
    *(
        Case(text, [], {"rax": 0}, fault=(6, CR2))
        for text in ("vmmcall", "stgi", "clgi", "vmload", "vmsave", "vmrun", "skinit")
    ),
    Case("mov ecx, 0xc0010117; rdmsr", [], {}, fault=(0, CR2)),
    Case("mov ecx, 0xc0010117; xor eax, eax; xor edx, edx; wrmsr", [], {}, fault=(0, CR2)),
    Case("mov ecx, 0xc0010114; rdmsr", [], {}, fault=(0, CR2)),
    Case("mov eax, 0x80000001; cpuid; mov eax, ecx; and eax, 4", [], {}, {"rax": 0}),
    Case("mov eax, 0x8000000a; cpuid; or eax, ebx; or eax, ecx; or eax, edx", [], {}, {"rax": 0}),
]

CASES = [
    Case("mov eax, 1; xor ecx, ecx; cpuid; mov eax, ecx; shr eax, 27; and eax, 1", [], {},
         {"rax": 1}),  # OSXSAVE is the guest's own
    Case("mov eax, 1; .byte 0x66, 0x0f, 0xa2; mov eax, ecx; shr eax, 27; and eax, 1", [], {},
         {"rax": 1}),
    Case("mov eax, 1; .byte 0xf3, 0x2e, 0x48, 0x0f, 0xa2; mov eax, ecx; shr eax, 27; and eax, 1",
         [], {}, {"rax": 1}),
    Case("mov rax, cr4; btr rax, 18; mov cr4, rax; mov eax, 1; cpuid; mov r8d, ecx; mov rax, cr4;"
         " bts rax, 18; mov cr4, rax; mov eax, r8d; shr eax, 27; and eax, 1; mov r8d, 0", [], {},
         {"rax": 0}),
    Case("mov rax, -1; mov rcx, -1; mov rdx, -1; mov rbx, -1; mov eax, 0x80000000; cpuid;"
         " mov rax, rbx; or rax, rcx; or rax, rdx; shr rax, 32", [], {}, {"rax": 0}),
    # EFER is in two places, and has no bit more than the guest has put there
    Case(f"{EFER}rdmsr; shl rdx, 32; or rax, rdx", [], {}, {"rax": 0xD00}),
    Case(f"{EFER}rdmsr; or eax, 1; wrmsr; rdmsr; mov r8d, eax; and eax, ~1; wrmsr; mov eax, r8d;"
         " mov r8d, 0", [], {}, {"rax": 0xD01}),
    Case("mov rax, -1; mov rdx, -1; mov ecx, 0x277; rdmsr; shr rax, 32; shr rdx, 32; or rax, rdx",
         [], {}, {"rax": 0}),
    Case("mov ecx, 0xc0000102; mov eax, 0x1234; mov edx, 0x5678; wrmsr; xor eax, eax;"
         " xor edx, edx; swapgs; mov ecx, 0xc0000101; rdmsr; swapgs; shl rdx, 32; or rax, rdx", [],
         {}, {"rax": 0x5678_0000_1234}),
    # what a register has beyond the width of a port stays, but for that of 32 bits
    Case("mov rax, 0x1122334455667788; mov edx, 0x510; in al, dx; mov rcx, 0x1122334455667700;"
         " and al, 0; sub rax, rcx", [], {}, {"rax": 0}),
    Case("mov rax, -1; mov edx, 0xcf8; in eax, dx; shr rax, 32", [], {}, {"rax": 0}),
    Case("mov eax, 0x40; out 0x70, al; mov eax, 0x77; out 0x71, al; xor eax, eax; in al, 0x71", [],
         {}, {"rax": 0x77}),
    # strings, in RAM on both sides
    Case(SIGNATURE + "rep insb; mov eax, [rdi - 4]", [], {"rdi": RAM, "rcx": 4},
         {"rax": WHOLE, "rcx": 0, "rdi": RAM + 4}),
    Case(SIGNATURE + "add rdi, 3; std; rep insb; cld; mov eax, [rdi + 1]", [],
         {"rdi": RAM, "rcx": 4}, {"rcx": 0, "rax": BACKWARDS, "rdi": RAM - 1}),
    Case(SIGNATURE + "bts rdi, 40; bts rcx, 40; addr32 rep insb; mov eax, [rdi - 4]", [],
         {"rdi": RAM, "rcx": 4}, {"rax": WHOLE, "rcx": 0, "rdi": RAM + 4}),
    Case(SIGNATURE + "rep insb; mov eax, edi", [], {"rdi": RAM, "rcx": 0}, {"rax": RAM, "rcx": 0}),
    Case("mov dword ptr [rdi], 0x80000000; mov rsi, rdi; mov edx, 0xcf8; outsd; in eax, dx;"
         " sub rsi, rdi", [], {"rdi": RAM}, {"rax": 0x8000_0000, "rsi": 4}),
    Case("mov ecx, 0xc0000100; mov eax, 0x20; xor edx, edx; wrmsr; mov dword ptr [rdi + 32],"
         " 0x80000000; mov rsi, rdi; mov edx, 0xcf8; outs dx, dword ptr fs:[rsi]; xor eax, eax;"
         " xor edx, edx; wrmsr; mov edx, 0xcf8; in eax, dx", [], {"rdi": RAM},
         {"rax": 0x8000_0000}),
    Case("mov edx, 0x510; insb", [], {"rdi": 0x4000_8000}, fault=(2, 0x4000_8000)),
    Case("mov edx, 0x510; outsb", [], {"rsi": 0x4000_8000}, fault=(0, 0x4000_8000)),
    # a guest that single-steps is stopped behind each instruction
    *(
        Case(STEPPED.format(text=text), [], {}, {"rax": 4})
        for text in ("cpuid", "in al, dx", "nop", "rdtsc", "mov ecx, 0x277; .byte 0x66; nop")[:4]
    ),
    Case("mov ecx, 0x277; rdmsr; rdtscp; lfence; mov eax, 5", [], {}, {"rax": 5}),
]  # fmt: skip


# Accesses that a device model refuses, that have another byte order, or that go on behind the
# region in which they begin.
ODD = [
    "mov edx, 0x2f9; mov eax, 0x1234; out dx, ax",
    *(
        f"mov edx, {port:#x}; in {into}, dx"
        for port, into in (
            (0x21, "ax"), (0xA1, "ax"), (0x42, "eax"), (0x60, "eax"), (0x64, "eax"), (0x71, "ax"),
            (0x2F9, "ax"), (0x4D0, "ax"), (0x514, "eax"), (0x518, "eax"), (0x600, "eax"),
            (0x620, "eax"), (0x700, "eax"), (0xCFD, "ax"), (0xFFFE, "eax"),
        )
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("inside")
    guest = assemble(folder, [*HIDDEN, *CASES, *ON_DEVICES], room=True)
    options = "--kernel", guest, "--inputs=port,msr,cpuid,tsc", "--quiet", "--region", REGION
    return boot(folder, *options, "--qemu-log", folder / "qemu.log", "--", *DEVICE)


@pytest.fixture(scope="module")
def trace(traced: Run) -> Trace:
    return read_trace(traced.trace)


_COUNT = len(HIDDEN) + len(CASES) + len(ON_DEVICES)


@pytest.mark.parametrize("number", range(_COUNT))
def test_the_guest_finds_what_it_should(number: int, traced: Run) -> None:
    assert traced.status == 0, traced.err
    assert f"case {number:04d} ok" in traced.serial


def test_the_guest_says_what_it_says_untraced(traced: Run, tmp_path: Path) -> None:
    guest = assemble(tmp_path, [*CASES, *ON_DEVICES], room=True)
    untraced = boot(tmp_path, "--kernel", guest, "--quiet", "--untraced", "--", *DEVICE)
    said = [line.split()[-1] for line in traced.serial if line.startswith("case")]
    assert [line.split()[-1] for line in untraced.serial if line.startswith("case")] == (
        said[len(HIDDEN) :]
    )


def test_ports_are_those_of_qemus_log(traced: Run, trace: Trace) -> None:
    assert len(ports(trace.intercepts)) > 400
    assert disagreements(trace, traced.qemu_log) == []


# QEMU's firmware has port 0xb2 raise an SMI, for which its own code reads that port.
SMI = Case("mov eax, 0x55; out 0xb2, al; mov eax, 7; out 0xb2, al", [], after={"rax": 7})


def test_odd_accesses_to_ports_are_those_of_qemus_log_and_an_smi_is_firmwares(
    tmp_path: Path,
) -> None:
    guest = assemble(tmp_path, [*(Case(text, [], {}) for text in ODD), SMI], room=True)
    log = tmp_path / "qemu.log"
    options = "--inputs=port,irq", "--check", "--quiet", "--region", REGION, "--qemu-log", log
    done = boot(tmp_path, "--kernel", guest, *options, "--", *DEVICE)
    assert agreed(done) > len(ODD)
    assert log.read_bytes().count(b"\nInvalid ") > 5
    assert f"case {len(ODD):04d} ok" in done.serial
    assert read_trace(done.trace).end.counts["smis"] == 2
    assert "\n2 accesses of firmware left out\n" in done.out
    assert "2 SMIs: what firmware accessed" in done.err


def test_a_string_has_a_record_for_each_element_and_what_the_registers_were(trace: Trace) -> None:
    number = len(HIDDEN) + next(n for n, case in enumerate(CASES) if case.after.get("rdi"))
    made = [
        record
        for record in trace.intercepts
        if (record.symbol or "").startswith(f"case_{number}+") and record.text.startswith("rep ")
    ]
    assert [record.accesses[0].value for record in made] == list(b"QEMU")
    assert [record.before["rcx"] for record in made] == [4, 3, 2, 1]
    assert [record.after["rdi"] for record in made] == [RAM + n for n in (1, 2, 3, 4)]
    assert "rip" not in made[0].after and made[3].after["rip"] == made[3].rip + 2


def test_an_exception_in_an_accesss_place_is_told(trace: Trace) -> None:
    raised = [record for record in trace.intercepts if record.note]
    assert len(raised) == 3
    assert all(record.accesses[0].skipped for record in raised)
    assert [record.accesses[0].value for record in raised] == [None, 0, None]


def test_what_left_memory_alone_tells_what_it_changed(trace: Trace) -> None:
    for record in trace.intercepts:
        if record.via != "monitor" or record.note or record.text.startswith(("rep", "ins", "out")):
            continue
        if record.accesses[0].direction == "read":
            changed = {"cpuid": 4, "msr": 2, "tsc": 2, "port": 1}[record.accesses[0].space]
            assert len(set(record.after) - {"rip"}) <= changed
        assert record.after["rip"] == record.rip + len(record.code)
