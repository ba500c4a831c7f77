"""Functions that map pages: many calls for RAM cost no stop, and the guest's ftrace is content."""

from __future__ import annotations

import pytest
from vetrace_run import Run, agreed, boot, read_trace

from tracer.guest.initramfs import build_initramfs

pytestmark = pytest.mark.qemu

PROCESSES = 100

# Each process that reads the clock has the kernel's clock page mapped, by vmf_insert_pfn_prot.
INIT = f"""\
#!/bin/sh
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tracefs tracefs /sys/kernel/tracing
left={PROCESSES}
while [ $left -gt 0 ]; do
    date > /dev/null
    left=$((left - 1))
done
cd /sys/kernel/tracing
echo vfs_open > set_ftrace_filter
echo function > current_tracer
cat /proc/version > /dev/null
echo 0 > tracing_on
echo "tracer $(cat current_tracer) $(grep -c vfs_open trace)"
echo "done"
poweroff -f
"""


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("busy")
    (folder / "init").write_text(INIT)
    initrd = build_initramfs(folder / "init", None)
    # With addresses and page tables as a distribution's kernel has them by default.
    hardened = ("--kaslr", "--append", "pti=on")
    return boot(folder, "--quiet", "--check", "--initrd", initrd, *hardened)


def test_processes_cost_no_stops(busy: Run) -> None:
    assert agreed(busy) > 1000
    assert "done" in busy.serial
    counts = read_trace(busy.trace).end.counts
    assert 0 < counts["hooks"] < PROCESSES
    assert counts.get("ram_hooks", 0) < counts["hooks"] / 2


def test_the_guests_own_tracer_works(busy: Run) -> None:
    (said,) = [line for line in busy.serial if line.startswith("tracer ")]
    _, tracer, lines = said.split()
    assert tracer == "function" and int(lines) > 0
    complaints = ("WARNING", "ftrace bug", "ftrace failed", "BUG")
    assert not [line for line in busy.serial if any(word in line for word in complaints)]
