"""A kernel's symbols tell which kinds of guest it can be.

Ref: Linux arch/x86/coco/tdx/tdx.c (CONFIG_INTEL_TDX_GUEST, from 5.19 on); arch/x86/mm/
mem_encrypt_identity.c `sme_enable`, which is built apart from the kernel and has the prefix of that
from 6.16 on (arch/x86/boot/startup), and arch/x86/kernel/sev.c (CONFIG_AMD_MEM_ENCRYPT, with #VC
from 5.10 on).
"""

from __future__ import annotations

from collections.abc import Callable

from tracer.confidential.kind import Kind

SME_ENABLE = ("sme_enable", "__pi_sme_enable")
"""Asks the CPU whether memory is encrypted: it has either name."""

_SYMBOLS: dict[Kind, tuple[tuple[str, ...], ...]] = {
    Kind.PLAIN: (),
    Kind.TDX: (("tdx_early_init",), ("exc_virtualization_exception",)),
    Kind.SEV_ES: (SME_ENABLE, ("vc_no_ghcb",), ("kernel_exc_vmm_communication",)),
}
"""One name of each is in a kernel that can."""
_OPTIONS = {Kind.TDX: "CONFIG_INTEL_TDX_GUEST", Kind.SEV_ES: "CONFIG_AMD_MEM_ENCRYPT"}


def kinds_of(knows: Callable[[str], bool]) -> tuple[Kind, ...]:
    """Return the kinds of guest that a kernel can be; ``knows`` tells whether it has a symbol."""
    return tuple(
        kind for kind, wanted in _SYMBOLS.items() if all(any(map(knows, names)) for names in wanted)
    )


def why_not(kind: Kind, release: str) -> str:
    """Return in one line that a kernel cannot be such a guest, and where one is that can."""
    return (
        f"this kernel ({release}) has no {kind.label} guest support ({_OPTIONS[kind]}); "
        f"{setup_command(kind)} gets one that has"
    )


def setup_command(kind: Kind) -> str:
    """Return the command that fetches a kernel for a kind of guest."""
    return "vetrace setup" if kind is Kind.PLAIN else f"vetrace setup --guest {kind}"
