"""How Linux reads page-table entries back and rewrites them, with a poisoned one among them.

Linux takes the physical address out of an entry with ``PTE_PFN_MASK``, bits 12 to 51, and so the
poison with it. Where the kernel can run with encrypted memory (CONFIG_DYNAMIC_PHYSICAL_MASK, which
AMD_MEM_ENCRYPT and INTEL_TDX_GUEST select) that mask is made from a variable, ``physical_mask``,
for the same reason: their encryption bit is none of the address. With bit 51 taken out of it the
poison is a flag like the cache bits: it is copied, moved and split with the entry, and no reader
finds it in an address.

Only a change of access rights builds an entry anew and drops the flags it does not know
(``pte_modify``, ``_PAGE_CHG_MASK``): meanwhile the poison is *carried* in the bit below, which is
reserved as well and still part of the mask. An entry without any rights (PROT_NONE) is not
present for the CPU, and its address bits are inverted.

Ref: Linux arch/x86/include/asm/page_types.h (PHYSICAL_PAGE_MASK), pgtable.h (pte_modify),
pgtable-invert.h; arch/x86/mm/pgtable.c (physical_mask); mm/mprotect.c (change_protection);
94d49eb30e85 "x86/mm: Decouple dynamic __PHYSICAL_MASK from AMD SME" (in v4.18);
6b28baca9b1f "x86/speculation/l1tf: Protect PROT_NONE PTEs against speculation" (in v4.18).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tracer.x86.paging import PRESENT, Paging

PHYSICAL_MASK = "physical_mask"
"""The variable, of 8 bytes."""

CHANGE_RIGHTS = "change_protection"
"""Gives the pages of a linear range other access rights."""

FOLLOW_ENTRY = "follow_pte"
"""Looks up the entry of a linear address for its caller, which takes it apart: up to 6.11."""

FOLLOW_PAGE = "follow_pfnmap_start"
"""The same, but for what is in the entry: from 5731aacd54a8 "KVM: use follow_pfnmap API" on, when
the last callers of ``follow_pte`` changed (in v6.12)."""

PAGE_ARGUMENTS = ("follow_pfnmap_args", "pfn")
"""The structure that :data:`FOLLOW_PAGE` fills in, and its member with the page's number."""

DEVICE_AREA = 1 << 10 | 1 << 28
"""VM_PFNMAP and VM_MIXEDMAP: a ``vm_area_struct`` without either maps no device memory."""

_RIGHTS_PARAMETERS = ("tlb", "vma", "start", "end", "newprot", "cp_flags")
_ARGUMENTS = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")
_PROT_NONE = 1 << 8  # _PAGE_PROTNONE; in a present entry the bit is _PAGE_GLOBAL
_ADDRESS = 0x000F_FFFF_FFFF_F000


def hidden(mask: int, paging: Paging) -> int | None:
    """Return the value of ``physical_mask`` that leaves the poison out.

    None when what was read there is no mask of physical addresses.
    """
    low = paging.marks & ~paging.poison
    if mask & (low * 2 - 1) != low * 2 - 1 or mask >> 52:
        return None
    return mask & ~paging.poison


def carrier(paging: Paging, *, hides: bool) -> int:
    """Return the mask of the bit that carries the poison over a change of access rights.

    ``hides`` tells whether ``physical_mask`` leaves the poison out.
    """
    return paging.marks & ~paging.poison if hides else paging.poison


def address_in(entry: int, paging: Paging) -> int | None:
    """Return the physical address in a leaf entry, or None when it maps nothing.

    An entry without access rights has one too.
    """
    if entry & PRESENT:
        return entry & _ADDRESS & ~paging.marks
    if entry & _PROT_NONE:
        return ~entry & _ADDRESS & ~paging.marks
    return None


def carried(entry: int, bit: int) -> int:
    """Return an entry of device memory as it is to be while its rights change."""
    return entry | bit if entry & PRESENT else entry & ~bit


def settled(entry: int, bit: int, paging: Paging) -> int:
    """Return an entry of device memory as it is to be once its rights have changed."""
    if entry & PRESENT:
        return entry & ~bit | paging.poison
    # For the kernel, which reads this one too, it has no poison: no access comes through it.
    return entry | bit


def rights_range(
    registers: Mapping[str, int], parameters: Sequence[str] | None
) -> tuple[int, int, int]:
    """Return the ``vm_area_struct`` and the linear range that rights change in, end excluded.

    From the registers at the entry of :data:`CHANGE_RIGHTS`; ``parameters`` are the names of its
    parameters, which are not the same in all versions of Linux.
    """
    names = parameters or _RIGHTS_PARAMETERS
    if not {"vma", "start", "end"} <= set(names[: len(_ARGUMENTS)]):
        names = _RIGHTS_PARAMETERS
    values = {name: registers[register] for name, register in zip(names, _ARGUMENTS, strict=False)}
    return values["vma"], values["start"], values["end"]
