"""Flash chips, which show memory to reads and are devices to writes: by hand, by UEFI firmware."""

from __future__ import annotations

import shutil
from pathlib import Path

import guest_program
import pytest
from vetrace_run import Run, agreed, boot, need, read_trace

from tracer.guest.initramfs import build_initramfs
from tracer.linux.kernel import default_kernel, open_kernel

pytestmark = pytest.mark.qemu

SEABIOS = Path("/usr/share/seabios/bios-256k.bin")
OVMF = Path("/usr/share/OVMF")
CHIP = 0xFFFB_0000
"""The second chip, 64 KiB, lies below the first one, which ends at 4 GiB (hw/i386/pc_sysfw.c)."""

# Intel's command set (CFI 01): 0x90 shows the identifier, 0xff the memory again.
COMMANDS = f"""
chip={CHIP:#x}
echo "memory $(devmem $chip 8)"
devmem $chip 8 0x90
echo "identifier $(devmem $chip 8) $(devmem $((chip + 1)) 8)"
devmem $chip 8 0xff
echo "memory $(devmem $((chip + 2)) 16)"
"""

VARIABLE = """\
#!/bin/sh
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
insmod /lib/modules/efivarfs.ko
mount -t efivarfs efivarfs /sys/firmware/efi/efivars
name=/sys/firmware/efi/efivars/Held-12345678-1234-1234-1234-123456789abc
printf '\\007\\000\\000\\000kept' > $name
echo "variable $(tail -c 4 $name)"
poweroff -f
"""


def flash(done: Run, chip: str) -> list[tuple[str, int | None, int, int | None]]:
    return [
        (access.direction, access.offset, access.width, access.value)
        for record in read_trace(done.trace).intercepts
        for access in record.accesses
        if access.region == chip
    ]


def drives(first: Path, second: Path) -> tuple[str, ...]:
    return (
        "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={first}",
        "-drive", f"if=pflash,unit=1,format=raw,file={second}",
    )  # fmt: skip


BOTH = pytest.mark.parametrize("trap", ["entry", pytest.param("nested", marks=pytest.mark.long)])


@BOTH
def test_reads_are_of_a_device_while_a_command_is_under_way(tmp_path: Path, trap: str) -> None:
    need(SEABIOS.exists(), "seabios")
    chip = tmp_path / "chip"
    chip.write_bytes(bytes(range(0x41, 0x51)).ljust(64 << 10, b"\xff"))
    program = guest_program.assemble(tmp_path, "peek")
    image = guest_program.initrd(tmp_path, program, COMMANDS)
    options = ("--quiet", "--check", "--trap", trap, "--region", "system.flash*", "--initrd", image)
    done = boot(tmp_path, *options, "--", *drives(SEABIOS, chip))
    assert "memory 0x41" in done.serial
    assert "memory 0x4443" in done.serial
    (said,) = [line for line in done.serial if line.startswith("identifier")]
    maker, model = said.split()[1:]
    assert agreed(done) == 4
    assert flash(done, "system.flash1") == [
        ("write", 0, 1, 0x90),
        ("read", 0, 1, int(maker, 16)),
        ("read", 1, 1, int(model, 16)),
        ("write", 0, 1, 0xFF),
    ]
    # What only shows memory is read without a fault by nested traps.
    neighbours = read_trace(done.trace).end.counts.get("neighbours", 0)
    assert neighbours == (2 if trap == "entry" else 0)


@BOTH
def test_firmware_writes_its_flash_while_the_kernel_runs(tmp_path: Path, trap: str) -> None:
    code, variables = OVMF / "OVMF_CODE_4M.fd", OVMF / "OVMF_VARS_4M.fd"
    need(code.exists(), "ovmf")
    kept = tmp_path / "variables"
    shutil.copy(variables, kept)
    kernel = default_kernel()
    assert kernel is not None
    init = tmp_path / "init"
    init.write_text(VARIABLE)
    image = build_initramfs(init, open_kernel(kernel, None).modules, ["efivarfs"])
    regions = ("--region", "system.flash1", "--region", "ecam")
    options = ("--quiet", "--check", "--trap", trap, "--initrd", image, *regions)
    done = boot(tmp_path, *options, "--", *drives(code, kept))
    assert "variable kept" in done.serial
    assert agreed(done)
    written = flash(done, "system.flash1")
    assert len(written) > 50
    assert {direction for direction, *_ in written} == {"write"}
    trace = read_trace(done.trace)
    # The firmware's code has no name in the kernel.
    symbols = {r.symbol for r in trace.intercepts if r.accesses[0].region == "system.flash1"}
    assert symbols == {None}
    assert b"kept" in kept.read_bytes()
