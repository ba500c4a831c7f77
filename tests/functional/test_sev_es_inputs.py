"""Debian's kernels as SEV-ES guests whose ports, MSRs and CPUID raise #VC: their handlers ask."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from confidential_kernel import kernel_for, powered_off
from guest_program import assemble, initrd
from inputs_witness import disagreements, ports
from vetrace_run import Run, Trace, boot, read_trace, run

from tracer.confidential.kind import Kind
from tracer.trace.call import VmgexitRecord

pytestmark = pytest.mark.qemu

_HYPERVISOR = 0x4000_0000
_BASES = range(0xC000_0100, 0xC000_0103)
_RARE = {"write DR7", "read DR7", "WBINVD", "RDPMC", "MONITOR", "MWAIT", "VMMCALL"}
"""Events of #VC that are answered by a stop."""


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("sev-inputs")
    return boot(
        folder, "--guest", "sev-es", "--quiet", "--check", "--inputs", "--bypass", "lapic",
        "--qemu-log", folder / "qemu.log",
    )  # fmt: skip


@pytest.fixture(scope="module")
def trace(traced: Run) -> Trace:
    return read_trace(traced.trace)


def asked_for(trace: Trace) -> None:
    """Check that each #VC was asked about: of a device, of an input, or by a call of its own."""
    counts = trace.end.counts
    assert counts["vc"] == counts["mmio_calls"] + counts["input_calls"]
    assert not counts.get("inputs not asked for") and not counts.get("given_up")
    assert counts["mmio_calls"] == counts["agreed"] > 0


def test_the_guests_handler_asks_for_each_port(traced: Run, trace: Trace) -> None:
    powered_off(traced, Kind.SEV_ES)
    made = ports(trace.intercepts)
    assert len(made) > 10_000 and disagreements(trace, traced.qemu_log) == []
    asked_for(trace)
    assert trace.end.counts["input_calls"] > len(made)
    # Stops are those of devices, and few more.
    assert trace.end.counts["stops"] < 2 * trace.end.counts["mmio_calls"] + 200


def test_records_are_of_the_instruction_and_not_of_the_call(trace: Trace) -> None:
    symbols: Counter[str] = Counter()
    for record in trace.intercepts:
        (access, *_) = record.accesses
        if access.space not in ("port", "msr", "cpuid"):
            continue
        assert record.code
        assert record.via == "monitor" and "vmmcall" not in record.text
        symbols[(record.symbol or "").partition("+")[0]] += 1
        if access.space == "msr":
            assert record.before["rcx"] & 0xFFFF_FFFF == access.physical not in _BASES
        elif access.space == "cpuid":
            assert record.before["rax"] & 0xFFFF_FFFF == access.physical & 0xFFFF_FFFF
        elif record.text in ("in al, dx", "out dx, al", "in eax, dx", "out dx, eax"):
            assert record.before["rdx"] & 0xFFFF == access.physical
    wanted = {"io_serial_out", "pci_conf1_read", "native_read_msr", "native_cpuid"}
    assert wanted <= symbols.keys()


def test_rare_events_are_answered_by_a_stop(trace: Trace) -> None:
    names = {record.name for record in trace.records if isinstance(record, VmgexitRecord)}
    assert names & _RARE


def test_such_a_trace_is_replayed(traced: Run, tmp_path: Path) -> None:
    replayed = run(tmp_path, "replay", traced.trace)
    assert replayed.status == 0, replayed.out + replayed.err


@pytest.mark.long
def test_each_of_several_vcpus_asks(tmp_path: Path) -> None:
    done = boot(
        tmp_path, "--guest", "sev-es", "--quiet", "--check", "--inputs", "--realtime",
        "--bypass", "lapic", "--bypass", "hpet", "--append", "tsc=reliable",
        "--qemu-log", tmp_path / "qemu.log", "--", "-smp", "2",
    )  # fmt: skip
    powered_off(done, Kind.SEV_ES)
    trace = read_trace(done.trace)
    assert disagreements(trace, done.qemu_log) == []
    asked_for(trace)
    ways = {(record.vcpu, record.accesses[0].space) for record in trace.intercepts}
    spaces = "memory", "port", "msr", "cpuid", "irq"
    assert {(vcpu, space) for vcpu in (0, 1) for space in spaces} <= ways
    first = next(record for record in trace.intercepts if record.vcpu == 1)
    # The latter is Linux 6.12's name for it.
    names = "secondary_startup_64_no_verify", "common_startup_64"
    assert (first.symbol or "").startswith(names)


@pytest.mark.long
def test_another_kernel_asks_for_a_programs_leaf_and_strings(tmp_path: Path) -> None:
    program = assemble(tmp_path, "elements")
    commands = "/tmp/elements; echo elements: status $?"
    done = boot(
        tmp_path, "--guest", "sev-es", "--kernel", kernel_for(Kind.TDX), "--kaslr", "--quiet",
        "--inputs", "--region", "virtio-net.common", "--initrd",
        initrd(tmp_path, program, commands), "--qemu-log", tmp_path / "qemu.log",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert "elements: status 3" in "\n".join(done.serial)
    trace = read_trace(done.trace)
    assert disagreements(trace, done.qemu_log) == []
    asked_for(trace)
    mine = [record for record in trace.intercepts if record.cpl == 3]
    (leaf,) = [record for record in mine if record.accesses[0].physical == _HYPERVISOR]
    assert leaf.accesses[1].value == int.from_bytes(b"TCGT", "little") and leaf.text == "cpuid"
    strings = [record for record in mine if record.text.startswith("rep")]
    assert [record.accesses[0].value for record in strings] == [*b"QEMUQEMU"]
    assert [record.before["rcx"] for record in strings] == [4, 3, 2, 1] * 2
    first = strings[0].before["rdi"]
    assert [record.before["rdi"] - first for record in strings[:4]] == [0, 1, 2, 3]
