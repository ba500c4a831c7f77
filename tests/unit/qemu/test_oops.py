"""tracer.qemu.oops: what a guest said when it went down."""

from __future__ import annotations

import pytest

from tracer.qemu.oops import at_rest, panic

PANIC = "[    3.548190] Kernel panic - not syncing: Fatal exception in interrupt"
PAGE_FAULT = """\
[    3.548128] BUG: unable to handle page fault for address: ffffc90000123000
[    3.548129] #PF: supervisor read access in kernel mode
[    3.548130] #PF: error_code(0x0000) - not-present page
[    3.548131] PGD 100000067 P4D 100000067 PUD 0
[    3.548132] Oops: Oops: 0000 [#1] PREEMPT SMP NOPTI
[    3.548133] CPU: 1 UID: 0 PID: 0 Comm: swapper/1 Not tainted 6.12.95 #1
[    3.548134] RIP: 0010:nvme_irq+0x1f/0x80
[    3.548135] Code: 8b 47 08
[    3.548136] RIP: 0033:0x7f0000001234
[    3.548137] ---[ end trace 0000000000000000 ]---
[    3.548138] RIP: 0010:nvme_irq+0x1f/0x80""".splitlines()


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (PAGE_FAULT, "BUG: unable to handle page fault for address: ffffc90000123000, at nvme_irq"),
        (PAGE_FAULT[4:], "Oops: Oops, at nvme_irq"),
        (["[    1.0] VE fault: 0000 [#1] SMP", *PAGE_FAULT[6:]], "VE fault, at nvme_irq"),
        (
            ["[    1.0] kernel BUG at mm/slub.c:4!", "[    1.0] invalid opcode: 0000 [#1]"],
            "kernel BUG at mm/slub.c:4!",
        ),
        # The second is of what the first left behind.
        ([*PAGE_FAULT, "[    3.6] Oops: Oops: 0002 [#2] PREEMPT SMP NOPTI"], "BUG: unable to"),
    ],
)
def test_a_panic_is_told_with_the_oops_before_it(lines: list[str], told: str) -> None:
    said = panic([*lines, PANIC])
    assert said is not None
    assert said.startswith(
        "Kernel panic - not syncing: Fatal exception in interrupt, after " + told
    )


def test_what_comes_without_an_oops_is_told_as_it_is() -> None:
    no_root = "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)"
    assert panic(["[    1.0] fine", f"[    2.0] {no_root}"]) == no_root


def test_what_a_program_prints_is_neither() -> None:
    words = [line.partition("] ")[2] for line in PAGE_FAULT]
    assert panic([*words, PANIC]) == "Kernel panic - not syncing: Fatal exception in interrupt"
    assert panic(["[    1.0] fine", *words, PANIC.partition("] ")[2]]) is None


def test_an_oops_that_the_guest_outlived_is_no_panic() -> None:
    assert panic(PAGE_FAULT) is None


STAYS = "---[ end Kernel panic - not syncing: sysrq triggered crash ]---"
HALTED = "reboot: System halted"


@pytest.mark.parametrize("last", [STAYS, HALTED])
def test_a_kernel_that_does_nothing_more(last: str) -> None:
    assert at_rest(["[    1.0] fine", f"[    2.0] {last}"])
    assert at_rest(["[    1.0][    T1] fine", f"[    2.0][    T1] {last}", " "])
    assert at_rest(["fine", last])


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["[    1.0] fine", STAYS],
        ["[    1.0] fine", HALTED],
        [f"[    1.0] {HALTED}", "[    2.0] it goes on"],
        [f"[    1.0] {HALTED}", "a program"],
        ["[    1.0] a driver says reboot: System halted"],
        [PANIC, "[    3.6] Rebooting in 30 seconds.."],
        [PANIC],
    ],
)
def test_a_kernel_that_may_go_on(lines: list[str]) -> None:
    assert not at_rest(lines)
