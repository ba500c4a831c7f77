"""tracer.qemu.firmware: what a machine starts with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracer.errors import QemuError, UsageError
from tracer.qemu.firmware import Firmware, firmware_arguments, parse_firmware


def test_names() -> None:
    assert parse_firmware("uefi") is Firmware.UEFI
    with pytest.raises(UsageError, match="there is no firmware 'uefy'; did you mean uefi"):
        parse_firmware("uefy")


def test_qemus_own_needs_no_arguments() -> None:
    assert firmware_arguments(Firmware.BIOS) == ()


def test_the_first_pair_that_is_there_is_taken_and_its_variables_are_not_changed(
    tmp_path: Path,
) -> None:
    pairs = [(str(tmp_path / f"code{n}"), str(tmp_path / f"vars{n}")) for n in range(3)]
    for name in ("code0", "code1", "vars1", "code2", "vars2"):
        (tmp_path / name).touch()
    code, variables = firmware_arguments(Firmware.UEFI, pairs)[1::2]
    assert code == f"if=pflash,unit=0,format=raw,readonly=on,file={pairs[1][0]}"
    assert variables == f"if=pflash,unit=1,format=raw,snapshot=on,file={pairs[1][1]}"


def test_firmware_that_is_not_there_says_what_to_install() -> None:
    with pytest.raises(QemuError, match="install ovmf"):
        firmware_arguments(Firmware.UEFI, [("/none/code", "/none/vars")])
