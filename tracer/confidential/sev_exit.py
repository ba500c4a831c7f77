"""The events of VMGEXIT: requests by the MSR protocol, and those by a GHCB.

Ref: AMD SEV-ES Guest-Hypervisor Communication Block Standardization 2.03, 2.3.1 (MSR protocol)
and 4.1 (events); Linux arch/x86/include/asm/sev-common.h, arch/x86/include/uapi/asm/svm.h;
arch/x86/kvm/svm/sev.c `sev_handle_vmgexit_msr_protocol`, `sev_handle_vmgexit`,
`sev_es_are_required_ghcb_fields_valid`, `is_snp_only_vmgexit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from tracer.confidential.hypercall import GHCB_MMIO_READ, GHCB_MMIO_WRITE


class Event(IntEnum):
    """Name the events of a GHCB, SW_EXITCODE: intercepts of AMD SVM, and its own."""

    READ_DR7 = 0x27
    WRITE_DR7 = 0x37
    RDTSC = 0x6E
    RDPMC = 0x6F
    CPUID = 0x72
    INVD = 0x76
    IOIO = 0x7B
    MSR = 0x7C
    VMMCALL = 0x81
    RDTSCP = 0x87
    WBINVD = 0x89
    MONITOR = 0x8A
    MWAIT = 0x8B
    MMIO_READ = GHCB_MMIO_READ
    MMIO_WRITE = GHCB_MMIO_WRITE
    NMI_COMPLETE = 0x8000_0003
    RESET_HOLD = 0x8000_0004
    JUMP_TABLE = 0x8000_0005
    PAGE_STATE = 0x8000_0010
    GUEST_REQUEST = 0x8000_0011
    EXTENDED_GUEST_REQUEST = 0x8000_0012
    CREATION = 0x8000_0013
    FEATURES = 0x8000_FFFD
    TERMINATION = 0x8000_FFFE
    UNSUPPORTED = 0x8000_FFFF


class Ask(IntEnum):
    """Name the requests of the MSR protocol, the low 12 bits of the MSR.

    A response has the next number, but for SEV information, where it has the one before.
    """

    SEV_INFORMATION = 0x002
    CPUID = 0x004
    RESET_HOLD = 0x006
    PREFERRED = 0x010
    REGISTRATION = 0x012
    PAGE_STATE = 0x014
    FEATURES = 0x080
    TERMINATION = 0x100


@dataclass(frozen=True, slots=True)
class Exit:
    """Describe an event: ``needs`` names the fields that have to be valid beside the first three.

    Those are the exit code and the two pieces of information. ``answered`` says in words what
    vetrace answers; ``snp`` tells that only an SEV-SNP guest may ask.
    """

    code: int
    name: str
    answered: str
    needs: tuple[str, ...] = ()
    snp: bool = False


@dataclass(frozen=True, slots=True)
class Protocol:
    """Describe a request of the MSR protocol, by the low 12 bits of the MSR."""

    code: int
    name: str
    answered: str


class GhcbError(IntEnum):
    """Name what is wrong with a GHCB: SW_EXITINFO2 where SW_EXITINFO1 is 2 (malformed input)."""

    NOT_REGISTERED = 1
    INVALID_USAGE = 2
    INVALID_SCRATCH_AREA = 3
    MISSING_INPUT = 4
    INVALID_INPUT = 5
    INVALID_EVENT = 6


NO_ACTION, ISSUE_EXCEPTION, MALFORMED_INPUT = 0, 1, 2
"""SW_EXITINFO1 afterwards."""

GENERAL_PROTECTION = 13 | 3 << 8 | 1 << 31
"""SW_EXITINFO2 afterwards: inject #GP, an exception, valid (AMD APM vol. 2, 15.20)."""

_UNTRAPPED = "granted, without effect"
_RAISED = "carried out where it has raised #VC (`--inputs`), else refused"
_PORT = "the access is made; string I/O where it has raised #VC (`--inputs`), else it is refused"
_MSR = "carried out where it has raised #VC (`--inputs`), else #GP"
_SNP = "refused: no SEV-SNP"
_ALONE = "refused: nobody would start the vCPU again"

