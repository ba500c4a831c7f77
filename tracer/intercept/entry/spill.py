"""The spill: what the stub leaves of the interrupted code on the stack, at ``stop``.

From RSP upwards, in quadwords:

    time-stamp counter, CR0, CR2, CR3, CR4
    R15 R14 R13 R12 R11 R10 R9 R8 RDI RSI RBP RBX RDX RCX RAX
    error code, RIP, CS, RFLAGS, RSP, SS    (Intel SDM vol. 3A, figure 6-9)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tracer.x86.state import GPR, CpuState, FaultFrame, Mode, Segments

_SPILLED = (
    "tsc", "cr0", "cr2", "cr3", "cr4",
    "r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8",
    "rdi", "rsi", "rbp", "rbx", "rdx", "rcx", "rax",
    "error_code", "rip", "cs", "rflags", "rsp", "ss",
)  # fmt: skip
_SLOTS = struct.Struct(f"<{len(_SPILLED)}Q")
_SLOT = {name: index for index, name in enumerate(_SPILLED)}
_GPR_SLOTS = tuple(_SLOT[name] for name in GPR)
CONTROL_SIZE = 8 * _SLOT["r15"]
"""Bytes of stack below the general-purpose registers, which the stub drops first after ``stop``."""

SPILL_SIZE = _SLOTS.size
"""Bytes of stack that tell of the fault at ``stop``."""


@dataclass(frozen=True, slots=True)
class Spill:
    """Hold what the stub spilled: the interrupted registers, and why it was entered.

    ``gpr`` is in the order of :data:`tracer.x86.state.GPR`, ``cr2`` the linear address that
    faulted.
    """

    slots: tuple[int, ...]
    gpr: tuple[int, ...]
    frame: FaultFrame
    tsc: int
    cr0: int
    cr2: int
    cr3: int
    cr4: int


def unpack_spill(stack: bytes) -> Spill:
    """Return what the ``SPILL_SIZE`` bytes from RSP upwards hold."""
    slots = _SLOTS.unpack(stack)
    tsc, cr0, cr2, cr3, cr4 = slots[:5]
    error_code, rip, cs, rflags, rsp, ss = slots[-6:]
    return Spill(
        slots=slots,
        gpr=tuple([slots[index] for index in _GPR_SLOTS]),
        frame=FaultFrame(error_code, rip, cs & 0xFFFF, rflags, rsp, ss & 0xFFFF),
        tsc=tsc,
        cr0=cr0,
        cr2=cr2,
        cr3=cr3,
        cr4=cr4,
    )


def pack_request(linear: int, value: int) -> bytes:
    """Return the bytes at RSP that ask ``loads`` or ``stores`` for an access."""
    return struct.pack("<QQ", linear, value)


def frame_at(stack: int) -> int:
    """Return where the CPU's own frame is, from RIP on; the spill is at ``stack``."""
    return stack + 8 * _SLOT["rip"]


def error_at(stack: int) -> int:
    """Return where the error code is, right below the frame; the spill is at ``stack``."""
    return stack + 8 * _SLOT["error_code"]


def cr2_at(stack: int) -> int:
    """Return where CR2 is, or what a call is about; the spill is at ``stack``."""
    return stack + 8 * _SLOT["cr2"]


def pack_frame(frame: FaultFrame) -> bytes:
    """Return what the CPU pushes for an exception with an error code, which lies lowest."""
    return struct.pack(
        "<6Q", frame.error_code, frame.rip, frame.cs, frame.rflags, frame.rsp, frame.ss
    )


def pack_return(spill: Spill, rip: int) -> bytes:
    """Return the frame for ``halts`` to go back to RIP as the interrupted code was."""
    frame = spill.frame
    return struct.pack("<5Q", rip, frame.cs, frame.rflags, frame.rsp, frame.ss)


VALUE_OFFSET = 8
"""The place of the value that was read, from RSP, at ``done``."""


def patch_spill(
    spill: Spill, gpr: tuple[int, ...], rip: int, rflags: int
) -> tuple[int, bytes] | None:
    """Return the bytes to write so that the vCPU resumes with these registers.

    The answer is their offset from the spill's start and the bytes, or None when nothing differs.
    """
    slots = list(spill.slots)
    for index, value in zip(_GPR_SLOTS, gpr, strict=True):
        slots[index] = value
    slots[_SLOT["rip"]] = rip
    slots[_SLOT["rflags"]] = rflags
    changed = [index for index, old in enumerate(spill.slots) if slots[index] != old]
    if not changed:
        return None
    first, last = changed[0], changed[-1] + 1
    return 8 * first, struct.pack(f"<{last - first}Q", *slots[first:last])


def pack_spill(spill: Spill, gpr: tuple[int, ...], frame: FaultFrame) -> bytes:
    """Return the bytes of a spill of another interrupted code; control registers are the same."""
    slots = list(spill.slots)
    for index, value in zip(_GPR_SLOTS, gpr, strict=True):
        slots[index] = value
    slots[_SLOT["error_code"] :] = (
        frame.error_code, frame.rip, frame.cs, frame.rflags, frame.rsp, frame.ss,
    )  # fmt: skip
    return _SLOTS.pack(*slots)


def interrupted(spill: Spill, mode: Mode) -> CpuState:
    """Return the state of the interrupted code, as far as the stub spills it.

    Segments and XMM are unknown: :func:`complete` adds them. The x87 stack stays unknown, so that
    its instructions are left to the CPU: GDB cannot write its registers bit by bit.
    """
    frame = spill.frame
    return CpuState(
        gpr=spill.gpr,
        rip=frame.rip,
        rflags=frame.rflags,
        cpl=frame.cpl,
        mode=mode,
        segments=Segments(cs=frame.cs, ss=frame.ss),
        cr0=spill.cr0,
        cr4=spill.cr4,
        fpu_tag=0xFFFF,
    )
