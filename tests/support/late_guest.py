"""A bare guest of another making: ``tests/guest/late.S``, a multiboot kernel that pages late."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "guest"
EDU_SLOT, BUFFER_SLOT = 5, 6
MACHINE = (
    "--no-default-devices", "--device", f"edu,id=edu,addr={EDU_SLOT:#x}",
    "--device", "isa-debug-exit,iobase=0xf4", "--exit-ok", "1",
)  # fmt: skip
QEMU = (
    "-drive", "if=none,id=buffer-disk,driver=null-co,size=1M", "-device",
    "nvme,id=buffer,serial=buffer,drive=buffer-disk,cmb_size_mb=1,legacy-cmb=on,"
    f"addr={BUFFER_SLOT:#x}",
)  # fmt: skip
SAYS = [
    "edu 00000000010000ed",
    "inverted 00000000edcba987",
    "ioapic 0000000000170020",
    "hpet 0000000000989680",
    "far 1122334455667788",
    "cr2 0000000000000000",
    "cr2 of its own 0000007000000000",
    "in the second tables 00000000edcba987",
    "in place of RAM 1122334455667788",
    "in the first again 00000000600d600d",
]
"""What it prints when nobody traces it."""


def build(folder: Path, *kinds: str) -> Path:
    """Make the guest, an ELF file of 32 bits; ``late64.elf`` and ``late.bin`` are beside it.

    The ``kinds`` are told in ``late.S``: SLEEPS, UNPACKS, FLAT, TWO.
    """
    programs = [shutil.which(name) for name in ("as", "ld", "objcopy")]
    if None in programs:
        raise AssertionError("as, ld and objcopy (Debian package binutils) are needed")
    assembler, linker, copier = map(str, programs)
    slots = f".set EDU_SLOT, {EDU_SLOT}\n.set BUFFER_SLOT, {BUFFER_SLOT}\n"
    folder.mkdir(exist_ok=True)
    (folder / "slots.S").write_text(slots + "".join(f".set {kind}, 1\n" for kind in kinds))
    commands = [
        [assembler, "--64", "-I", str(folder), "-o", "late.o", str(SOURCE / "late.S")],
        [
            linker,
            "-n",
            "--no-warn-rwx-segments",
            "-T",
            str(SOURCE / "late.ld"),
            "-o",
            "late64.elf",
            "late.o",
        ],
        [copier, "-O", "elf32-i386", "late64.elf", "late.elf"],
        [copier, "-O", "binary", "late64.elf", "late.bin"],
    ]
    for command in commands:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return folder / "late.elf"
