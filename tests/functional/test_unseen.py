"""vetrace goes unnoticed: the device sees its accesses alone, CR2 stays."""

from __future__ import annotations

import asyncio
import re

import pytest
from bare_guest import DEVICE, NOTHING, REGION, Access, Case, assemble, initial
from vetrace_run import DEADLINE, Run, boot, read_trace

from tracer.check.qemu_log import LogEntry, entries
from tracer.launch.plan import Plan
from tracer.launch.start import launch
from tracer.session.control import Control
from tracer.trace.record import Mark

pytestmark = pytest.mark.qemu

I4, I8 = initial(32, 4), initial(32, 8)


def on_device(text: str, before: dict[str, int] | None = None, **after: int) -> Case:
    """Instructions with RSP in the middle of the case's own part of the device."""
    whole = f"mov r8, rsp; lea rsp, [rdi + 32]; {text}; mov rsp, r8"
    return Case(whole, [], before or {}, after)


STACKS = [
    on_device("push rax; pop rcx", {"rax": 0x1234}, rcx=0x1234),
    on_device("pop rax", rax=I8),
    on_device("push qword ptr [rsp + 8]; pop rax", rax=initial(40, 8)),
    on_device("pushfq; popfq"),
    on_device("enter 16, 0; leave"),
    on_device("mov rbp, rdi; push rbp; leave; mov rbp, r8"),
    on_device("call .+5; pop rax"),
    on_device("lea rax, [rip + 1f]; push rax; ret; 1: nop"),
    # Left to the CPU.
    on_device("addps xmm2, [rsp]"),
    on_device("fadd dword ptr [rsp + 4]"),
    on_device("mov rbp, rsp; addps xmm3, [rbp]; mov rbp, r8"),
    # Code in the device: nop, nop, ret; and jmp rax.
    Case("mov dword ptr [rdi], 0x00c39090; call rdi", []),
    Case("mov dword ptr [rdi], 0xe0ff9090; lea rax, [rip + 1f]; jmp rdi; 1: nop", []),
    # Both at once.
    Case("mov dword ptr [rdi], 0xe0ff5150; lea rax, [rip + 1f]; mov r8, rsp; "
         "lea rsp, [rdi + 48]; jmp rdi; 1: mov rsp, r8", []),
]  # fmt: skip


def kernel(folder_of_guest: object) -> tuple[str, ...]:
    return ("--kernel", str(folder_of_guest), "--quiet", "--region", REGION)


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("unseen")
    guest = assemble(folder, STACKS, own_stack=True)
    log = ("--qemu-log", folder / "qemu.log")
    return boot(folder, *kernel(guest), *log, "--", *DEVICE)


def of_debugger(done: Run) -> list[LogEntry]:
    """The accesses to the device that QEMU was asked for by its debugger interface."""
    marks = [r for r in read_trace(done.trace).records if isinstance(r, Mark)]
    start = next(mark.qemu_log_offset for mark in marks if mark.qemu_log_offset is not None)
    with done.qemu_log.open("rb") as log:
        found = [entry for entry in entries(log, start) if entry.name == "nvme-cmb"]
    assert len({entry.cpu for entry in found}) == 2, "both kinds of access are in this log"
    return [entry for entry in found if entry.cpu < 0]


def test_the_debugger_makes_no_access_but_those_recorded(stacks: Run) -> None:
    assert stacks.status == 0, stacks.err
    recorded: list[Access] = [
        (access.direction, access.physical, access.width, access.value)
        for record in read_trace(stacks.trace).intercepts
        for _, access in record.device_accesses()
        if record.via == "emulated" and access.value is not None and access.width <= 4
    ]
    seen = [(e.direction, e.address, e.width, e.value) for e in of_debugger(stacks)]
    assert seen == recorded
    assert seen, "some are made this way"


@pytest.mark.parametrize("number", range(len(STACKS)), ids=[case.text for case in STACKS])
def test_what_it_does_is_done(number: int, stacks: Run) -> None:
    assert f"case {number:04d} ok" in stacks.serial


