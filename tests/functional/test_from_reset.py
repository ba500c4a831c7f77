"""A guest that is traced from its CPU's reset on: firmware, boot loader, and what they start."""

from __future__ import annotations

from pathlib import Path

import pytest
from vetrace_run import Run, agreed, boot, drove_its_devices, read_trace, run

pytestmark = pytest.mark.qemu


def nested(folder: Path, *options: str | Path) -> Run:
    return boot(folder, "--from-reset", "--check", "--quiet", *options)


def test_a_boot_is_traced_from_the_first_instruction_on(tmp_path: Path) -> None:
    done = nested(tmp_path, "--inputs")
    assert agreed(done) > 100_000
    drove_its_devices(done)
    trace = read_trace(done.trace)
    first = next(record for record in trace.intercepts if record.accesses[0].space == "memory")
    assert first.mode == 32 and first.symbol is None  # firmware, without paging
    assert {record.mode for record in trace.intercepts} == {16, 32, 64}
    assert any(
        (record.symbol or "").startswith("native_io_apic_read") for record in trace.intercepts
    )
    replayed = run(tmp_path, "replay", done.trace)
    assert replayed.status == 0 and "no divergence" in replayed.out, replayed.out + replayed.err


def test_what_cannot_be_is_one_line(tmp_path: Path) -> None:
    for options, why in (
        (("--from-reset", "--trap", "entry"), "--from-reset is for --trap nested"),
        (("--from-reset", "--machine", "microvm"), "a machine with PCI"),
        (("--from-reset", "--realtime", "--", "-smp", "2"), "follows one vCPU"),
    ):
        done = run(tmp_path, "boot", *options)
        assert done.status == 2
        (complaint,) = done.complaints
        assert why in complaint
