"""UEFI firmware for QEMU's machines, and its store of variables.

Ref: edk2 OvmfPkg/README, "VARS and CODE": code and variables are one flash chip each.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from tracer.errors import QemuError, UsageError, advice


class Firmware(StrEnum):
    """Name what a machine starts with."""

    BIOS = "bios"
    UEFI = "uefi"


_PAIRS = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
)
"""Code and variables as Debian, Arch and Fedora have them, best first."""


def parse_firmware(text: str) -> Firmware:
    """Return the firmware of that name. Raises UsageError for what is none."""
    try:
        return Firmware(text)
    except ValueError:
        advised = advice(text, list(Firmware))
        raise UsageError(f"there is no firmware {text!r}{advised}") from None


def firmware_arguments(
    firmware: Firmware, pairs: Iterable[tuple[str, str]] = _PAIRS
) -> tuple[str, ...]:
    """Return the QEMU arguments for a machine that starts with it.

    What it writes to its variables is thrown away. Raises QemuError where it is not installed.
    """
    if firmware is Firmware.BIOS:
        return ()  # QEMU's own
    for code, variables in pairs:
        if Path(code).is_file() and Path(variables).is_file():
            return (
                "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}",
                "-drive", f"if=pflash,unit=1,format=raw,snapshot=on,file={variables}",
            )  # fmt: skip
    raise QemuError("UEFI firmware for QEMU is not there: install ovmf")
