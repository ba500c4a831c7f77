"""Debian's own kernel as a TDX guest whose ports, MSRs and CPUID raise #VE: its handlers ask."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from confidential_kernel import kernel_for, powered_off
from inputs_witness import disagreements, ports
from vetrace_run import Run, Trace, boot, read_trace, run

from tracer.confidential.kind import Kind

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
