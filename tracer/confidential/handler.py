"""What the handler inside a confidential guest would do with an instruction.

A TDX guest's #VE handler and an SEV-ES guest's #VC handler decode the instruction that touched a
device and carry it out with a hypercall. They know few instructions; the rest are fatal.

Ref: Linux arch/x86/lib/insn-eval.c `insn_decode_mmio`, `insn_get_modrm_reg_ptr`; TDX:
arch/x86/coco/tdx/tdx.c `handle_mmio`, `handle_io`, `virt_exception_user`; SEV-ES:
arch/x86/coco/sev/vc-handle.c `vc_handle_mmio`, `vc_handle_mmio_movs` and vc-shared.c
`vc_handle_ioio` (arch/x86/kernel/sev.c and sev-shared.c before 6.10). Commits:
31d58c4e557d "x86/tdx: Handle in-kernel MMIO" (5.19), 1e7769653b06 "x86/tdx: Handle
load_unaligned_zeropad() page-cross to a shared page" (5.19), d4fc4d014715 "x86/tdx: Fix
"in-kernel MMIO" check" (6.12), a37cd2a59d0c "x86/sev: Disable MMIO emulation from user mode" (6.6).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from tracer.confidential.kind import Kind
from tracer.x86.forms import Form
from tracer.x86.instruction import File, Immediate, Instruction, Memory, Register
from tracer.x86.state import GPR, PAGE_SIZE, Mode

Outcome = Literal["emulated", "oops", "none", "unknown"]
"""``oops`` ends the kernel, or the process in user mode; ``none``: no handler is ever asked;
``unknown``: nothing tells whether one is."""


Member = Literal["direction", "width", "physical", "value", "registers"]
"""Two may differ in these: whether there is an access at all, what it is, the registers
afterwards."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Tell what a handler does with one instruction, and why.

    ``note`` tells how the result of an emulated one would differ from the CPU's own, ``differs``
    in which members.
    """

    outcome: Outcome
    reason: str
    note: str = ""
    differs: frozenset[Member] = frozenset()


@dataclass(frozen=True, slots=True)
class Profile:
    """Describe one handler: which checks it makes before it carries an instruction out.

    ``kernels`` names the kernels that have it. ``signal`` is what a user process gets when the
    handler gives up on it.
    """

    name: str
    kernels: str
    signal: str
    sev: bool = False
    user_mode: bool = False
    crossing: bool = False
    user_address: bool = False


CURRENT = "linux-tdx"
"""The profile meant when none is named."""
CURRENT_SEV = "linux-sev"
"""The one meant for an SEV-ES guest's own handler."""

PROFILES = {
    profile.name: profile
    for profile in (
        Profile(CURRENT, "TDX guest, Linux 6.12 and later (and stable kernels of late 2024)",
                "SIGSEGV"),
        Profile("linux-tdx-5.19", "TDX guest, Linux 5.19 to 6.11", "SIGSEGV", user_address=True),
        Profile("linux-tdx-v5", "TDX guest, the patch series of March 2022, version 5", "SIGSEGV",
                crossing=True, user_address=True),
        Profile(CURRENT_SEV,
                "SEV-ES or SEV-SNP guest, Linux 6.6 and later (and stable kernels of late 2023)",
                "SIGBUS", sev=True, crossing=True, user_address=True),
        Profile("linux-sev-5.10", "SEV-ES guest, Linux 5.10 to 6.5", "SIGBUS", sev=True,
                user_mode=True, crossing=True, user_address=True),
    )
}  # fmt: skip
"""Every known handler by its name; a version in a name is the first that behaves so."""

_SINCE = (
    (False, (6, 12), CURRENT), (False, (5, 19), "linux-tdx-5.19"), (False, (0, 0), "linux-tdx-v5"),
    (True, (6, 6), CURRENT_SEV), (True, (0, 0), "linux-sev-5.10"),
)  # fmt: skip
_KEPT = ((5, 10), (5, 15), (6, 1))
"""Series with "x86/sev: Disable MMIO emulation from user mode", of 6.6, in their later releases."""


def own_profile(release: str, *, sev: bool = False) -> str:
    """Return the name of the profile that a kernel has by its release, as ``uname -r`` tells it.

    A TDX guest of before Linux 5.19 has the patch series. Stable kernels of late 2024 behave as
    6.12 does, which their release does not tell. Of an SEV-ES guest's, those series that are kept
    for long have had the way of 6.6 since late 2023, and are taken to be newer than that.
    """
    found = re.match(r"(\d+)\.(\d+)", release)
    version = (int(found[1]), int(found[2])) if found else (1 << 32, 0)
    if sev and version in _KEPT:
        return CURRENT_SEV
    return next(name for is_sev, since, name in _SINCE if is_sev is sev and version >= since)


def profile_of(kind: Kind, release: str) -> str:
    """Return the name of the profile that a guest's own handler has, or would have."""
    if kind is Kind.PLAIN:
        return CURRENT
    return own_profile(release, sev=kind is Kind.SEV_ES)


# The forms that `insn_decode_mmio` knows, by the table's own names for them.
KNOWN = {
    "88": "WRITE", "89": "WRITE", "C6 /0": "WRITE_IMM", "C7 /0": "WRITE_IMM",
    "8A": "READ", "8B": "READ", "0F B6": "READ_ZERO_EXTEND", "0F B7": "READ_ZERO_EXTEND",
    "0F BE": "READ_SIGN_EXTEND", "0F BF": "READ_SIGN_EXTEND", "A4": "MOVS", "A5": "MOVS",
}  # fmt: skip