EXITS = {
    exit.code: exit
    for exit in (
        Exit(Event.READ_DR7, "read DR7", _UNTRAPPED),
        Exit(Event.WRITE_DR7, "write DR7", _UNTRAPPED, ("rax",)),
        Exit(Event.RDTSC, "RDTSC", _RAISED),
        Exit(Event.RDPMC, "RDPMC", "#GP: no performance counters", ("rcx",)),
        Exit(Event.CPUID, "CPUID", _RAISED, ("rax", "rcx")),
        Exit(Event.INVD, "INVD", _UNTRAPPED),
        Exit(Event.IOIO, "IOIO", _PORT),
        Exit(Event.MSR, "MSR", _MSR, ("rcx",)),
        Exit(Event.VMMCALL, "VMMCALL", "RAX is KVM_ENOSYS: no hypercall is known", ("rax", "cpl")),
        Exit(Event.RDTSCP, "RDTSCP", _RAISED),
        Exit(Event.WBINVD, "WBINVD", _UNTRAPPED),
        Exit(Event.MONITOR, "MONITOR", _UNTRAPPED, ("rax", "rcx", "rdx")),
        Exit(Event.MWAIT, "MWAIT", _UNTRAPPED, ("rax", "rcx")),
        Exit(Event.MMIO_READ, "MMIO read", "the access is made", ("sw_scratch",)),
        Exit(Event.MMIO_WRITE, "MMIO write", "the access is made", ("sw_scratch",)),
        Exit(Event.NMI_COMPLETE, "NMI complete", "noted"),
        Exit(Event.RESET_HOLD, "AP reset hold", _ALONE),
        Exit(Event.JUMP_TABLE, "AP jump table", "set, and given back; 0 before"),
        Exit(Event.PAGE_STATE, "page state change", _SNP, ("sw_scratch",), snp=True),
        Exit(Event.GUEST_REQUEST, "guest request", _SNP, snp=True),
        Exit(Event.EXTENDED_GUEST_REQUEST, "extended guest request", _SNP, snp=True),
        Exit(Event.CREATION, "AP creation", _SNP, snp=True),
        Exit(Event.FEATURES, "hypervisor features", "none"),
        Exit(Event.TERMINATION, "termination", "the run ends, with the reason"),
        Exit(Event.UNSUPPORTED, "unsupported event", "the run ends: the guest's handler gave up"),
    )
}
"""Every event that KVM knows; it calls all others an invalid one."""

PROTOCOLS = {
    protocol.code: protocol
    for protocol in (
        Protocol(Ask.SEV_INFORMATION, "SEV information", "versions 1 and 2, the C-bit's number"),
        Protocol(Ask.CPUID, "CPUID", "refused: CPUID is not intercepted here"),
        Protocol(Ask.RESET_HOLD, "AP reset hold", _ALONE),
        Protocol(Ask.PREFERRED, "preferred GHCB", "none"),
        Protocol(Ask.REGISTRATION, "GHCB registration", "noted, the same address"),
        Protocol(Ask.PAGE_STATE, "page state change", "refused: no SEV-SNP"),
        Protocol(Ask.FEATURES, "hypervisor features", "none"),
        Protocol(Ask.TERMINATION, "termination", "the run ends, with the reason"),
    )
}
"""Every request of the MSR protocol that KVM knows; it leaves the MSR as it is for all others."""

_REASONS = {
    (0, 0): "general termination request",
    (0, 1): "the host's version of the protocol is not supported",
    (0, 2): "SEV-SNP features are not supported",
    (1, 0): "the GHCB could not be registered",
    (1, 1): "a page's state could not be changed",
    (1, 2): "PVALIDATE failed",
    (1, 3): "not at VMPL 0",
    (1, 4): "the CPUID page is not valid",
    (1, 5): "the host's CPUID failed",
    (1, 6): "the secrets page is missing",
    (1, 7): "no SVSM is told of",
    (1, 8): "an SVSM left the guest at VMPL 0",
    (1, 9): "the calling area of the SVSM is not aligned",
    (1, 10): "the secure TSC could not be set up",
    (1, 11): "kvmclock was chosen in place of the secure TSC",
}


def reason_text(reasons: int, code: int) -> str:
    """Return why a guest asks for its end: set 0 is the specification's, set 1 Linux's own."""
    known = _REASONS.get((reasons, code))
    return known or f"reason {code:#x} of set {reasons:#x}"
