"""The host of a TDX guest: what TDG.VP.VMCALL asks, and what KVM says to it.

Ref: Intel TDX Guest-Host-Communication Interface 1.5, 2.4.1 and 3 (sub-functions, registers);
Linux arch/x86/kvm/vmx/tdx.c (6.16 and later) `tdx_map_gpa`, `tdx_emulate_mmio`, `tdx_emulate_io`,
`tdx_emulate_cpuid`, `tdx_report_fatal_error`, `tdx_get_td_vm_call_info`, `tdx_get_quote`,
`tdx_setup_event_notify_interrupt`, `handle_tdvmcall`, `tdx_complete_emulated_msr`;
arch/x86/coco/tdx/tdx.c `tdx_panic` (the registers that hold the text).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from tracer.confidential.hypercall import REQUEST_MMIO, STANDARD, WIDTHS
from tracer.confidential.request import (
    KVM_ENOSYS,
    Cpuid,
    EventNotify,
    FatalError,
    GetQuote,
    Give,
    Halt,
    MapGpa,
    Mmio,
    Msr,
    Other,
    PortIo,
    Refuse,
    Reply,
    Request,
    Retry,
)
from tracer.confidential.tdx_status import HostStatus
from tracer.text.printable import printable
from tracer.x86.bus import Direction
from tracer.x86.state import PAGE_SIZE

_INT, _LIMIT = (1 << 32) - 1, 1 << 64

_TEXT_REGISTERS = ("r14", "r15", "rbx", "rdi", "rsi", "r8", "r9", "rdx")
_DIRECTIONS: Mapping[int, Direction] = {0: "read", 1: "write"}


class Number(IntEnum):
    """Name the sub-functions of R11; the small ones are exit reasons (GHCI 3)."""

    CPUID = 10
    HLT = 12
    IO = 30
    RDMSR = 31
    WRMSR = 32
    MMIO = REQUEST_MMIO
    GET_TD_VM_CALL_INFO = 0x10000
    MAP_GPA = 0x10001
    GET_QUOTE = 0x10002
    REPORT_FATAL_ERROR = 0x10003
    SETUP_EVENT_NOTIFY_INTERRUPT = 0x10004


@dataclass(frozen=True, slots=True)
class Call:
    """Describe a sub-function: what it takes in which register, and what the host says to it."""

    number: int
    name: str
    takes: tuple[str, ...]
    answered: str
    source: str


CALLS = {
    call.number: call
    for call in (
        Call(Number.CPUID, "Instruction.CPUID", ("r12", "r13"),
             "carried out where CPUID has raised #VE (`--inputs`), else refused",
             "tdx_emulate_cpuid"),
        Call(Number.HLT, "Instruction.HLT", ("r12",), "the vCPU halts", "tdx_handle_exit"),
        Call(Number.IO, "Instruction.IO", ("r12", "r13", "r14", "r15"),
             "the access is made; wrong widths and directions are refused", "tdx_emulate_io"),
        Call(Number.RDMSR, "Instruction.RDMSR", ("r12",),
             "carried out where RDMSR has raised #VE, else refused",
             "tdx_complete_emulated_msr"),
        Call(Number.WRMSR, "Instruction.WRMSR", ("r12", "r13"), "likewise",
             "tdx_complete_emulated_msr"),
        Call(Number.MMIO, "#VE.RequestMMIO", ("r12", "r13", "r14", "r15"),
             "the access is made; wrong widths and directions and private addresses are refused",
             "tdx_emulate_mmio"),
        Call(Number.GET_TD_VM_CALL_INFO, "GetTdVmCallInfo", ("r12",), "none but the basic calls",
             "tdx_get_td_vm_call_info"),
        Call(Number.MAP_GPA, "MapGPA", ("r12", "r13"),
             "noted; what is empty, not of pages, beyond the width or across the shared bit is"
             " refused", "tdx_map_gpa"),
        Call(Number.GET_QUOTE, "GetQuote", ("r12", "r13"), "unsupported: no attestation",
             "tdx_get_quote"),
        Call(Number.REPORT_FATAL_ERROR, "ReportFatalError",
             ("r12", "r13", "r14", "r15", "rbx", "rdi", "rsi", "r8", "r9", "rdx"),
             "the run ends, with the guest's text", "tdx_report_fatal_error"),
        Call(Number.SETUP_EVENT_NOTIFY_INTERRUPT, "SetupEventNotifyInterrupt", ("r12",),
             "unsupported: nothing to notify of", "tdx_setup_event_notify_interrupt"),
    )
}  # fmt: skip
"""The sub-functions of R11 that KVM knows; it calls all others unsupported."""


def decode(shared_bit: int, given: Mapping[str, int]) -> Request:
    """Return what the registers of TDG.VP.VMCALL ask, those that the host gets to see."""
    r12, r13, r14, r15 = (given[name] for name in ("r12", "r13", "r14", "r15"))
    number = given["r11"]
    if given["r10"] != STANDARD:
        return Other("hypercall of a vendor", given["r10"], (number, r12, r13, r14), known=False)
    match number:
        case Number.MMIO:
            # KVM has both as 32-bit numbers.
            width, direction = r12 & _INT, _DIRECTIONS.get(r13 & _INT)
            value = r15 & _mask(width) if direction == "write" else None
            return Mmio(direction, width, r14 & ~shared_bit, value, bool(r14 & shared_bit))
        case Number.HLT:
            return Halt(bool(r12))
        case Number.IO:
            direction = _DIRECTIONS.get(r13)
            value = r15 & _mask(r12) if direction == "write" else None
            return PortIo(direction, r12, r14 & _INT, value)
        case Number.RDMSR:
            return Msr("read", r12 & _INT, None)
        case Number.WRMSR:
            return Msr("write", r12 & _INT, r13)
        case Number.CPUID:
            return Cpuid(r12 & _INT, r13 & _INT)
        case Number.MAP_GPA:
            return MapGpa(r12 & ~shared_bit, r13, bool(r12 & shared_bit))
        case Number.GET_QUOTE:
            return GetQuote(r12 & ~shared_bit, r13, bool(r12 & shared_bit))
        case Number.REPORT_FATAL_ERROR:
            data = b"".join(given[name].to_bytes(8, "little") for name in _TEXT_REGISTERS)
            return FatalError(r12, printable(data.partition(b"\0")[0].decode(errors="replace")))
        case Number.SETUP_EVENT_NOTIFY_INTERRUPT:
            return EventNotify(r12)
        case Number.GET_TD_VM_CALL_INFO:
            return Other("GetTdVmCallInfo", number, (r12,))
    return Other(f"hypercall {number:#x}", number, (r12, r13, r14, r15), known=False)


def usual(shared_bit: int, request: Request) -> Reply | None:
    """Return what an honest host says; None where the machine itself has to be asked.

    That is so for an access that may be made (the reply is then Give with what was read), for a
    halt (Give once the vCPU goes on), and for FatalError, which ends the run.
    """
    match request:
        case Mmio():
            return None if _may_be(shared_bit, request) else Refuse()
        case PortIo(direction, width):
            return None if direction and width in (1, 2, 4) else Refuse()
        case Halt() | FatalError():
            return None
        case MapGpa(start, size, shared):
            return _convertible(shared_bit, start | (shared_bit if shared else 0), size)
        case GetQuote():
            return Refuse(HostStatus.SUBFUNC_UNSUPPORTED if request.shared else None)
        case EventNotify(vector):
            return Refuse(HostStatus.SUBFUNC_UNSUPPORTED if 32 <= vector <= 255 else None)
        case Msr() | Cpuid():
            return Refuse()
        case Other("GetTdVmCallInfo", _, operands):
            return Give() if operands[0] <= 1 else Refuse()
        case Other("hypercall of a vendor"):
            return Refuse(KVM_ENOSYS)
        case Other():
            return Refuse(HostStatus.SUBFUNC_UNSUPPORTED)


def returned(shared_bit: int, request: Request, said: Reply) -> dict[str, int]:
    """Return the registers in which the host tells its reply, beside RAX."""
    again = {}
    if isinstance(request, MapGpa):
        mark = shared_bit if request.shared else 0
        refused = request.start if not isinstance(said, Retry) else said.physical & ~shared_bit
        again = {"r11": (refused | mark) % _LIMIT}
    match said:
        case Refuse(code):
            return {"r10": HostStatus.INVALID_OPERAND if code is None else code % _LIMIT} | again
        case Retry():
            return {"r10": HostStatus.RETRY} | again
        case Give(value, more):
            return _granted(request, value, more)


def _granted(request: Request, value: int, more: tuple[int, ...]) -> dict[str, int]:
    done = {"r10": int(HostStatus.SUCCESS)}
    match request:
        case Mmio("read", width) | PortIo("read", width):
            return done | {"r11": value & _mask(width)}
        case Msr("read"):
            return done | {"r11": value % _LIMIT}
        case Cpuid():
            # EAX, EBX, ECX, EDX.
            found = (value, *more, 0, 0, 0)[:4]
            return done | {f"r{12 + n}": part & _INT for n, part in enumerate(found)}
        case Other("GetTdVmCallInfo"):
            return done | dict.fromkeys(("r11", "r12", "r13", "r14"), 0)
        case Other("hypercall of a vendor"):
            return {"r10": value % _LIMIT}
    return done


def _may_be(shared_bit: int, request: Mmio) -> bool:
    # The width beyond which KVM would ask its user space for a device is the guest's own.
    last = request.physical + request.width - 1
    return (
        request.direction is not None
        and request.width in WIDTHS
        and request.shared
        and last < shared_bit
    )


def _convertible(shared_bit: int, gpa: int, size: int) -> Reply:
    last = gpa + size - 1
    illegal = size == 0 or last >= 2 * shared_bit or (gpa ^ last) & shared_bit
    if illegal:
        return Refuse()
    return Refuse(HostStatus.ALIGN_ERROR) if (gpa | size) % PAGE_SIZE else Give()


def _mask(width: int) -> int:
    return (1 << 8 * min(width, 8)) - 1
