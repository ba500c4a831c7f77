"""What QEMU refuses, and what a reader of vetrace does about it; the options that vetrace holds.

Ref: QEMU softmmu/qdev-monitor.c, hw/core/machine.c, softmmu/vl.c, chardev/char-mux.c.
"""

from __future__ import annotations

import re

from tracer.qemu.option import option_name

_OWN_OPTIONS = {
    "m": "give --memory SIZE before -- instead",
    "kernel": "give --kernel BZIMAGE before -- instead",
    "initrd": "give --initrd FILE before -- instead",
    "append": "give --append STR before -- instead",
    "s": "vetrace itself is at QEMU's GDB stub",
    "gdb": "vetrace itself is at QEMU's GDB stub",
    "daemonize": "QEMU ends with vetrace",
}
"""QEMU's options for what vetrace has to know of the guest or holds itself, and what to say."""

_CONTROLLERS = {
    "usb-bus": "qemu-xhci",
    "SCSI": "virtio-scsi-pci",
    "IDE": "ahci",
    "HDA": "intel-hda",
    "virtio-serial-bus": "virtio-serial-pci",
    "sd-bus": "sdhci-pci",
}
"""Devices of QEMU's that have the buses which no machine has from the start."""

_REMEDIES = (
    (r"'\S+' is not a valid device model name", "`{qemu} -device help` lists all"),
    (r"unsupported machine type", "`{qemu} -machine help` lists all; a "
     "file of QEMU's options (--machine) has a / or ends in .cfg"),
    (r"Duplicate ID '(\S+)'|Duplicate device ID '(\S+)'",
     "give another id, or leave the default devices out with --no-default-devices"),
    (r"machine type does not support if=pflash",
     "--firmware uefi needs a machine with flash, such as q35 or pc"),
    (r"Machine memory size does not match", "say how much RAM there is with --memory SIZE"),
    (r'Failed to get (?:shared )?"?\w+"? lock', "another program writes to it: end that first"),
    (r"cannot use stdio by multiple|only be (?:used by|connected to) one|stdio.* in use",
     "vetrace has the guest's console: --serial FILE keeps what it prints"),
    (r"-accel and", "vetrace has QEMU use TCG: drop -accel"),
    (r"No MTTCG when icount", "boot with --realtime"),
    (r"requires KVM", "name a model that TCG has with -- -cpu MODEL, such as max"),
    (r"^exit status 0$", "ask {qemu} itself for help and versions"),
)  # fmt: skip


def taken(word: str) -> str | None:
    """Return what to do in place of a QEMU option that vetrace holds itself, None for another."""
    return _OWN_OPTIONS.get(option_name(word))


def remedy(complaint: str, qemu: str = "qemu-system-x86_64") -> str:
    """Return what to do about a complaint of QEMU's, to be put behind it, or nothing."""
    bus = re.search(r"No '(\S+)' bus found for device '(\S+)'", complaint)
    if bus is not None:
        return f"; {_bus(bus[1])}"
    for pattern, words in _REMEDIES:
        if re.search(pattern, complaint):
            return f"; {words.format(qemu=qemu)}"
    return ""


def _bus(name: str) -> str:
    controller = _CONTROLLERS.get(name)
    if controller is not None:
        return f"add one with --device {controller} before it"
    return (
        f"this machine has no {name} bus: choose one that has with --machine (q35 and pc have PCI "
        "and ISA), leave the default devices out with --no-default-devices, or drop the device"
    )
