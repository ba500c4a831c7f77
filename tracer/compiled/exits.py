"""The words of a VMCB that say for which instructions and events a guest leaves to the monitor.

Ref: AMD64 Architecture Programmer's Manual vol. 2, 15.9 and appendix B.
"""

from __future__ import annotations

from collections.abc import Collection

from tracer.compiled.inputs import Input
from tracer.x86 import vmcb

_HELD = vmcb.IRET | vmcb.PAUSE | vmcb.HLT | vmcb.MWAIT


def intercepts_of(
    spaces: Collection[Input],
    *,
    domain: bool = False,
    encrypted: bool = False,
    nested: bool = False,
) -> int:
    """Return the words of a VMCB that have a guest leave for inputs of these kinds.

    CPUID and MSRs always do, as they would tell of SVM, and so does it for SMIs, as firmware's code
    would leave as well; a trust ``domain`` asks to sleep, too, and an ``encrypted`` guest for
    whatever else a host intercepts (Linux arch/x86/kvm/svm/svm.c, init_vmcb). With ``nested`` traps
    PCI configuration may move devices.
    """
    found = vmcb.CPUID | vmcb.MSR | vmcb.SMI | vmcb.VMRUN_TO_SKINIT
    if domain:
        found |= vmcb.HLT
    if encrypted:
        found |= vmcb.RDPMC | vmcb.INVD | vmcb.WBINVD | vmcb.MONITOR | vmcb.MWAIT
    if Input.PORT in spaces or nested:
        found |= vmcb.IO
    if Input.TSC in spaces:
        found |= vmcb.RDTSC | vmcb.RDTSCP
    if Input.IRQ in spaces:
        found |= vmcb.INTERRUPT
    return found


def quiet_intercepts(now: int) -> int:
    """Return the words of a VMCB, as they are ``now``, with which a guest leaves for no input.

    Interrupts that have been asked for are the monitor's business, which may have one in hand.
    """
    return intercepts_of(()) | now & (vmcb.INTERRUPT | _HELD)
