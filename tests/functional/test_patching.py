"""A guest of several vCPUs that patches its own code while they run through it."""

from __future__ import annotations

from pathlib import Path

import pytest
from vetrace_run import agreed, boot

pytestmark = pytest.mark.qemu

# A Linux patches its scheduler, on all vCPUs, each time that its statistics are turned on or off.
SCRIPT = """\
#!/bin/sh
for reader in 1 2; do
  ( while [ ! -e /stop ]; do dd if=/dev/zero of=/dev/null bs=512 count=200 2>/dev/null; done ) &
done
for turn in $(seq 500); do
  echo 1 > /proc/sys/kernel/sched_schedstats
  echo 0 > /proc/sys/kernel/sched_schedstats
done
echo > /stop
wait
echo patched
"""


def test_a_guest_of_two_vcpus_patches_itself(tmp_path: Path) -> None:
    (tmp_path / "script").write_text(SCRIPT)
    done = boot(
        tmp_path, "--realtime", "--quiet", "--check", "--init", tmp_path / "script",
        "--", "-smp", "2",
    )  # fmt: skip
    assert agreed(done) > 0
    assert "patched" in done.serial
    assert not [line for line in done.serial if "lockup" in line or "int3" in line]
