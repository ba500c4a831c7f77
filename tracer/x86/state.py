"""The x86-64 architecture as values: registers, flags, fault frames.

Ref: Intel SDM vol. 1, 3.4 (registers, EFLAGS); vol. 3A, 6.14.2 (64-bit stack frame),
6.15 (#PF error code); AMD APM vol. 2, 8.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntFlag

GPR = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
"""General-purpose registers in architectural (ModRM) order."""

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)

PAGE_SIZE = 4096
MAX_INSTRUCTION = 15
"""Longest instruction in bytes (Intel SDM vol. 2A, 2.3.11)."""

PAGE_FAULT_VECTOR = 14
INVALID_OPCODE_VECTOR = 6
VIRTUALIZATION_VECTOR = 20
COMMUNICATION_VECTOR = 29
"""#VC, the VMM communication exception (AMD APM vol. 2, 8.2.20)."""

CR4_FRED = 1 << 32
"""Exceptions are delivered without an IDT (Linux arch/x86/include/uapi/asm/processor-flags.h)."""


class Flag(IntFlag):
    """Name the bits of RFLAGS (Intel SDM vol. 1, figure 3-8)."""

    CF = 1 << 0
    PF = 1 << 2
    AF = 1 << 4
    ZF = 1 << 6
    SF = 1 << 7
    TF = 1 << 8
    IF = 1 << 9
    DF = 1 << 10
    OF = 1 << 11
    RF = 1 << 16
    AC = 1 << 18


STATUS_FLAGS = Flag.CF | Flag.PF | Flag.AF | Flag.ZF | Flag.SF | Flag.OF


class Mode(Enum):
    """Name the code-segment modes of IA-32e; the value is the default address width in bits."""

    LONG = 64
    COMPAT32 = 32
    COMPAT16 = 16


class PageFaultCode(IntFlag):
    """Name the bits of a #PF error code (Intel SDM vol. 3A, figure 4-12)."""

    P = 1 << 0
    W = 1 << 1
    U = 1 << 2
    RSVD = 1 << 3
    I = 1 << 4  # noqa: E741 - the SDM's own name for instruction fetch


@dataclass(frozen=True, slots=True)
class Segments:
    """Hold the selectors of one vCPU, and the bases: 64-bit mode honours those of FS and GS alone.

    Those of the others are 0 where nobody tells them: systems of today run 32-bit programs flat.
    """

    cs: int = 0x10
    ss: int = 0x18
    ds: int = 0
    es: int = 0
    fs: int = 0
    gs: int = 0
    fs_base: int = 0
    gs_base: int = 0
    es_base: int = 0
    cs_base: int = 0
    ss_base: int = 0
    ds_base: int = 0


@dataclass(frozen=True, slots=True)
class CpuState:
    """Hold what an instruction can see of one vCPU.

    ``gpr`` has the sixteen 64-bit general-purpose registers in the order of :data:`GPR`;
    ``rip`` is a linear address; ``xmm`` has XMM0 to XMM15, the low 128 bits of YMM0 to YMM15, and
    ``ymm`` bits 255:128 of these; ``st`` has ST(0) to ST(7) as 80-bit integers. Each of the three
    is empty when unknown.
    """

    gpr: tuple[int, ...] = (0,) * 16
    rip: int = 0
    rflags: int = 2
    cpl: int = 0
    mode: Mode = Mode.LONG
    segments: Segments = field(default_factory=Segments)
    cr0: int = 0x80050033
    cr4: int = 0x406F0
    xmm: tuple[int, ...] = ()
    ymm: tuple[int, ...] = ()
    st: tuple[int, ...] = ()
    fpu_control: int = 0x37F
    fpu_status: int = 0
    fpu_tag: int = 0xFFFF
    mxcsr: int = 0x1F80


@dataclass(frozen=True, slots=True)
class FaultFrame:
    """Hold what the CPU pushes for #PF in 64-bit mode (Intel SDM vol. 3A, 6.14.2).

    ``rip`` and ``rsp`` are linear addresses of the interrupted code.
    """

    error_code: int
    rip: int
    cs: int
    rflags: int
    rsp: int
    ss: int

    @property
    def cpl(self) -> int:
        """Return the privilege level that was interrupted: the RPL of its CS."""
        return self.cs & 3
