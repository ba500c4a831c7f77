"""Programs of ``tests/guest`` for a Linux guest: assembled, and run by an init script."""

from __future__ import annotations

import base64
import shutil
import subprocess
from pathlib import Path

from tracer.guest.initramfs import build_initramfs

SOURCE = Path(__file__).parent.parent / "guest"

_INIT = """\
#!/bin/sh
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
{commands}
poweroff -f
"""
_PROGRAM = """\
base64 -d > /tmp/{name} <<'END'
{program}END
chmod +x /tmp/{name}
{commands}"""


def assemble(folder: Path, name: str, **symbols: int) -> Path:
    """Assemble and link ``name.S`` into a static program, with symbols defined."""
    programs = [shutil.which(program) for program in ("as", "ld")]
    if None in programs:
        raise AssertionError("as and ld (Debian package binutils) are needed: run scripts/setup")
    assembler, linker = map(str, programs)
    defined = [word for key, value in symbols.items() for word in ("--defsym", f"{key}={value}")]
    source = str(SOURCE / f"{name}.S")
    for command in (
        [assembler, "--64", "-I", str(SOURCE), *defined, "-o", f"{name}.o", source],
        [linker, "-s", "-o", name, f"{name}.o"],
    ):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return folder / name


def script(commands: str) -> str:
    """An init script that runs shell commands and powers off."""
    return _INIT.format(commands=commands)


def initrd(folder: Path, program: Path, commands: str) -> Path:
    """An initramfs that has a program in ``/tmp``, runs shell commands and powers off."""
    text = base64.encodebytes(program.read_bytes()).decode()
    init = folder / "init"
    init.write_text(script(_PROGRAM.format(name=program.name, program=text, commands=commands)))
    return build_initramfs(init, None)
