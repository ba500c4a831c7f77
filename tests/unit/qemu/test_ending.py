"""tracer.qemu.ending: what counts as the guest's own end."""

from __future__ import annotations

import re
import signal

import pytest

from tracer.errors import GuestCrashed, GuestError, QemuError
from tracer.qemu.ending import Ending, check

PANIC = "[    4.242] Kernel panic - not syncing: Attempted to kill init!"


def ending(*console: str, cause: str = "guest-reset", status: int = 0) -> Ending:
    return Ending(status, cause, console, "", triple_fault=False)


def test_a_guest_that_powered_off_has_not_panicked() -> None:
    for words in ("a test of Kernel panic - not syncing", PANIC):
        assert check(ending(words, cause="guest-shutdown"))


@pytest.mark.parametrize(
    "line", [PANIC, "[    4.242][    T1] Kernel panic - not syncing: Attempted to kill init!"]
)
def test_a_panic_is_told_in_the_kernels_words(line: str) -> None:
    with pytest.raises(GuestCrashed, match=r"panicked: Kernel panic - not syncing: Attempted"):
        check(ending("[    1.0] fine", line, "[    4.243] Rebooting in 1 seconds.."))


def test_what_a_program_prints_is_no_panic() -> None:
    console = ("[    1.0] fine", "Kernel panic - not syncing: says a program", "echo Kernel panic")
    assert check(ending(*console))


def test_a_kernel_without_stamps_panics_too() -> None:
    with pytest.raises(GuestCrashed, match="Kernel panic - not syncing: VFS"):
        check(ending("fine", "Kernel panic - not syncing: VFS"))


@pytest.mark.parametrize(("cause", "status"), [("", 0), ("host-signal", 0), ("guest-reset", 1)])
def test_an_end_of_qemus_own(cause: str, status: int) -> None:
    with pytest.raises(QemuError, match="before its guest did"):
        check(ending("[    1.0] fine", cause=cause, status=status))


def test_a_guest_that_goes_no_further_is_ended_for_it() -> None:
    def rested(*console: str, fault: str = "") -> Ending:
        cause = "host-qmp-system-reset"
        return Ending(0, cause, console, "", triple_fault=False, at_rest=fault)

    assert check(rested("[    1.0] reboot: System halted"))
    with pytest.raises(GuestCrashed, match="Attempted to kill init"):
        check(rested(PANIC))
    with pytest.raises(GuestError, match=r"^it waits; mend it$"):
        check(rested(fault="it waits; mend it"))
    with pytest.raises(QemuError, match="before its guest did"):
        check(ending(cause="host-qmp-system-reset"))


@pytest.mark.parametrize("how", ["Rebooting", "Halting"])
def test_an_initramfs_that_gives_up_is_no_good_end(how: str) -> None:
    said = "ALERT!  /dev/vdz1 does not exist.  Dropping to a shell!"
    ends = f"{how} automatically due to panic= boot argument"
    with pytest.raises(GuestError, match=r"^the initramfs gave up \(ALERT!  /dev/vdz1 does not .*"):
        check(ending(said, ends, "[    4.2] reboot: machine restart"))
    assert check(ending(said, ends, cause="guest-shutdown"))


def test_an_exit_status_says_that_all_is_well() -> None:
    left = Ending(33, "", (PANIC,), "", triple_fault=False, accepted=33)
    assert check(left) is left
    with pytest.raises(QemuError, match="before its guest did: exit status 35"):
        check(Ending(35, "", (), "", triple_fault=False, accepted=33))
    with pytest.raises(QemuError, match=r"status 1; boot again, with --exit-ok 1 if that is how"):
        check(Ending(1, "", (), "", triple_fault=False))
    for status, errors in ((1, "no room"), (-9, "")):
        with pytest.raises(QemuError, match=r"; boot again$"):
            check(Ending(status, "", (), errors, triple_fault=False))
    assert check(Ending(0, "guest-shutdown", (), "", triple_fault=False, accepted=33))


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        ("", "killed by SIGABRT; boot again"),
        ("qemu: warning: odd\n**\nERROR:../tcg.c:9:f: assertion failed: (a)\nBail out! ERROR:x",
         "killed by SIGABRT: ERROR:../tcg.c:9:f: assertion failed: (a); boot again"),
        ("qemu: hardware error: no unit\nCPU #0:\nEAX=00000000",
         "killed by SIGABRT: qemu: hardware error: no unit; boot again"),
        ("qemu: out of mind", "killed by SIGABRT: qemu: out of mind; boot again"),
    ],
)  # fmt: skip
def test_a_qemu_that_gives_itself_up_says_why(errors: str, told: str) -> None:
    with pytest.raises(QemuError, match=re.escape(f"before its guest did: {told}") + "$"):
        check(Ending(-signal.SIGABRT, "", (), errors, triple_fault=False))


def test_a_clock_of_qemus_that_a_guest_breaks_has_its_own_remedy() -> None:
    said = "qemu-system-x86_64: Bad icount read\n"
    with pytest.raises(QemuError, match=r"Bad icount read; its virtual .* with --realtime$"):
        check(Ending(1, "", (), said, triple_fault=False))
