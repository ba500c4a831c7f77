"""The registers of a vCPU, and the meaning of their bits.

Ref: Intel SDM vol. 1, 3.4 (general-purpose and segment registers, RFLAGS, RIP), 10.2 (XMM, MXCSR);
vol. 3A, 2.5 (control registers), 10.8.6 (CR8); vol. 4, table 2-2 (IA32_EFER); AMD APM vol. 2, 3.1.7
(EFER.SVME, EFER.FFXSR); System V ABI, AMD64 supplement, 3.2 (arguments, registers kept by calls).
"""

from __future__ import annotations

from collections.abc import Mapping

from tracer.devices.tree import Field, Register
from tracer.x86.state import GPR

SPECIFICATION = "Intel SDM"

_ALIASES = {"pc": "rip", "sp": "rsp", "eflags": "rflags"}


def cpu_register(name: str) -> Register | None:
    """Return what is known of a register by its name or GDB's, with ``$`` or without, or None."""
    bare = name.removeprefix("$").lower()
    return CPU_REGISTERS.get(_ALIASES.get(bare, bare))


def flag_names(name: str) -> dict[int, str]:
    """Return the names of a register's single bits."""
    return {f.low: f.name for f in CPU_REGISTERS[name].fields if f.high == f.low}


def _bits(*fields: tuple[int | str, str, str]) -> tuple[Field, ...]:
    found = []
    for bits, name, description in fields:
        high, _, low = str(bits).partition(":")
        found.append(Field(name, int(high), int(low or high), description))
    return tuple(found)


_RFLAGS = _bits(
    (0, "CF", "Carry"),
    (2, "PF", "Parity of the low byte"),
    (4, "AF", "Carry out of bit 3"),
    (6, "ZF", "Zero"),
    (7, "SF", "Sign"),
    (8, "TF", "Trap after each instruction"),
    (9, "IF", "Interrupts are taken"),
    (10, "DF", "String instructions go down"),
    (11, "OF", "Overflow"),
    ("13:12", "IOPL", "The highest CPL that may use I/O ports"),
    (14, "NT", "Nested task"),
    (16, "RF", "No breakpoint at the next instruction"),
    (17, "VM", "Virtual-8086 mode"),
    (18, "AC", "Alignment check; with SMAP, user pages may be accessed"),
    (19, "VIF", "Virtual interrupt flag"),
    (20, "VIP", "Virtual interrupt pending"),
    (21, "ID", "CPUID is there"),
)

_CR0 = _bits(
    (0, "PE", "Protection is on"),
    (1, "MP", "WAIT heeds TS"),
    (2, "EM", "x87 instructions raise #NM"),
    (3, "TS", "x87 and SSE raise #NM: a task's state is elsewhere"),
    (4, "ET", "Always 1: a 387 is there"),
    (5, "NE", "x87 errors raise #MF"),
    (16, "WP", "Read-only pages are so for the kernel as well"),
    (18, "AM", "RFLAGS.AC has alignment checked"),
    (29, "NW", "Not write-through"),
    (30, "CD", "Caches are off"),
    (31, "PG", "Paging is on"),
)

_CR3 = _bits(
    ("11:0", "PCID", "Address space, if CR4.PCIDE; else bits 3 and 4 are PWT and PCD"),
    ("51:12", "PML", "Physical address of the top page table, without its low 12 bits"),
)

_CR4 = _bits(
    (0, "VME", "Virtual-8086 extensions"),
    (1, "PVI", "Protected-mode virtual interrupts"),
    (2, "TSD", "RDTSC is for the kernel alone"),
    (3, "DE", "Debugging extensions"),
    (4, "PSE", "4 MiB pages in 32-bit paging"),
    (5, "PAE", "Page tables with 8-byte entries"),
    (6, "MCE", "Machine checks raise #MC"),
    (7, "PGE", "Global pages"),
    (8, "PCE", "RDPMC is for everybody"),
    (9, "OSFXSR", "The kernel saves SSE state"),
    (10, "OSXMMEXCPT", "SSE errors raise #XM"),
    (11, "UMIP", "SGDT, SIDT, SLDT, SMSW and STR are for the kernel alone"),
    (12, "LA57", "Page tables have five levels"),
    (13, "VMXE", "VMX instructions"),
    (14, "SMXE", "SMX instructions"),
    (16, "FSGSBASE", "RDFSBASE and its kin"),
    (17, "PCIDE", "Address spaces have numbers"),
    (18, "OSXSAVE", "XSAVE and XCR0"),
    (20, "SMEP", "The kernel cannot execute user pages"),
    (21, "SMAP", "The kernel cannot access user pages, unless RFLAGS.AC"),
    (22, "PKE", "Protection keys of user pages"),
    (23, "CET", "Control-flow enforcement"),
    (24, "PKS", "Protection keys of the kernel's pages"),
)

