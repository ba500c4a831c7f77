"""Where a kernel that randomises its addresses can be met, and how far it moved.

A bzImage unpacks its kernel to a physical place and relocates it to a linear one, both chosen at
random. Two jumps of the decompressor lie on the way: ``lea rax, [rbx + .Lrelocated]; jmp rax``
goes to its copy of itself, RBX being that copy's place, and ``jmp rax`` at the copy's end goes to
the kernel, RAX being the kernel's physical entry point.

Ref: Linux arch/x86/boot/compressed/head_64.S (startup_64, .Lrelocated); arch/x86/boot/compressed/
kaslr.c; arch/x86/kernel/head_64.S (initial_code); Documentation/arch/x86/boot.rst (64-bit entry).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tracer.errors import KernelImageError

LOAD_PHYSICAL = 0x100000
"""Where a boot loader puts the protected-mode part of a bzImage (LOADED_HIGH)."""

KERNEL_MAP = 0xFFFF_FFFF_8000_0000
"""Link address of physical 0 (__START_KERNEL_map)."""

ALIGNMENT = 1 << 21
"""The kernel moves by multiples of 2 MiB (CONFIG_PHYSICAL_ALIGN), linear within 1 GiB."""

POINTER, POINTEE = "initial_code", "x86_64_start_kernel"
"""A relocated pointer in the kernel's data, and what it points to."""

_TO_COPY = re.compile(rb"\x48\x8d\x83(....)\xff\xe0", re.DOTALL)
_JUMP = b"\xff\xe0"


@dataclass(frozen=True, slots=True)
class Decompressor:
    """Hold the offsets, from the start of the protected-mode part, of the two jumps.

    ``to_copy`` is where the first jump is and ``copy`` where it leads, within the copy;
    ``to_kernel`` is where the second is, within the copy.
    """

    to_copy: int
    copy: int
    to_kernel: int


@dataclass(frozen=True, slots=True)
class Moved:
    """Tell how far a kernel moved from where it was linked to be, in bytes.

    ``linear`` is for its addresses, ``physical`` for where it lies in RAM.
    """

    linear: int = 0
    physical: int = 0

    @property
    def mapped(self) -> int:
        """Return what is between its linear addresses and the physical ones, now."""
        return KERNEL_MAP + self.linear - self.physical


def find_jumps(image: bytes) -> Decompressor:
    """Return where a bzImage's decompressor jumps to its copy and to the kernel.

    Raises KernelImageError when the code is not as known here.
    """
    start = (image[0x1F1] or 4) * 512 + 512
    protected = image[start:]
    match = _TO_COPY.search(protected, 0x200, 0x200 + 4096)
    if match is not None:
        copy = int.from_bytes(match[1], "little")
        to_kernel = protected.find(_JUMP, copy, copy + 512)
        if to_kernel >= 0:
            return Decompressor(match.end() - len(_JUMP), copy, to_kernel)
    raise KernelImageError(
        "its decompressor is of an unknown kind, so KASLR cannot be followed: boot with nokaslr"
    )


def pointer_physical(entry_physical: int, link_entry: int, link_pointer: int) -> int:
    """Return the physical address of the pointer, the kernel having been entered at one.

    ``entry_physical`` is where it was entered, ``link_entry`` the physical address that its ELF
    header names, ``link_pointer`` the pointer's linear link address.
    """
    return entry_physical + link_pointer - (KERNEL_MAP + link_entry)


def displacement(pointer: int, link_pointee: int) -> int:
    """Return how far the kernel moved, in bytes, from the pointer's value in the guest.

    Raises KernelImageError when the value cannot be one.
    """
    moved = pointer - link_pointee
    if not 0 <= moved < 1 << 30 or moved % ALIGNMENT:
        raise KernelImageError(
            f"the guest's {POINTER} holds {pointer:#x}: the symbols are of another kernel"
        )
    return moved
