"""What QEMU refuses comes with what to do: its own words, as it was seen to say them."""

from __future__ import annotations

import pytest

from tracer.qemu.refusal import remedy, taken


@pytest.mark.parametrize(
    ("complaint", "words"),
    [
        ("-device edu: No 'PCI' bus found for device 'edu'", "--machine"),
        ("-device edu: No 'PCI' bus found for device 'edu'", "--no-default-devices"),
        ("-device usb-mouse: No 'usb-bus' bus found for device 'usb-mouse'",
         "--device qemu-xhci before it"),
        ("-device x: 'x' is not a valid device model name", "`qemu -device help`"),
        ("unsupported machine type", "`qemu -machine help`"),
        ("unsupported machine type", "has a / or ends in .cfg"),
        ("-device edu,id=a: Duplicate ID 'a' for device", "another id"),
        ("Machine memory size does not match the size of the memory backend", "--memory SIZE"),
        ("-drive if=pflash,unit=0: machine type does not support if=pflash,bus=0,unit=0",
         "--firmware uefi needs"),
        ('-drive file=x: Failed to get shared "write" lock', "another program"),
        ("-serial stdio: cannot use stdio by multiple character devices", "--serial FILE"),
        ('The -accel and "-machine accel=" options are incompatible', "drop -accel"),
        ("-accel tcg,thread=multi: No MTTCG when icount is enabled", "boot with --realtime"),
        ("CPU model 'host' requires KVM or HVF", "-cpu MODEL"),
    ],
)  # fmt: skip
def test_a_complaint_has_its_remedy(complaint: str, words: str) -> None:
    told = remedy(complaint, "qemu")
    assert told.startswith("; ")
    assert words in told


def test_what_says_all_by_itself_has_none() -> None:
    assert remedy("-device nvme: serial property not set") == ""


def test_options_that_vetrace_holds() -> None:
    assert "--memory" in (taken("-m") or "")
    assert taken("--gdb") == taken("-s")
    assert [taken(word) for word in ("m", "-machine", "-", "kernel")] == [None] * 4
