"""How a guest ended, from what its kernel prints."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.campaign.ending import Ending, ending

RIP = "RIP: 0010:nvme_pci_enable+0x55/0x3a0"
MODULE = "RIP: 0010:ahci_probe+0x1f4/0x900 [ahci]"
USER = "RIP: 0033:0x401680"
BOOTED = """\
[    0.000000] Linux version 6.1.0-56-cloud-amd64
vetrace-guest: kernel 6.1.0-56-cloud-amd64
vetrace-guest: disk nvme 194171a02c8a
vetrace-guest: network eth0 52:54:00:12:34:56 reachable
vetrace-guest: done
[    4.700000] reboot: Power down
"""

# Reports as kernels of 5.10 to 6.12 print them, shortened.
REPORTS = [
    (
        "[    1.2] BUG: KASAN: slab-out-of-bounds in nvme_init_ctrl+0x4a/0x90 [nvme_core]\n"
        "[    1.2] Read of size 4 at addr ffff888004 by task kworker/0:1/9\n" + RIP,
        "kasan", "nvme_init_ctrl+0x4a",
    ),
    (
        "[    1.2] BUG: KASAN: null-ptr-deref in range [0x0-0x7]\n" + RIP,
        "kasan", "range",
    ),
    (
        "general protection fault, probably for non-canonical address 0xdead: 0000 [#1]\n"
        f"CPU: 0 PID: 9 Comm: kworker\n{RIP}\n",
        "gpf", "nvme_pci_enable+0x55",
    ),
    (
        "[    1.3][   T9] BUG: unable to handle page fault for address: ffffc90000\n"
        "[    1.3][   T9] #PF: supervisor read access in kernel mode\n"
        f"[    1.3][   T9] Oops: 0000 [#1] PREEMPT SMP NOPTI\n[    1.3][   T9] {MODULE}\n",
        "oops", "ahci_probe+0x1f4 [ahci]",
    ),
    (f"Oops: VE fault: 0000 [#1] PREEMPT SMP NOPTI\n{RIP}", "oops", "nvme_pci_enable+0x55"),
    (f"kernel BUG at mm/slub.c:307!\ninvalid opcode: 0000 [#1]\n{RIP}", "oops",
     "nvme_pci_enable+0x55"),
    (f"divide error: 0000 [#1] SMP\n{RIP}\n", "oops", "nvme_pci_enable+0x55"),
    (
        f"watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [swapper/0:1]\n{RIP}\n",
        "soft lockup", "nvme_pci_enable+0x55",
    ),
    ("watchdog: Watchdog detected hard LOCKUP on cpu 0\n" + RIP, "hard lockup",
     "nvme_pci_enable+0x55"),
    ("rcu: INFO: rcu_sched self-detected stall on CPU\n" + RIP, "stall", "nvme_pci_enable+0x55"),
    ("INFO: task swapper/0:1 blocked for more than 120 seconds.\n", "hung task", ""),
    (
        "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\n",
        "panic", "VFS: Unable to mount root fs on unknown-block(0,0)",
    ),
    ("UBSAN: array-index-out-of-bounds in drivers/nvme/host/pci.c:9:3\n", "ubsan", ""),
    ("list_add corruption. next->prev should be prev\n" + RIP, "corruption",
     "nvme_pci_enable+0x55"),
]  # fmt: skip


@pytest.mark.parametrize(("report", "kind", "site"), REPORTS)
def test_what_a_kernel_reports(report: str, kind: str, site: str) -> None:
    found = ending(BOOTED + report, "vetrace: 1 accesses\n", 0)
    assert (found.kind, found.site) == (kind, site)
    first = report.splitlines()[0]
    assert first.endswith(found.line) and not found.line.startswith("[")
    # It is told also where the guest hung, or crashed, behind it.
    assert ending(BOOTED + report, "vetrace: the guest crashed: panic\n", 1) == found
    assert ending(report.replace("\n", "\r\n"), "", 0).site == site


def test_a_whole_report() -> None:
    report = Path(__file__).parents[2] / "data" / "oops.log"
    found = ending(report.read_text(), "", 0)
    assert (found.kind, found.site) == ("oops", "nvme_pci_enable+0x5e [nvme]")
    assert found.line == "BUG: unable to handle page fault for address: ffffc9000003401c"


def test_the_gravest_is_told_and_the_panic_that_follows_it_is_not() -> None:
    console = f"Oops: 0000 [#1]\n{RIP}\n{MODULE}\nKernel panic - not syncing: Fatal exception\n"
    found = ending(console, "", 1)
    assert (found.kind, found.site) == ("oops", "nvme_pci_enable+0x55")
    assert ending("Kernel panic - not syncing: x\n" + console, "", 1).kind == "oops"


def test_a_guest_that_hangs_tells_where() -> None:
    said = (
        "vetrace: last access: nvme+0x1c\nvetrace: vcpu0 is in nvme_wait_ready+0x20\n"
        "vetrace: the guest had not ended after 60 s of its own time: what it did last is above\n"
    )
    found = ending("[ 0.1] nvme nvme0: pci function\n", said, 1)
    assert (found.kind, found.site) == ("hang", "nvme_wait_ready+0x20")
    assert found.line.startswith("the guest had not ended")


@pytest.mark.parametrize(
    ("console", "said", "status", "found"),
    [
        (BOOTED, "", 0, Ending("clean")),
        (
            BOOTED.replace("disk nvme 194171a02c8a", "disk nvme none"), "", 0,
            Ending("probe failed", "", "vetrace-guest: disk nvme none"),
        ),
        (
            BOOTED.replace("reachable", "unreachable"), "", 0,
            Ending(
                "probe failed", "", "vetrace-guest: network eth0 52:54:00:12:34:56 unreachable"
            ),
        ),
        (
            f"[ 1.1] nvme nvme0: Removing after probe failure status: -19\n{BOOTED}", "", 0,
            Ending("probe failed", "", "nvme nvme0: Removing after probe failure status: -19"),
        ),
        (
            f"[ 1.0] WARNING: CPU: 0 PID: 1 at drivers/x.c:1 f+0x1/0x2\n{RIP}\n{BOOTED}", "", 0,
            Ending(
                "warning", "nvme_pci_enable+0x55",
                "WARNING: CPU: 0 PID: 1 at drivers/x.c:1 f+0x1/0x2",
            ),
        ),
        (
            "vetrace-guest: module nvme\n[ 1.0] up\n\n", "", 0,
            Ending("unfinished", "", "vetrace-guest: module nvme"),
        ),
        ("[ 1.0] of somebody else\n", "", 0, Ending("clean")),
        (
            "", "vetrace: reading\nvetrace: QEMU died while it ran: killed by SIGKILL\n", 1,
            Ending("failed", "", "QEMU died while it ran: killed by SIGKILL"),
        ),
        ("", "", 0, Ending("clean")),
        ("", "Traceback\n", 1, Ending("failed")),
    ],
)  # fmt: skip
def test_other_ends(console: str, said: str, status: int, found: Ending) -> None:
    assert ending(console, said, status) == found


def test_a_program_that_faults_is_no_end_of_the_kernel() -> None:
    assert ending(f"traps: probe[9] general prot\n{USER}\n{BOOTED}", "", 0).kind == "clean"


@given(st.text(max_size=300), st.text(max_size=300), st.integers(-15, 255))
def test_any_console_has_an_end(console: str, said: str, status: int) -> None:
    found = ending(console, said, status)
    assert found.kind and "\n" not in found.line
