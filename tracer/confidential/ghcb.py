"""The page by which an SEV-ES guest asks its host: the GHCB, its fields and which are valid.

Ref: AMD SEV-ES Guest-Hypervisor Communication Block Standardization 2.03, 2.6 (layout, table 3)
and 4.1 (which fields an event has); Linux arch/x86/include/asm/svm.h `struct ghcb_save_area`,
`struct ghcb`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tracer.confidential.hypercall import GHCB_OFFSETS
from tracer.x86.state import PAGE_SIZE

VMGEXIT = b"\xf3\x0f\x01\xd9"
"""The instruction that asks the host (AMD APM vol. 3, VMGEXIT): an invalid one to QEMU's CPU."""

GHCB_MSR = 0xC001_0130
"""Has the page's physical address, or a request of the MSR protocol (GHCB specification, 2.3.1)."""

GHCB_STAND_IN = 0x400 + 4 * 9 + 3
"""The MSR that stands in for it: QEMU drops what is written to that one, and keeps all 64 bits of
IA32_MC9_MISC, the last of the ten banks that it gives a CPU with MCE and MCA (Intel SDM vol. 4,
table 2-2; QEMU target/i386/cpu.h, MCE_BANKS_DEF; helper_wrmsr). Linux looks there for thresholds,
and finds none, as no GHCB is above 2^63 (arch/x86/kernel/cpu/mce/amd.c, MASK_VALID_HI)."""

OFFSETS: Mapping[str, int] = {
    "xss": 0x140, "dr7": 0x160, "rip": 0x178, "rsp": 0x1D8, "rax": 0x1F8, "rcx": 0x308,
    "rdx": 0x310, "rbx": 0x318, "rbp": 0x328, "rsi": 0x330, "rdi": 0x338,
    **{f"r{8 + n}": 0x340 + 8 * n for n in range(8)},
    **{name: at for name, at in GHCB_OFFSETS.items() if name != "shared_buffer"},
    "xcr0": 0x3E8,
}  # fmt: skip
"""Fields of 8 bytes; a bit of the valid bitmap stands for each such 8 bytes of the save area."""

CPL = 0xCB
"""A field of one byte."""

VALID_BITMAP, VALID_BYTES = 0x3F0, 16
SHARED_BUFFER, BUFFER_END = GHCB_OFFSETS["shared_buffer"], 0xFF0
VERSION, USAGE = 0xFFA, 0xFFC


@dataclass(frozen=True, slots=True)
class Ghcb:
    """Hold what a page says: the fields whose valid bit is set, and ``cpl`` likewise.

    ``usage`` is 0 for the layout that is known.
    """

    fields: Mapping[str, int]
    usage: int
    version: int
    buffer: bytes


def unpack(page: bytes) -> Ghcb:
    """Return what all 4096 bytes of a GHCB say. Raises ValueError for another length."""
    if len(page) != PAGE_SIZE:
        raise ValueError(f"a GHCB has {PAGE_SIZE} bytes, not {len(page)}")
    valid = int.from_bytes(page[VALID_BITMAP : VALID_BITMAP + VALID_BYTES], "little")
    fields = {
        name: int.from_bytes(page[at : at + 8], "little")
        for name, at in OFFSETS.items()
        if valid >> at // 8 & 1
    }
    if valid >> CPL // 8 & 1:
        fields["cpl"] = page[CPL]
    return Ghcb(
        fields,
        int.from_bytes(page[USAGE : USAGE + 4], "little"),
        int.from_bytes(page[VERSION : VERSION + 2], "little"),
        page[SHARED_BUFFER:BUFFER_END],
    )


def patch(page: bytes, fields: Mapping[str, int], data: bytes = b"", at: int = 0) -> bytes:
    """Return a page with fields that the host sets, which alone are valid then.

    ``data`` goes to the offset ``at`` of the page.
    """
    after = bytearray(page)
    valid = 0
    for name, value in fields.items():
        offset = OFFSETS[name]
        after[offset : offset + 8] = value.to_bytes(8, "little")
        valid |= 1 << offset // 8
    after[VALID_BITMAP : VALID_BITMAP + VALID_BYTES] = valid.to_bytes(VALID_BYTES, "little")
    after[at : at + len(data)] = data
    return bytes(after)
