"""Unwind a kernel's stack by its frame pointers, where it has no ORC tables.

A function built with frame pointers pushes its caller's RBP and points RBP there; the return
address lies above. Code without a frame of its own, and a function stopped before it has made
one, hide their caller: what comes out may leave a function out, and never invents one.

Ref: Linux arch/x86/kernel/unwind_frame.c (decode_frame_pointer: an odd RBP is a struct pt_regs),
arch/x86/include/asm/frame.h (ENCODE_FRAME_POINTER), arch/x86/entry/calling.h (system calls enter
with RBP cleared).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tracer.access.stack import Frame, Stack
from tracer.access.symbols import KERNEL_HALF
from tracer.linux.orc import MAX_FRAMES, Read
from tracer.linux.wrapper import NO_BACKS, Backs

_RBP, _RIP, _CS = 32, 128, 136  # byte offsets in struct pt_regs
_STACK = 1 << 16
"""More bytes than a kernel stack has: what is further away is on another one."""

_PROLOGUE = b"\x55\x48\x89\xe5"  # push rbp; mov rbp, rsp


def has_frame(code: bytes) -> bool:
    """Tell whether the first bytes of a function make a frame, behind ENDBR and the ftrace call."""
    return _PROLOGUE in code[:16]


def unwind(
    rip: int,
    rbp: int,
    is_code: Callable[[int], bool],
    read: Read,
    backs: Backs = NO_BACKS,
) -> Stack:
    """Return the functions under way in kernel code at a linear address, itself first.

    ``backs`` are as in :func:`tracer.linux.orc.unwind`.
    ``is_code`` tells whether a linear address is in known code. ``lost`` says where belief ended:
    at an RBP that is not in the kernel's half, not aligned or not above the last on its stack, or
    at a return address that is in no known code.
    """
    frames = [Frame(rip, True)]
    last = 0
    try:
        while rbp:
            if len(frames) == MAX_FRAMES:
                return _lost(frames, f"more than {MAX_FRAMES} frames")
            if rbp < KERNEL_HALF:
                return _lost(frames, f"RBP {rbp:#x} is no address of the kernel")
            if rbp & 1:
                regs = rbp - 1
                rip, cs = _quadword(read, regs + _RIP), _quadword(read, regs + _CS)
                if cs & 3 or rip == 0:
                    break  # entered from user space, or the first function of a thread
                following, interrupted = _quadword(read, regs + _RBP), True
            else:
                if rbp & 7 or last - _STACK < rbp <= last:
                    return _lost(frames, f"RBP {rbp:#x} does not lead up the stack")
                rip, following, interrupted = _quadword(read, rbp + 8), _quadword(read, rbp), False
                above = rbp + 16
                while (back := backs.get(rip)) is not None:
                    if back.errand is not None:
                        errand = _quadword(read, above + back.errand)
                        frames[-1] = replace(frames[-1], errand=errand)
                    rip = _quadword(read, above + back.returns)
                    above += back.returns + 8
                last = rbp
            frame = Frame(rip, interrupted)
            if not is_code(frame.place):
                return _lost(frames, f"{rip:#x} is in no known code")
            frames.append(frame)
            rbp = following
    except LookupError:
        return _lost(frames, f"the stack at {rbp:#x} is not in RAM")
    return Stack(tuple(frames))


def _quadword(read: Read, linear: int) -> int:
    return int.from_bytes(read(linear, 8), "little")


def _lost(frames: list[Frame], why: str) -> Stack:
    return Stack(tuple(frames), f"by frame pointers, and {why}")
