"""What the handler inside a confidential guest would do with an instruction that is an input.

IN and OUT, RDMSR and WRMSR, CPUID raise #VE or #VC by themselves, unless the CPU, or the TDX
module, carries them out in the guest.

Ref: Linux arch/x86/coco/tdx/tdx.c `virt_exception_kernel`, `virt_exception_user`, `handle_io`,
`handle_in`, `read_msr`, `write_msr`, `handle_cpuid` (5.19 and later); arch/x86/coco/sev/vc-handle.c
`vc_handle_exitcode`, `vc_handle_msr`, `vc_ioio_check` and vc-shared.c `vc_handle_ioio`,
`vc_handle_cpuid` (arch/x86/kernel/sev.c and sev-shared.c before 6.10). What is carried out in the
guest: TDX Module 1.5 ABI, MSR and CPUID virtualization; arch/x86/kvm/vmx/tdx.c
`tdx_has_emulated_msr`; arch/x86/kvm/svm/svm.c `init_vmcb`, `direct_access_msrs`.
"""

from __future__ import annotations

from tracer.confidential.handler import Member, Profile, Verdict, string_differences
from tracer.trace.member import Space
from tracer.x86.bus import Direction
from tracer.x86.instruction import Instruction

TDX_MSRS = (
    range(0x10, 0x11),  # TSC
    range(0x48, 0x4A),  # SPEC_CTRL, PRED_CMD
    range(0xE1, 0xE2),  # UMWAIT_CONTROL
    range(0x10A, 0x10C),  # ARCH_CAPABILITIES, FLUSH_CMD
    range(0x122, 0x123),  # TSX_CTRL
    range(0x174, 0x177),  # SYSENTER_CS, ESP, EIP
    range(0x1C4, 0x1C6),  # XFD, XFD_ERR
    range(0x1D9, 0x1DA),  # DEBUGCTL
    range(0x277, 0x278),  # PAT
    range(0x600, 0x601),  # DS_AREA
    range(0x6A0, 0x6A9),  # CET
    range(0x6E1, 0x6E2),  # PKRS
    range(0x808, 0x80C),  # x2APIC: TPR, PPR, EOI
    range(0x810, 0x828),  # ISR, TMR, IRR
    range(0x83F, 0x840),  # SELF IPI
    range(0xDA0, 0xDA1),  # XSS
    range(0xC000_0080, 0xC000_0085),  # EFER, STAR, LSTAR, CSTAR, FMASK
    range(0xC000_0100, 0xC000_0104),  # FS_BASE, GS_BASE, KERNEL_GS_BASE, TSC_AUX
)
"""MSRs that a trust domain accesses itself."""
SEV_MSRS = (
    range(0x48, 0x4A),  # SPEC_CTRL, PRED_CMD
    range(0x10B, 0x10C),  # FLUSH_CMD
    range(0x174, 0x177),  # SYSENTER_CS, ESP, EIP
    range(0x1D9, 0x1DF),  # DEBUGCTL, last branches
    range(0x277, 0x278),  # PAT
    range(0x6A0, 0x6A9),  # CET
    range(0xDA0, 0xDA1),  # XSS
    range(0xC000_0080, 0xC000_0085),  # EFER, STAR, LSTAR, CSTAR, FMASK
    range(0xC000_0100, 0xC000_0104),  # FS_BASE, GS_BASE, KERNEL_GS_BASE, TSC_AUX
    range(0xC001_0130, 0xC001_0132),  # GHCB, SEV_STATUS
)
"""MSRs that a guest of SEV-ES accesses itself (sev.c `sev_es_init_vmcb`; AMD APM vol. 2, 15.34.10
for SEV_STATUS)."""

HYPERVISOR_LEAVES = range(0x4000_0000, 0x5000_0000)
"""Leaves of CPUID that a host answers in a trust domain; the TDX module answers the others."""

JUDGED: tuple[Space, ...] = ("port", "config", "msr", "cpuid", "tsc")
"""Where inputs are that instructions ask for. Configuration space is reached by ports."""

_REGISTERS: frozenset[Member] = frozenset({"registers"})
_INSIDE = Verdict("none", "carried out in the guest, without an exception")
_STRING = ("ins", "outs")


def judge_input(
    profile: Profile,
    insn: Instruction,
    space: Space,
    number: int,
    direction: Direction,
    *,
    width: int = 4,
    cpl: int = 0,
    count: int = 0,
    backwards: bool = False,
) -> Verdict:
    """Return what a profile's handler does with an instruction that is given an input.

    ``number`` is the port, the index of the MSR or the leaf of CPUID, ``width`` that of a port in
    bytes. ``cpl`` is the privilege level that it ran at, ``count`` what RCX was;
    a string goes ``backwards`` where DF is set.
    """
    match space:
        case "port" | "config":
            if profile.sev:
                return _port_of_sev(insn, direction, width, cpl=cpl, count=count, df=backwards)
            return _port_of_tdx(profile, insn, direction, width, cpl=cpl)
        case "msr":
            own = SEV_MSRS if profile.sev else TDX_MSRS
            if any(number in span for span in own):
                return _INSIDE
            name = "read_msr" if direction == "read" else "write_msr"
            name = "vc_handle_msr" if profile.sev else name
            return Verdict("emulated", f"{name} asks for it; a host may refuse, which is #GP")
        case "cpuid":
            if profile.sev:
                return Verdict("emulated", "vc_handle_cpuid asks for it")
            if number in HYPERVISOR_LEAVES:
                return Verdict("emulated", "handle_cpuid asks for it")
            return Verdict("none", "the TDX module answers it, or handle_cpuid, with zeros")
    return _INSIDE


def _port_of_tdx(
    profile: Profile, insn: Instruction, direction: Direction, width: int, *, cpl: int
) -> Verdict:
    if cpl == 3:
        return Verdict("oops", f"in user mode: the process gets {profile.signal}")
    if _is_string(insn):
        return Verdict("oops", "string I/O, which handle_io refuses")
    note = ""
    if direction == "read":
        # The mask has a bit too many: GENMASK(BITS_PER_BYTE * size, 0).
        note = f"bit {8 * width} of rax is what the host says"
        if width == 4:
            note += ", bits 63:33 keep their old value instead of zeroes"
    return _with_note("handle_io asks for it", note)


def _port_of_sev(
    insn: Instruction, direction: Direction, width: int, *, cpl: int, count: int, df: bool
) -> Verdict:
    reason = "vc_handle_ioio asks for it"
    if cpl == 3:
        reason += "; of a program from 6.6 on where ioperm() allows it, else SIGSEGV"
    if not _is_string(insn):
        zeroed = direction == "read" and width < 4
        note = f"bits 63:{8 * width} of rax are zeroed" if zeroed else ""
        return _with_note(reason, note)
    if insn.rep is None and count:
        return Verdict("oops", "is repeated for ever as long as rcx is not 0, with REP or without")
    if df and count > 1:
        # Steps are counted in unsigned numbers of 32 bits (vc_insn_string_write).
        return Verdict("oops", "goes backwards: all but its first element are 4 GiB further on")
    differences = string_differences(insn)
    members = frozenset[Member]().union(*differences.values())
    return Verdict("emulated", f"{reason}, by a buffer", "; ".join(differences), members)


def _is_string(insn: Instruction) -> bool:
    return insn.form is not None and insn.form.operation in _STRING


def _with_note(reason: str, note: str) -> Verdict:
    return Verdict("emulated", reason, note, _REGISTERS if note else frozenset())
