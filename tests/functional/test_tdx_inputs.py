"""Debian's own kernel as a TDX guest whose ports, MSRs and CPUID raise #VE: its handlers ask."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from confidential_kernel import kernel_for, powered_off
from guest_program import assemble, initrd
from inputs_witness import disagreements, ports
from vetrace_run import Run, Trace, boot, read_trace, run

from tracer.confidential.kind import Kind
from tracer.trace.call import TdcallRecord
from tracer.trace.record import StackRecord

pytestmark = pytest.mark.qemu

_HYPERVISOR = range(0x4000_0000, 0x5000_0000)
_MTRR = range(0x200, 0x210)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("tdx-inputs")
    return boot(
        folder, "--guest", "tdx", "--kernel", kernel_for(Kind.TDX), "--kaslr", "--quiet", "--check",
        "--inputs", "--qemu-log", folder / "qemu.log",
    )  # fmt: skip


@pytest.fixture(scope="module")
def trace(traced: Run) -> Trace:
    return read_trace(traced.trace)


def test_the_guests_handler_asks_for_each_port(traced: Run, trace: Trace) -> None:
    counts = powered_off(traced, Kind.TDX)
    made = len(ports(trace.intercepts))
    assert made > 10_000 and disagreements(trace, traced.qemu_log) == []
    # Each raised #VE, was fetched, and asked for: beside devices, ports, MSRs and leaves of CPUID.
    assert counts["ve"] == counts["ve_info"] == counts["mmio_calls"] + counts["input_calls"]
    assert counts["input_calls"] > made and "not raised" not in counts
    assert counts["stops"] < 500


def test_records_are_of_the_instruction_and_not_of_the_module(trace: Trace) -> None:
    symbols: Counter[str] = Counter()
    for record in trace.intercepts:
        (access, *_) = record.accesses
        if access.space not in ("port", "msr"):
            continue
        assert record.symbol and record.code and record.via == "monitor"
        symbols[record.symbol.partition("+")[0]] += 1
        # Linux asks for what its registers have.
        if access.space == "msr":
            assert record.before["rcx"] & 0xFFFF_FFFF == access.physical
        elif record.text in ("in al, dx", "out dx, al", "in eax, dx", "out dx, eax"):
            assert record.before["rdx"] & 0xFFFF == access.physical
    assert {"io_serial_out", "pci_conf1_read", "native_read_msr"} <= symbols.keys()


def test_leaves_and_msrs_of_both_kinds_are_there(trace: Trace) -> None:
    leaves = {
        record.accesses[0].physical & 0xFFFF_FFFF
        for record in trace.intercepts
        if record.accesses[0].space == "cpuid"
    }
    assert leaves & {*_HYPERVISOR[:4]} and leaves & {0, 1, 7}
    msrs = {
        record.accesses[0].physical
        for record in trace.intercepts
        if record.accesses[0].space == "msr"
    }
    assert msrs & {*_MTRR} and msrs & {0xC000_0080, 0xC000_0082}


def test_such_a_trace_is_replayed(traced: Run, tmp_path: Path) -> None:
    replayed = run(tmp_path, "replay", traced.trace)
    assert replayed.status == 0, replayed.out + replayed.err


def test_a_programs_leaf_is_asked_for_and_its_port_is_its_end(tmp_path: Path) -> None:
    program = assemble(tmp_path, "leaves")
    commands = "/tmp/leaves; echo leaf: status $?; /tmp/leaves x; echo port: status $?"
    done = boot(
        tmp_path, "--guest", "tdx", "--kernel", kernel_for(Kind.TDX), "--quiet", "--inputs",
        "--initrd", initrd(tmp_path, program, commands), "--qemu-log", tmp_path / "qemu.log",
    )  # fmt: skip
    assert done.status == 0, done.err
    said = "\n".join(done.serial)
    # Linux asks for a program's CPUID alone (virt_exception_user).
    assert "leaf: status 3" in said and "port: status 139" in said
    assert "Unexpected #VE: 30" in said
    trace = read_trace(done.trace)
    assert disagreements(trace, done.qemu_log) == []
    (asked,) = [
        record
        for record in trace.intercepts
        if record.accesses[0].space == "cpuid"
        and record.accesses[0].physical == _HYPERVISOR[0]
        and not record.symbol
    ]
    assert asked.accesses[1].value == int.from_bytes(b"TCGT", "little")
    assert asked.text == "cpuid" and asked.before["rax"] == _HYPERVISOR[0]
    counts = trace.end.counts
    # Nobody asks for the port: it is not accessed.
    assert counts["ve"] == counts["mmio_calls"] + counts["input_calls"] + 1


@pytest.mark.long
def test_several_vcpus_ask_and_a_vcpu_that_stops_sleeps(tmp_path: Path) -> None:
    done = boot(
        tmp_path, "--guest", "tdx", "--kernel", kernel_for(Kind.TDX), "--quiet", "--check",
        "--inputs", "--realtime", "--qemu-log", tmp_path / "qemu.log", "--", "-smp", "2",
    )  # fmt: skip
    powered_off(done, Kind.TDX)
    trace = read_trace(done.trace)
    assert disagreements(trace, done.qemu_log) == []
    ways = {(record.vcpu, record.accesses[0].space) for record in trace.intercepts}
    assert {(vcpu, space) for vcpu in (0, 1) for space in ("port", "msr", "cpuid")} <= ways
    blocked = [
        record
        for record in trace.records
        if isinstance(record, TdcallRecord)
        and record.name.endswith("HLT>")
        and record.given["r12"] == 1
    ]
    assert blocked and all(record.symbol for record in blocked)


def test_interrupts_are_taken_once(trace: Trace) -> None:
    vectors = Counter(
        record.accesses[0].value for record in trace.intercepts if record.accesses[0].space == "irq"
    )
    assert 0xEC in vectors and sum(vectors.values()) > 500  # the LAPIC's timer


def test_inputs_have_the_call_chain_of_the_instruction_that_raised_ve(tmp_path: Path) -> None:
    done = boot(
        tmp_path, "--guest", "tdx", "--kernel", kernel_for(Kind.TDX), "--quiet", "--inputs",
        "--stacks", "--bypass", "lapic", "--guest-timeout", "2.2",
    )  # fmt: skip
    trace = read_trace(done.trace)
    chains = {
        record.id: record.frames for record in trace.records if isinstance(record, StackRecord)
    }
    callers = {
        (frame.symbol or "").partition("+")[0]
        for record in trace.intercepts
        if record.accesses[0].space == "port" and record.cpl == 0
        for frame in chains[record.stack][1:]
    }
    assert "start_kernel" in callers and not {name for name in callers if "tdx" in name}
    assert any(record.accesses[0].space == "memory" and record.stack for record in trace.intercepts)
    # An interrupt may come upon code of vetrace's own, which no table tells of.
    lost = [record for record in trace.records if isinstance(record, StackRecord) and record.lost]
    assert [record for record in lost if len(record.frames) > 1] == []
