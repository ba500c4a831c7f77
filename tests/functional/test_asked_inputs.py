"""Ports, MSRs, CPUID and interrupts that a person and rules decide about, of Debian's kernel."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confidential_kernel import kernel_for
from vetrace_run import Run, agreed, boot, read_trace, run

from tracer.confidential.kind import Kind
from tracer.trace.record import MemoryAccess

pytestmark = pytest.mark.qemu

EFER, TIMER, PRESENT, PIT = 0xC000_0080, 0xEC, 0xD5, 0x30
BRAND = "on cpuid 0x80000002 do give 0x41414141 0x42424242 0x43434343 0x44444444"
LATE = "on write port 0x70 once do delay 1ms"
SCRIPT = (
    f"break msr {EFER:#x} once",
    f"break irq {TIMER:#x} once",
    "break read port 0x64 once",
    f"break cpuid {PRESENT:#x} once",  # nobody asks for it
    f'break msi {PIT:#x} if source ~ "ioapic*" once',
    f'break irq {PIT:#x} if cause ~ "ioapic*" once',  # that which the message leads to
    "info inputs",
    "continue",
    "continue",
    "continue", "fault gp", "bt",
    "continue", "plan",
    "continue", "regs rdx", "set value 0xff",
    "continue",
    "info inputs",
)  # fmt: skip


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return boot(
        tmp_path_factory.mktemp("asked"), "--inputs", "--check", "--json",
        "--rule", BRAND, "--rule", LATE, "-e", "; ".join(SCRIPT),
    )  # fmt: skip


def results(done: Run, command: str) -> list[Any]:
    return [
        told["result"] for told in done.objects
        if told.get("type") == "command" and told["command"] == command
    ]  # fmt: skip


def accesses(done: Run, space: str) -> list[MemoryAccess]:
    return [
        access for record in read_trace(done.trace).intercepts
        for access in record.accesses if access.space == space
    ]  # fmt: skip


def test_a_guest_stands_before_what_a_person_asked_for(asked: Run) -> None:
    assert asked.status == 0, asked.err
    message, led_to, msr, irq, port, last = results(asked, "continue")
    assert (msr["access"]["space"], msr["access"]["address"]) == ("msr", hex(EFER))
    sent = {"space": "msi", "data": hex(PIT), "source": "ioapic pin 2"}
    assert sent.items() <= message["access"].items()
    # To one APIC by its logical number, or from Linux 6.12 on by its own.
    assert message["access"]["address"] in ("0xfee01004", "0xfee00000")
    assert (led_to["access"]["space"], led_to["access"]["value"]) == ("irq", hex(PIT))
    assert led_to["time_ns"] == message["time_ns"]
    assert (irq["access"]["space"], irq["access"]["value"]) == ("irq", hex(TIMER))
    assert irq["access"]["cause"] == "lapic timer"
    assert (port["access"]["space"], port["access"]["address"]) == ("port", "0x64")
    assert port["access"]["value"] is None
    assert last["state"] == "ended"
    (registers,) = results(asked, "regs")
    assert registers == {"rdx": "0x64"}
    (plan,) = results(asked, "plan")
    assert plan["handled"] == "carried out"


def test_a_fault_comes_to_the_kernels_handler(asked: Run) -> None:
    (fault,) = results(asked, "fault")
    assert fault["reason"] == "fault"
    (chain,) = results(asked, "bt")
    assert "asm_exc_general_protection" in str(chain) and "native_read_msr" in str(chain)


def test_the_guest_is_told_what_was_given(asked: Run) -> None:
    assert any("AAAABBBBCCCCDDDD" in line for line in asked.serial)
    brand = [access for access in accesses(asked, "cpuid") if access.physical & ~0 == 0x80000002]
    assert [access.value for access in brand[:4]] == [
        0x41414141, 0x42424242, 0x43434343, 0x44444444,
    ]  # fmt: skip
    assert all(access.device is not None for access in brand[:4])
    given = [access for access in accesses(asked, "port") if access.device is not None]
    assert [(access.physical, access.value) for access in given] == [(0x64, 0xFF)]


def test_qemus_log_and_the_code_agree_with_what_was_changed(asked: Run, tmp_path: Path) -> None:
    # Objects alone go to the standard output.
    assert agreed(replace(asked, out=asked.err)) > 50_000
    assert run(tmp_path, "replay", asked.trace).status == 0


def test_what_is_recorded_is_told_with_who_asks(asked: Run) -> None:
    before, after = ({row["space"]: row for row in told} for told in results(asked, "info"))
    assert set(before) == {"port", "msr", "cpuid", "irq"}
    assert before["msr"]["asked"] == ["break 1"]
    assert before["cpuid"]["asked"] == ["break 4", "rule 1"]
    assert before["port"]["asked"] == ["break 3", "rule 2"]
    assert after["cpuid"]["changed"] >= 4 and after["port"]["accesses"] > 50_000


def test_rules_were_applied_and_only_what_somebody_wanted_took_a_stop(asked: Run) -> None:
    end = read_trace(asked.trace).end
    assert end.counts["monitor"] > 50_000
    assert end.counts["stops"] < 5_000
    assert "rule 1 applied" in asked.err and "rule 2 applied once" in asked.err
    assert json.dumps(end.counts)


FIXED, TYPES = 0x250, 0x0606_0606_0606_0600
HOSTILE = (
    "break read port 0x64 once", "break msr 0xfe once", "break cpuid 0x40000000 once",
    "break cpuid 0x40000100 once", f"break read msr {FIXED:#x} once", "break read msr 0x2ff once",
    "break read port 0x71 once", "break write port 0x80 once",
    "continue", "set value 0xff",
    "continue", "skip 0x7",
    "continue", "fault gp",
    "continue", f"set value {TYPES:#x}",
    "continue", "skip 0xc06",
    "continue", "skip 0x3",
    "continue", "skip",
    "continue", "set value 0x5a",
    "continue",
)  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("kind", [Kind.TDX, Kind.SEV_ES])
def test_a_hostile_host_answers_the_handler_of_a_confidential_guest(
    kind: Kind, tmp_path: Path
) -> None:
    done = boot(
        tmp_path, "--guest", kind.value, "--kernel", kernel_for(Kind.TDX), "--inputs", "--check",
        "--json", "--bypass", "lapic", "--rule", LATE, "-e", "; ".join(HOSTILE),
    )  # fmt: skip
    assert done.status == 0, done.err
    # Objects alone go to the standard output.
    assert agreed(replace(done, out=done.err)) > 50_000
    assert run(tmp_path, "replay", done.trace).status == 0
    halts = results(done, "continue")
    asked = [halt["access"] for halt in halts[:-1]]
    assert [(access["space"], access["address"]) for access in asked] == [
        ("cpuid", "0x40000000"), ("cpuid", "0x40000100"), ("msr", "0xfe"), ("msr", hex(FIXED)),
        ("msr", "0x2ff"), ("port", "0x71"), ("port", "0x80"), ("port", "0x64"),
    ]  # fmt: skip
    assert halts[-1]["state"] == "ended"
    told = {
        space: [access for access in accesses(done, space) if access.device is not None]
        for space in ("port", "cpuid", "msr")
    }
    assert [access.value for access in told["port"]] == [0x5A]
    assert [access.value for access in told["cpuid"]] == [0xFF]
    assert [(access.physical, access.value) for access in told["msr"]] == [(FIXED, TYPES)]
    refused, left = [access for access in accesses(done, "msr") if access.skipped]
    assert (refused.physical, refused.value) == (0xFE, None)
    assert (left.physical, left.value) == (0x2FF, 0xC06)
    leaf = [access for access in accesses(done, "cpuid") if access.skipped]
    assert [access.value for access in leaf] == [7, 0, 0, 0]
    ports = [access for access in accesses(done, "port") if access.skipped]
    assert [(port.physical, port.value) for port in ports] == [(0x71, 3), (0x80, 0)]
    notes = [record.note for record in read_trace(done.trace).intercepts if record.note]
    assert any("late" in note for note in notes)
