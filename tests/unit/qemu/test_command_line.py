"""The arguments that QEMU gets, and those that take features off its CPUs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tracer.qemu.command_line import MachineConfig, features_off, hidden_ram, machine_arguments

HELP = """\
Available CPUs:
  max                   Enables all features supported by the accelerator
Recognized CPUID flags:
  flush-l1d flushbyasid fma fma4 fpu {} fsgsbase fsrc fsrm fsrs
  vmx-entry-load-efer vmx-entry-load-fred vmx-entry-load-pat
"""

OLD = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright (c) 2003-2022"
NEW = "QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)\nCopyright (c) 2003-2025"

CONFIG = MachineConfig("qemu", Path("/kernel"), None, "quiet", 64 << 20)


def arguments(config: MachineConfig) -> list[str]:
    return machine_arguments(config, ram=7, monitor=8, gdb=Path("/there/gdb"))


def test_time_counts_instructions_unless_it_is_real() -> None:
    assert "-icount" in arguments(CONFIG)
    assert "-icount" not in arguments(replace(CONFIG, realtime=True))


def test_ram_is_the_file_that_is_shared() -> None:
    (backend,) = [word for word in arguments(CONFIG) if word.startswith("memory-backend-file")]
    assert "size=67108864" in backend and "mem-path=/proc/self/fd/7" in backend


def test_ram_a_second_time_is_the_same_file_behind_which_is_room() -> None:
    words = arguments(replace(CONFIG, second_ram=1 << 39))
    files = [word.split(",", 2)[2] for word in words if word.startswith("memory-backend-file")]
    assert len(files) == 2 and len(set(files)) == 1
    assert f"64M,slots=1,maxmem={(1 << 19) + 128}M" in words
    assert any(word.startswith("virtio-pmem-pci") and "0x8000000000" in word for word in words)


@pytest.mark.parametrize("mebibytes", [64, 65, 512, 1000, 1024, 3000, 8192])
def test_ram_that_the_guest_is_not_told_of_is_behind_the_same_file(mebibytes: int) -> None:
    size, gib = mebibytes << 20, 1 << 30
    hidden = hidden_ram(size)
    assert hidden.start >= 4 * gib + size and hidden.start // gib == (hidden.stop - 1) // gib
    config = replace(CONFIG, memory=size, hidden=hidden)
    words = arguments(config)
    front, behind = [word for word in words if word.startswith("memory-backend-file")]
    assert f"size={size}," in front and f"size={config.file_size}," in behind
    (module,) = [word for word in words if word.startswith("pc-dimm")]
    at = int(module.rpartition("addr=")[2], 16)
    assert at % gib == 0 and at + config.file_size == hidden.stop
    # What is hidden is not the guest's RAM once more.
    assert hidden.start - at >= size and config.file_size % (2 << 20) == 0
    assert f"{mebibytes}M,slots=1,maxmem={hidden.stop >> 20}M" in words
    assert CONFIG.file_size == CONFIG.memory


def test_from_its_reset_a_guest_does_not_find_what_it_is_not_told_of() -> None:
    hidden = hidden_ram(CONFIG.memory)
    words = arguments(replace(CONFIG, hidden=hidden, from_reset=True))
    (device,) = [word for word in words if word.startswith("virtio-pmem-pci")]
    base = hidden.stop - replace(CONFIG, hidden=hidden).file_size
    assert f"memaddr={base:#x}," in device and device.endswith(",addr=1e.7")
    assert "smm=off" in words and not any(word.startswith("pc-dimm") for word in words)
    assert "smm=off" not in arguments(CONFIG)


def test_fred_is_off_where_qemu_knows_it() -> None:
    assert features_off(HELP.format("fred"), NEW) == ("-global", "x86_64-cpu.fred=off")


def test_a_property_that_qemu_does_not_know_is_left_out() -> None:
    assert features_off(HELP.format(""), NEW) == ()
    assert features_off("", "") == ()


def test_an_instruction_that_qemu_gets_wrong_is_off() -> None:
    assert features_off(HELP.format("cx16"), OLD) == ("-global", "x86_64-cpu.cx16=off")
    assert features_off(HELP.format("cx16"), NEW) == ()
    assert features_off(HELP.format(""), OLD) == ()
