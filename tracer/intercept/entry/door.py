"""Doors: the code that a gate of the guest's points at, in front of its own handler.

There is one for each handler of vector 14, and of vector 6 in a confidential guest: see
:mod:`tracer.intercept.entry.stub`, which they lie in.
"""

from __future__ import annotations

import struct

from tracer.x86.state import PageFaultCode

DOORS = 12
"""Doors of a stub."""
DOOR_SIZE = 64
"""Bytes from one to the next."""
DOOR_PLACE = 11
"""The byte at which a door begins in its 64. A guest that writes its handler's address into a gate
byte by byte, over that of a door, changes the lowest byte: handlers are aligned."""

NOTE_MSR = 0x400 + 4 * 9 + 2
"""IA32_MC9_ADDR, of the last of the ten banks that QEMU gives a CPU with MCE and MCA (Intel SDM
vol. 4, table 2-2; QEMU target/i386/cpu.h, MCE_BANKS_DEF)."""
NOTE = (
    b"\x50\x51\x52"  # push rax; push rcx; push rdx
    b"\x0f\x20\xd0"  # mov rax, cr2
    b"\x48\x89\xc2"  # mov rdx, rax
    b"\x48\xc1\xea\x20"  # shr rdx, 32
    b"\xb9" + struct.pack("<I", NOTE_MSR) + b"\x0f\x30"  # mov ecx, NOTE_MSR; wrmsr
    b"\x5a\x59\x58"  # pop rdx; pop rcx; pop rax
)
"""Code that notes CR2."""


def shut_door(linear: int, spill: int) -> bytes:
    """Return the code of a door at a linear address to the stub alone."""
    return b"\xe9" + struct.pack("<i", spill - linear - 5)  # jmp spill


def fault_door(linear: int, handler: int, entry: int, *, notes: bool) -> bytes:
    """Return the code of a door at a linear address to a guest's page-fault handler.

    A fault on poison goes to ``entry``. With ``notes`` the CR2 of all others is noted.
    """
    code = b"\xf6\x04\x24" + bytes([PageFaultCode.RSVD])  # test byte ptr [rsp], RSVD
    code += b"\x0f\x85" + struct.pack("<i", entry - linear - len(code) - 6)  # jnz entry
    code += NOTE if notes else b""
    return code + jump_far(handler)


def call_door(linear: int, handler: int, called: int, instruction: bytes) -> bytes:
    """Return the code of a door at a linear address to a guest's handler of vector 6.

    The ``instruction``, 4 bytes long, goes to ``called``. Its bytes are read only as far as the CPU
    has read them: what follows a shorter one may not be mapped.
    """
    head = instruction[:2]
    tests = (
        b"\x66\x81\x38" + head,  # cmp word ptr [rax], the first two bytes
        b"\x80\x78\x02" + instruction[2:3],  # cmp byte ptr [rax + 2], the third
        b"\x80\x78\x03" + instruction[3:4],  # cmp byte ptr [rax + 3], the fourth
    )
    compare = tests[2]
    for test in (tests[1], tests[0]):
        compare = test + b"\x75" + bytes([len(compare)]) + compare  # jne behind
    read = b"\x50\x48\x8b\x44\x24\x08"  # push rax; mov rax, [rsp + 8]: RIP
    found = read + compare + b"\x58"  # pop rax
    there = linear + 7 + len(found) + 6
    found += b"\x0f\x84" + struct.pack("<i", called - there)  # je called
    # A program makes no such call, and its code is not the kernel's to read.
    code = b"\xf6\x44\x24\x08\x03"  # test byte ptr [rsp + 8], 3: of CS
    return code + b"\x75" + bytes([len(found)]) + found + jump_far(handler)  # jnz behind


def jump_far(linear: int) -> bytes:
    """Return the code of a jump to a linear address, wherever that is."""
    return b"\xff\x25" + bytes(4) + struct.pack("<Q", linear)  # jmp [rip]
