"""Guest code around the functions by which a thread of the kernel is sent on an errand.

Like a wrapper of mapping functions (:mod:`tracer.linux.wrapper`) it is entered through ftrace's
five bytes and calls the rest of the function. It keeps on the stack which function the errand is
to: where an unwinder comes by, from RSP upwards are that, and where the caller goes on. Nothing
stops: it is 8 instructions. Where there is a diary (:mod:`tracer.compiled.diary`), begin and end
are told to it, in 60 more. Registers are as they were but for R11 (see there).

A full diary is waited for: whoever runs the guest takes what is in it every few milliseconds. In a
guest that runs inside a monitor with traps of its own, the diary is nowhere in its page tables: it
leaves for the monitor, which writes the entry.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

from tracer.compiled.diary import What
from tracer.compiled.layout import DIARY, DIARY_ENTRY, DIARY_SLOTS, diary_word
from tracer.linux.wrapper import Back

_SHIFT = DIARY_ENTRY.size.bit_length() - 1
assert DIARY_ENTRY.size == 1 << _SHIFT


@dataclass(frozen=True, slots=True)
class Subject:
    """Say where the function of an errand is told at its entry: in a register, or where it leads.

    ``offset`` is in bytes from the address in the register, None for the register itself.
    """

    register: Literal["rdi", "rsi"]
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class Code:
    """Hold bytes for linear address ``base``, and how to leave others out of it.

    ``disarm`` is a linear address and bytes: with them there nobody goes on to the diary. ``back``
    is where the function that is called returns to, None where none is.
    """

    code: bytes
    base: int
    disarm: tuple[int, bytes] | None = None
    back: Back | None = None

    @property
    def span(self) -> range:
        """Return the linear addresses that it lies at."""
        return range(self.base, self.base + len(self.code))


def teller(base: int, block: int, thread: int, *, smp: bool) -> Code:
    """Return the code that tells the diary; it is called with R11D = the entry's last 4 bytes.

    The function is above the return address. ``block`` is the linear address of the block as data,
    ``thread`` where the thread is, relative to GS.
    """
    words = diary_word("HEAD")
    limit, lock = (diary_word(name) - words for name in ("LIMIT", "LOCK"))
    area = DIARY - words
    out = bytearray(b"\x9c\xfa")  # pushfq; cli
    disarm = len(out)
    out += b"\x66\x90"  # xchg ax, ax
    out += b"\x50\x51\x52"  # push rax; push rcx; push rdx
    out += b"\x48\xb9" + struct.pack("<Q", block + words)  # mov rcx, the words
    if smp:
        again = len(out)
        out += b"\xf0\x0f\xba\x69" + bytes([lock, 0])  # lock bts dword ptr [rcx + LOCK], 0
        out += b"\x73\x04\xf3\x90"  # jnc past; pause
        out += b"\xeb" + struct.pack("<b", again - len(out) - 2)  # jmp again
    out += b"\x48\x8b\x01"  # mov rax, [rcx]
    out += b"\x48\x3b\x41" + bytes([limit])  # cmp rax, [rcx + LIMIT]
    out += b"\x73\x00"  # jae full
    full = len(out)
    out += b"\x25" + struct.pack("<I", DIARY_SLOTS - 1)  # and eax, slots - 1
    out += b"\xc1\xe0" + bytes([_SHIFT])  # shl eax, shift
    out += b"\x48\x8d\x84\x01" + struct.pack("<i", area)  # lea rax, [rcx + rax + area]
    out += b"\x44\x89\x58\x14"  # mov [rax + 20], r11d
    out += b"\x49\x89\xc3"  # mov r11, rax
    out += b"\x48\x8b\x44\x24\x28"  # mov rax, [rsp + 40]
    out += b"\x49\x89\x43\x08"  # mov [r11 + 8], rax
    out += b"\x65\x8b\x04\x25" + struct.pack("<I", thread & 0xFFFFFFFF)  # mov eax, gs:[thread]
    out += b"\x41\x89\x43\x10"  # mov [r11 + 16], eax
    out += b"\x0f\x31"  # rdtsc
    out += b"\x41\x89\x03"  # mov [r11], eax
    out += b"\x41\x89\x53\x04"  # mov [r11 + 4], edx
    out += b"\x48\xff\x01"  # inc qword ptr [rcx]
    if smp:
        out += b"\xc6\x41" + bytes([lock, 0])  # mov byte ptr [rcx + LOCK], 0
    out += b"\x5a\x59\x58"  # pop rdx; pop rcx; pop rax
    leave = len(out)
    out += b"\x9d\xc3"  # popfq; ret
    out[full - 1] = len(out) - full
    if smp:
        out += b"\xc6\x41" + bytes([lock, 0])
    out += b"\x5a\x59\x58\x9d\xf3\x90"  # pop rdx; pop rcx; pop rax; popfq; pause
    out += b"\xeb" + struct.pack("<b", -len(out) - 2)  # jmp to the first instruction
    jump = b"\xeb" + struct.pack("<b", leave - disarm - 2)
    return Code(bytes(out), base, (base + disarm, jump))


def leaving(base: int) -> Code:
    """Return the code that has the monitor tell the diary, in place of :func:`teller`."""
    leave, nop = b"\x0f\x01\xd9", b"\x0f\x1f\x00"  # vmmcall; nop dword ptr [rax]
    return Code(leave + b"\xc3", base, (base, nop))  # ret


def around(base: int, subject: Subject, sort: int, tells: int | None) -> Code:
    """Return the code around a function; it tells the diary by the code at linear ``tells``."""
    out = bytearray(_push(subject))
    _tell(out, base, tells, What.BEGIN, sort)
    out += b"\x4c\x8b\x5c\x24\x08"  # mov r11, [rsp + 8]: the rest of the function
    out += b"\x8f\x04\x24"  # pop [rsp]: the errand takes its place
    out += b"\xe8" + bytes(4)  # call enter
    back = len(out)
    _tell(out, base, tells, What.END, sort)
    out += b"\x48\x8d\x64\x24\x08\xc3"  # lea rsp, [rsp + 8]; ret
    struct.pack_into("<i", out, back - 4, len(out) - back)
    out += b"\x41\x53\xc3"  # push r11; ret: no ENDBR is wanted there
    return Code(bytes(out), base, back=Back(base + back, returns=8, errand=0))


def before(base: int, subject: Subject | None, what: What, sort: int, tells: int) -> Code:
    """Return code that tells the diary and goes on with the function."""
    out = bytearray(b"\x6a\x00" if subject is None else _push(subject))  # push 0
    _tell(out, base, tells, what, sort)
    out += b"\x48\x8d\x64\x24\x08\xc3"  # lea rsp, [rsp + 8]; ret
    return Code(bytes(out), base)


def _push(subject: Subject) -> bytes:
    number = {"rdi": 7, "rsi": 6}[subject.register]
    if subject.offset is None:
        return bytes([0x50 | number])  # push register
    return bytes([0xFF, 0xB0 | number]) + struct.pack("<i", subject.offset)


def _tell(out: bytearray, base: int, tells: int | None, what: What, sort: int) -> None:
    if tells is None:
        return
    out += b"\x41\xbb" + struct.pack("<HH", what, sort)  # mov r11d, what of which sort
    out += b"\xe8" + struct.pack("<i", tells - (base + len(out) + 5))  # call tells
