"""Traps by physical address: nothing of the guest's is changed, and the same is seen."""

from __future__ import annotations

from pathlib import Path

import pytest
from vetrace_run import Run, agreed, boot, drove_its_devices, read_trace, run

pytestmark = pytest.mark.qemu


def nested(folder: Path, *options: str | Path) -> Run:
    return boot(folder, "--trap", "nested", "--check", "--quiet", *options)


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("default")
    return nested(folder, "--kaslr", "--append", "pti=on", "--inputs")


def test_a_kernel_is_traced_without_a_hook_in_it(default: Run) -> None:
    assert agreed(default) > 80_000
    assert " 0 of them for mappings" in default.err
    drove_its_devices(default)
    records = read_trace(default.trace).intercepts
    spaces = {access.space for record in records for access in record.accesses}
    assert spaces == {"memory", "port", "config", "msr", "cpuid", "irq"}
    ways = {record.via for record in records}
    assert ways == {"emulated", "compiled", "monitor"}


def test_its_trace_replays(default: Run) -> None:
    done = run(default.folder, "replay", default.trace)
    assert done.status == 0 and "no divergence" in done.out, done.out + done.err


def test_it_is_let_go_from_within_the_monitor(tmp_path: Path) -> None:
    script = "break nvme.CC; continue; regs; peek lapic+0x20; step; detach"
    done = boot(tmp_path, "--trap", "nested", "--quiet", "-e", script)
    assert done.status == 0, done.err + done.out
    assert "lapic+0x20 ID" in done.out
    drove_its_devices(done)


def test_several_vcpus_have_one_order(tmp_path: Path) -> None:
    done = nested(tmp_path, "--realtime", "--stacks", "--", "-smp", "2")
    agreed(done)
    drove_its_devices(done)
    records = [record for record in read_trace(done.trace).intercepts if record.cpl == 0]
    assert {record.vcpu for record in records} == {0, 1}
    assert all(record.stack is not None for record in records)