_EFER = _bits(
    (0, "SCE", "SYSCALL is there"),
    (8, "LME", "IA-32e mode once paging is on"),
    (10, "LMA", "IA-32e mode"),
    (11, "NXE", "Pages can forbid execution"),
    (12, "SVME", "SVM instructions"),
    (14, "FFXSR", "FXSAVE leaves out XMM in 64-bit kernel code"),
)

_SELECTOR = _bits(
    ("1:0", "RPL", "Requested privilege level; of CS and SS the CPL"),
    (2, "TI", "In the LDT, not the GDT"),
    ("15:3", "INDEX", "Which descriptor"),
)

_MXCSR = _bits(
    (0, "IE", "Invalid operation"),
    (1, "DE", "Denormal operand"),
    (2, "ZE", "Division by zero"),
    (3, "OE", "Overflow"),
    (4, "UE", "Underflow"),
    (5, "PE", "Not exact"),
    (6, "DAZ", "Denormals are zeros"),
    ("12:7", "MASKS", "Errors in the order of bits 0 to 5 that raise nothing"),
    ("14:13", "RC", "Rounding: 0 nearest, 1 down, 2 up, 3 toward 0"),
    (15, "FZ", "Results that underflow are zeros"),
)

_USES = {
    "rsp": "Stack pointer", "rbp": "Frame pointer, where the compiler keeps one",
    "rax": "Accumulator; result of a function", "rcx": "Count of REP and of shifts; 4th argument",
    "rdx": "High half of products and dividends; 3rd argument",
    "rsi": "Source of string instructions; 2nd argument",
    "rdi": "Destination of string instructions; 1st argument",
    "r8": "5th argument", "r9": "6th argument", "rbx": "Kept by functions",
    "r10": "4th argument of a system call", "r11": "RFLAGS after SYSCALL",
    "r12": "Kept by functions", "r13": "Kept by functions", "r14": "Kept by functions",
    "r15": "Kept by functions",
}  # fmt: skip


def _registers() -> Mapping[str, Register]:
    def known(
        name: str, section: str, description: str, width: int = 8, fields: tuple[Field, ...] = ()
    ) -> Register:
        return Register(name, 0, width, "rw", description, section, fields)

    found = [known(name, "vol. 1, 3.4.1", _USES[name]) for name in GPR]
    found += [
        known("rip", "vol. 1, 3.5", "The instruction that is next"),
        known("rflags", "vol. 1, 3.4.3", "Flags", fields=_RFLAGS),
        known("cr0", "vol. 3A, 2.5", "Control: modes", fields=_CR0),
        known("cr2", "vol. 3A, 2.5", "The linear address of the last page fault"),
        known("cr3", "vol. 3A, 2.5", "The top page table", fields=_CR3),
        known("cr4", "vol. 3A, 2.5", "Control: extensions", fields=_CR4),
        known("cr8", "vol. 3A, 10.8.6", "Task priority: interrupts of no higher class wait"),
        known("efer", "vol. 4, table 2-2", "Extended features: IA32_EFER", fields=_EFER),
        known("fs_base", "vol. 3A, 3.4.4", "What FS adds to an address in 64-bit mode"),
        known("gs_base", "vol. 3A, 3.4.4", "What GS adds to an address in 64-bit mode"),
        known("mxcsr", "vol. 1, 10.2.3", "SSE control and status", 4, _MXCSR),
    ]
    found += [
        known(f"{letter}s", "vol. 1, 3.4.2", f"Selector of {what}", 2, _SELECTOR)
        for letter, what in (
            ("c", "the code segment"), ("s", "the stack segment"), ("d", "the data segment"),
            ("e", "the segment that string instructions write"), ("f", "a segment with a base"),
            ("g", "a segment with a base: the kernel's per-CPU data"),
        )
    ]  # fmt: skip
    found += [known(f"xmm{n}", "vol. 1, 10.2.2", "Vector", 16) for n in range(16)]
    return {register.name: register for register in found}


CPU_REGISTERS = _registers()
"""The description of each register, by its name."""