# ---- CR2

FAR = NOTHING + 0x158
SEEN = "mov rax, cr2"
CR2 = [
    # Before there was any fault: what the guest itself had put there before it was traced.
    Case(f"mov eax, [rdi]; {SEEN}", [], {}, {"rax": 0x0000_1234_5678_9ABC}),
    Case("mov eax, [rbx]", [], {"rbx": FAR}, fault=(0, FAR)),
    Case(f"mov eax, [rdi]; {SEEN}", [], {}, {"rax": FAR}),
    Case(f"mov [rdi + 1], rax; {SEEN}", [], {}, {"rax": FAR}),
    Case(f"mov rsi, rdi; rep movsd; {SEEN}", [], {"rcx": 4}, {"rax": FAR}),
    Case(f"addps xmm2, [rdi]; {SEEN}", [], {}, {"rax": FAR}),
    # Over the end of a page: a fault of the guest's own that vetrace delivers.
    Case("mov eax, [rdi]", [], {"rdi": NOTHING - 2}, fault=(0, NOTHING)),
    Case(f"mov eax, [rdi]; {SEEN}", [], {}, {"rax": NOTHING}),
    # What the CPU itself comes upon after one.
    Case("mov [rbx], eax", [], {"rbx": FAR}, fault=(2, FAR)),
    Case(f"lock inc dword ptr [rdi]; {SEEN}", [], {}, {"rax": FAR}),
]


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("cr2")
    return boot(folder, *kernel(assemble(folder, CR2)), "--", *DEVICE)


@pytest.mark.parametrize("number", range(len(CR2)), ids=[case.text for case in CR2])
def test_cr2_is_that_of_the_guests_own_faults(number: int, faults: Run) -> None:
    assert faults.status == 0, faults.err
    assert f"case {number:04d} ok" in faults.serial
    if CR2[number].fault is None:
        records = [r for r in read_trace(faults.trace).intercepts if r.symbol]
        assert any(r.symbol.startswith(f"case_{number}+") for r in records)


def test_a_cpu_without_a_place_for_it_is_told_of(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("banks")
    guest = assemble(folder, [Case("mov eax, [rdi]", [("R", 0, 4, I4)])])
    done = boot(folder, *kernel(guest), "--", *DEVICE, "-cpu", "max,la57=off,-mca")
    assert done.status == 0, done.err
    assert "no machine-check banks" in done.err
    assert "case 0000 ok" in done.serial


@pytest.mark.long
def test_each_vcpu_has_its_own_cr2() -> None:
    # The timer interrupts of Linux end with an access to the local APIC: without more, its address
    # would be what is in CR2.
    async def play() -> None:
        console = bytearray()
        plan = Plan(realtime=True, append="clocksource=acpi_pm", extra=("-smp", "2"))
        async with launch(plan, console.extend) as session:
            await session.reach_entry()
            control = Control(session)
            await session.trap()
            await control.start()
            control.resume()
            while b"vetrace-guest:" not in console:
                await asyncio.sleep(0.1)
            faulted: set[int] = set()
            while faulted != {0, 1}:
                await control.interrupt()
                halt = await control.wait()
                assert halt is not None, f"ended before both were seen; {faulted} were"
                for vcpu in (0, 1):
                    text = await session.machine.dialogue.monitor("info registers", vcpu)
                    found = dict(re.findall(r"\b(RIP|CR2)=([0-9a-f]+)", text))
                    if session.traced.gate.stub.covers(int(found["RIP"], 16)):
                        continue  # it is about to be given back
                    leaf = halt.space.leaf(int(found["CR2"], 16))
                    assert leaf is None or not leaf.poisoned, found
                    faulted |= {vcpu} if int(found["CR2"], 16) else set()
                control.resume()
                await asyncio.sleep(0.03)
            await control.close()

    asyncio.run(asyncio.wait_for(play(), DEADLINE))