# INS and OUTS exit because of their port first. The handler of that exit comes upon the device when
# it copies to or from memory, and takes an exception of its own for it: `vc_write_mem`.
_STRING_IO = "string I/O"

_KERNEL = 0xFFFF_8000_0000_0000  # where the kernel's half begins, with 4-level paging
_VSYSCALL_PAGE = 0xFFFF_FFFF_FF60_0000


def judge(
    profile: Profile, insn: Instruction, *, cpl: int = 0, linear: int | None = None
) -> Verdict:
    """Return what a profile's handler does with an instruction that touched a device.

    ``cpl`` is the privilege level it ran at, ``linear`` the address of the first byte of its
    memory operand; without that the checks of the address are taken to pass.
    """
    form = insn.form
    if form is not None and form.name.startswith("prefetch"):
        return Verdict("none", "a prefetch raises no exception")
    kind = _kind(form)
    refused = _refused_place(profile, insn, cpl) or _refused_kind(profile, kind)
    crosses = linear is not None and linear // PAGE_SIZE != (linear + insn.width - 1) // PAGE_SIZE
    refused = refused or _refused_address(profile, linear, crosses)
    if refused or form is None:
        return Verdict("oops", refused)
    differences = _differences(profile, insn, form) | ({_SPLIT: _SPLITS} if crosses else {})
    note, members = "; ".join(differences), frozenset().union(*differences.values())
    if kind == _STRING_IO:
        reason = "an exit for the port, and in its handler one for each element in the device"
        return Verdict("emulated", reason, note, members)
    elements = ", one element at a time" if kind == "MOVS" else ""
    return Verdict("emulated", f"decoded as {kind}{elements}", note, members)


def alike(linear: int) -> int:
    """Return the one of all linear addresses that are judged alike: it stands for the others.

    What counts is whether it is the kernel's, and how far it is into its page.
    """
    return (_KERNEL if _of_kernel(linear) else 0) + linear % PAGE_SIZE


def _kind(form: Form | None) -> str | None:
    if form is None:
        return None
    return _STRING_IO if form.operation in ("ins", "outs") else KNOWN.get(form.opcode.text)


# Why a handler gives up, in the order in which it looks; nothing where it goes on.


def _refused_place(profile: Profile, insn: Instruction, cpl: int) -> str:
    if cpl == 3 and not profile.user_mode:
        return f"in user mode: the process gets {profile.signal}"
    if insn.mode is not Mode.LONG and cpl != 3:
        return "not 64-bit code, which the handler takes kernel code for"
    return ""


def _refused_kind(profile: Profile, kind: str | None) -> str:
    if kind is None:
        return "not among the instructions that insn_decode_mmio knows"
    if kind == _STRING_IO:
        return "" if profile.sev else "string I/O, which handle_io refuses"
    return "MOVS is decoded, then rejected" if kind == "MOVS" and not profile.sev else ""


def _refused_address(profile: Profile, linear: int | None, crosses: bool) -> str:
    if linear is not None and not profile.user_address and not _of_kernel(linear):
        return "the kernel uses a user-space address"
    if crosses and not profile.crossing:
        return "crosses a page, and no exception fixup is known to catch that"
    return ""


_SPLIT = "crosses a page: the second page is taken to follow the first in physical memory"
_SPLITS: frozenset[Member] = frozenset({"width", "value"})


def _of_kernel(linear: int) -> bool:
    # arch/x86/mm/fault.c, fault_in_kernel_space: the vsyscall page counts as user space.
    return bool(linear >> 63) and linear // PAGE_SIZE != _VSYSCALL_PAGE // PAGE_SIZE


def _differences(profile: Profile, insn: Instruction, form: Form) -> dict[str, frozenset[Member]]:
    # How the result differs from the CPU's, and in what: in nothing, nearly always.
    if form.extension:
        target = insn.operands[0]
        assert isinstance(target, Register)
        if target.width == 4:
            register = GPR[target.number]
            note = f"bits 63:32 of {register} keep their old value instead of zeroes"
            return {note: _ARRIVES}
    for position, operand in enumerate(insn.operands):
        if isinstance(operand, Register) and operand.file is File.GPR and operand.high:
            name, low = GPR[operand.number][1], GPR[operand.number + 4][1:]
            return {f"{name}h is taken for {low}l": _ARRIVES if position == 0 else _VALUE}
        if isinstance(operand, Immediate) and insn.width == 8 and profile.sev:
            note = "bits 63:32 are not the immediate's sign: they come from what follows it"
            return {note: _VALUE}
    if form.operation in ("movs", "ins", "outs"):
        return string_differences(insn)
    return {}


_ARRIVES: frozenset[Member] = frozenset({"registers"})
_VALUE: frozenset[Member] = frozenset({"value"})


def string_differences(insn: Instruction) -> dict[str, frozenset[Member]]:
    """Return how what a #VC handler makes of a string differs from the CPU's, and in which members.

    There is nothing mostly.
    """
    notes: dict[str, frozenset[Member]] = {}
    if any(isinstance(o, Memory) and o.segment in ("fs", "gs") for o in insn.operands):
        notes["the segment override is ignored"] = frozenset({"physical", "value"})
    if insn.address_size != 8:
        notes["rsi, rdi and the count are taken as 64 bits wide"] = frozenset(
            {"physical", "value", "registers"}
        )
    return notes
