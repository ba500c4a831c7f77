"""Where Linux makes mappings: the functions to watch, and what their arguments mean.

Ref: Linux 6.1 and 6.12: mm/ioremap.c and mm/vmalloc.c (ioremap_page_range), arch/x86/mm/init_64.c
(set_pte_vaddr), mm/early_ioremap.c (early_ioremap), mm/memory.c (remap_pfn_range,
vmf_insert_pfn_prot), arch/x86/mm/pat/set_memory.c (kernel_map_pages_in_pgd); x86-64 psABI 3.2.3
for the registers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tracer.access.mapping import NewMapping
from tracer.access.symbols import SymbolTable
from tracer.linux.wrapper import PageArgument
from tracer.x86.state import PAGE_SIZE

ENTRY = "start_kernel"
"""Where tracing can begin: its own IDT is loaded, and no device is mapped."""

SECONDARY_ENTRY = "start_secondary"
"""The same on a further CPU, which an earlier one starts."""

SEV_SECONDARY_ENTRY = "secondary_startup_64_no_verify"
"""The kernel begins here on one of an SEV-ES guest (Linux: arch/x86/kernel/head_64.S)."""

TDX_ENTRY = "tdx_early_init"
"""The kernel asks here whether it is a TDX guest; tracing can begin here too."""

STUB_PLACE = "__entry_text_end"
"""Padding follows it, executable, and mapped in user page tables too under PTI."""

TEXT = (("_stext", "_etext"), ("_sinittext", "_einittext"))
"""What the kernel's code lies between."""

SWITCHES_KERNELS = ("machine_kexec",)
"""Functions that take the IDT away before another kernel starts."""

SPARE_LINEAR = 0xFFFF_FFFF_FFE0_0000
"""The hole at the end of the address space, 2 MiB beside the fixmap (Documentation/arch/x86/
x86_64/mm.rst, "unused hole")."""

_PFN_MASK = 0x0007_FFFF_FFFF_F000  # without bit 51, which may be our poison
_PRESENT = 1
_PAGE_MASK = 0xFFFF_FFFF_FFFF_F000

Registers = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class MappingHook:
    """Name a function that enters translations, and read its arguments.

    ``names`` are alternatives, best first: the kernel may lack some of them, or have inlined
    them. ``required`` hooks are ones without which kernel mappings would be missed. A function
    that ``chooses`` the linear address tells it where it returns; until then it is 0. One that
    maps a single ``page``, which that argument tells, may be called often, for RAM mostly.
    """

    names: tuple[str, ...]
    arguments: Callable[[Registers], NewMapping]
    required: bool = False
    chooses: bool = False
    page: PageArgument | None = None

    def made(self, mapping: NewMapping, registers: Registers) -> NewMapping:
        """Return the mapping as it is where the function has returned to."""
        return replace(mapping, linear=registers["rax"]) if self.chooses else mapping


def _ioremap_page_range(registers: Registers) -> NewMapping:
    # (unsigned long addr, unsigned long end, phys_addr_t phys_addr, pgprot_t prot)
    start, end = registers["rdi"], registers["rsi"]
    return NewMapping(start, registers["rdx"], max(0, end - start))


def _set_pte_vaddr(registers: Registers) -> NewMapping:
    # (unsigned long vaddr, pte_t pte): every fixmap entry: IOAPIC, LAPIC, APEI. One that is not
    # present maps nothing, whatever its bits are.
    size = PAGE_SIZE if registers["rsi"] & _PRESENT else 0
    return NewMapping(registers["rdi"] & _PAGE_MASK, registers["rsi"] & _PFN_MASK, size)


def _early_ioremap(registers: Registers) -> NewMapping:
    # (resource_size_t phys_addr, unsigned long size)
    return NewMapping(0, registers["rdi"], registers["rsi"])


def _remap_pfn_range(registers: Registers) -> NewMapping:
    # (vma, unsigned long addr, unsigned long pfn, unsigned long size, pgprot_t prot)
    return NewMapping(registers["rsi"], registers["rdx"] << 12, registers["rcx"])


def _vmf_insert_pfn_prot(registers: Registers) -> NewMapping:
    # (vma, unsigned long addr, unsigned long pfn, pgprot_t pgprot)
    return NewMapping(registers["rsi"] & _PAGE_MASK, registers["rdx"] << 12, PAGE_SIZE)


def _kernel_map_pages_in_pgd(registers: Registers) -> NewMapping:
    # (pgd_t *pgd, u64 pfn, unsigned long address, unsigned numpages, unsigned long page_flags)
    size = (registers["rcx"] & 0xFFFF_FFFF) << 12
    return NewMapping(registers["rdx"], registers["rsi"] << 12, size, registers["rdi"])


FIRMWARE = "kernel_map_pages_in_pgd"
"""Makes the page tables that UEFI firmware has at run time (arch/x86/platform/efi/efi_64.c)."""

HOOKS = (
    MappingHook(("ioremap_page_range",), _ioremap_page_range, required=True),
    MappingHook(
        ("set_pte_vaddr",), _set_pte_vaddr, required=True, page=PageArgument("rsi", entry=True)
    ),
    # Its twin early_memremap is for RAM, and what they both call is called for each page of RAM
    # that the kernel looks at before its allocator runs: 40,000 times with CONFIG_X86_MPPARSE.
    MappingHook(("early_ioremap", "__early_ioremap"), _early_ioremap, chooses=True),
    # Each calls the one before, or has it inlined.
    MappingHook(("remap_pfn_range_internal",), _remap_pfn_range),
    MappingHook(("remap_pfn_range_notrack",), _remap_pfn_range),
    MappingHook(("remap_pfn_range",), _remap_pfn_range),
    MappingHook(("vmf_insert_pfn_prot",), _vmf_insert_pfn_prot, page=PageArgument("rdx")),
    MappingHook((FIRMWARE,), _kernel_map_pages_in_pgd),
)


def find_hooks(symbols: SymbolTable) -> tuple[dict[int, tuple[str, MappingHook]], list[str]]:
    """Return the hooks by linear address of their function, and the required ones not found."""
    found: dict[int, tuple[str, MappingHook]] = {}
    missing: list[str] = []
    for hook in HOOKS:
        for name in hook.names:
            address = symbols.address_of(name)
            if address is not None:
                found[address] = (name, hook)
                break
        else:
            if hook.required:
                missing.append(hook.names[0])
    return found, missing
