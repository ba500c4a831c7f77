"""The bare-metal guest of ``tests/guest``: a table of instructions, assembled."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "guest"
SLOT_SIZE = 64
DEVICE_SLOT = 0x10
# A controller memory buffer is plain memory behind a device's read and write functions: it takes
# every width up to 8 bytes in one piece and keeps what it is given.
DEVICE = (
    "-drive", "if=none,id=buffer-disk,driver=null-co,size=1M",
    "-device",
    f"nvme,id=buffer,serial=buffer,drive=buffer-disk,cmb_size_mb=1,legacy-cmb=on,addr={DEVICE_SLOT:#x}",
)  # fmt: skip
REGION = "buffer.nvme-cmb"

WINDOW = 0x4000_0000
DEVICE_LINEAR = WINDOW + 0x1000
NOTHING = WINDOW + 0x3000

Access = tuple[str, int, int, int | None]
"""Direction (R or W), offset, width in bytes, value."""

_REPORT = "    mov r14d, {number}\n    call report\n"

GATE = """# rax: the handler, rdi: the gate
gate: mov word ptr [rdi], ax
    mov dword ptr [rdi + 2], 0x8e000008
    shr rax, 16
    mov word ptr [rdi + 6], ax
    shr rax, 16
    mov dword ptr [rdi + 8], eax
    ret
"""
"""A routine that makes an interrupt gate for a handler, for cases with a table of their own."""


@dataclass(frozen=True, slots=True)
class Case:
    """One instruction (or a few), what it starts from and what it must do.

    Registers start as in ``before``; RDI points at the case's own 64 bytes of the device unless
    ``before`` says otherwise. ``accesses`` are R or W, offset in those 64 bytes, width and value.
    ``after`` are registers that the guest itself checks. ``at`` is the slot's offset in the device
    for a case that has none of its own.
    """

    text: str
    accesses: Sequence[Access]
    before: dict[str, int] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)
    via: str = "emulated"
    fault: tuple[int, int] | None = None  # error code and CR2 of the guest's own page fault
    at: int | None = None


def initial(offset: int, width: int) -> int:
    """What the device holds at an offset of every slot before the cases run."""
    return int.from_bytes(
        bytes((n * 4 + 1) & 0xFF for n in range(offset, offset + width)), "little"
    )


def slot(number: int) -> int:
    """The offset of a case's 64 bytes in the device: those of number 0 are left to page ends."""
    return SLOT_SIZE * (number + 1)


def source(cases: Sequence[Case]) -> str:
    """The file ``cases.S``."""
    lines = [f".set DEVICE_SLOT, {DEVICE_SLOT}", ".macro cases"]
    for number, case in enumerate(cases):
        lines += _lines(number, case)
    return "\n".join([*lines, ".endm", ""])


def _lines(number: int, case: Case) -> list[str]:
    name = f"case_{number}"
    registers = {"rdi": DEVICE_LINEAR + slot(number), **case.before}
    lines = ["    cld"]
    if case.fault is not None:
        lines += [f"    lea rax, [rip + {name}_done]", "    mov [rip + resume_at], rax"]
    lines += [f"    movabs {register}, {value:#x}" for register, value in registers.items()]
    lines += [f"{name}:", f"    {case.text}", f"{name}_done:"]
    # What differs gathers in R15; MOV and LEA leave the flags alone.
    lines += ["    mov r14, rax", "    movabs r15, 0"]
    for register, value in case.after.items():
        actual = "r14" if register == "rax" else register
        lines += [
            f"    movabs r13, {value:#x}",
            f"    xor r13, {actual}",
            "    or r15, r13",
        ]
    if case.fault is not None:
        code, linear = case.fault
        lines += ["    mov r13, [rip + fault_code]", f"    xor r13, {code}", "    or r15, r13"]
        lines += ["    mov r13, cr2", f"    movabs r12, {linear:#x}", "    xor r13, r12"]
        lines += ["    or r15, r13"]
    return [*lines, _REPORT.format(number=number)]


def assemble(
    folder: Path,
    cases: Sequence[Case] = (),
    *,
    crash: bool = False,
    own_stack: bool = False,
    room: bool = False,
    include: str | None = None,
) -> Path:
    """Assemble and link the guest into a folder; return the ELF image.

    With its ``own_stack`` a page fault may come upon any RSP. With ``room``
    its accesses can be compiled. ``include`` is another file of
    ``tests/guest`` that the cases need.
    """
    programs = [shutil.which(name) for name in ("as", "ld")]
    if None in programs:
        raise AssertionError("as and ld (Debian package binutils) are needed: run scripts/setup")
    assembler, linker = map(str, programs)
    options = {"CRASH": crash, "OWN_STACK": own_stack, "ROOM": room}
    lines = [f".set {name}, 1" for name, on in options.items() if on]
    if include is not None:
        lines += [f'.include "{SOURCE / include}"', f".set NOTHING, {NOTHING}"]
    (folder / "cases.S").write_text("\n".join([*lines, source(cases)]))
    commands = [
        [assembler, "--64", "-I", str(folder), "-o", "guest.o", str(SOURCE / "guest.S")],
        [linker, "-n", "-T", str(SOURCE / "guest.ld"), "-o", "guest.elf", "guest.o"],
    ]
    for command in commands:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return folder / "guest.elf"
