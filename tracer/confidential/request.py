"""Requests of a confidential guest to its host, and the host's replies: values of both modes.

A TDX guest asks by TDG.VP.VMCALL, an SEV-ES guest by VMGEXIT; a device access, a halt, a page that
is to be shared are the same question in both. How registers and pages carry them is in
:mod:`tracer.confidential.tdx_host` and :mod:`tracer.confidential.sev_host`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tracer.text.amount import counted
from tracer.x86.bus import Direction


@dataclass(frozen=True, slots=True)
class Mmio:
    """Ask for a device access: ``width`` in bytes, ``physical`` without the shared bit or C-bit.

    Width and direction are as the guest says them, whether or not that can be; the direction is
    None for a number that means none. ``value`` is what a write writes, no wider than the width.
    ``shared`` tells that the address was marked as shared with the host.
    """

    direction: Direction | None
    width: int
    physical: int
    value: int | None
    shared: bool = True


@dataclass(frozen=True, slots=True)
class Halt:
    """Ask to sleep until an interrupt; ``blocked``: although it would not be taken (IF is 0)."""

    blocked: bool


@dataclass(frozen=True, slots=True)
class MapGpa:
    """Ask for guest-physical memory to be made shared or private; ``size`` is in bytes.

    ``start`` is physical, without the shared bit.
    """

    start: int
    size: int
    shared: bool


@dataclass(frozen=True, slots=True)
class FatalError:
    """Ask to be ended; ``code`` is the guest's reason in its own numbers, ``text`` in words."""

    code: int
    text: str


@dataclass(frozen=True, slots=True)
class PortIo:
    """Ask for an access of an I/O port, ``width`` in bytes; ``value`` is what a write writes.

    ``string`` tells that it is one of INS or OUTS, whose data are in memory.
    """

    direction: Direction | None
    width: int
    port: int
    value: int | None
    string: bool = False


@dataclass(frozen=True, slots=True)
class Msr:
    """Ask for RDMSR or WRMSR; ``value`` is what a write writes."""

    direction: Direction
    number: int
    value: int | None


@dataclass(frozen=True, slots=True)
class Cpuid:
    """Ask for a leaf of CPUID.

    ``register`` is the only one asked for, by the number that the MSR protocol gives it: EAX, EBX,
    ECX, EDX; None for all.
    """

    leaf: int
    subleaf: int
    register: int | None = None


@dataclass(frozen=True, slots=True)
class GetQuote:
    """Ask for a quote of a report at ``physical``, without the shared bit; ``size`` in bytes."""

    physical: int
    size: int
    shared: bool = True


@dataclass(frozen=True, slots=True)
class EventNotify:
    """Ask for the vector by which the host is to tell that something is done."""

    vector: int


@dataclass(frozen=True, slots=True)
class Other:
    """Ask what has no value of its own here.

    ``name`` is the specification's, ``number`` the sub-function or exit code, ``operands`` what
    comes with it, as it stands in registers or fields. ``known`` tells that there is such a call.
    """

    name: str
    number: int
    operands: tuple[int, ...] = ()
    known: bool = True


Request = Mmio | Halt | MapGpa | FatalError | PortIo | Msr | Cpuid | GetQuote | EventNotify | Other


@dataclass(frozen=True, slots=True)
class Give:
    """Let the host grant it: ``value`` is what a read reads, EAX of CPUID, 0 where nothing is read.

    ``more`` has EBX, ECX and EDX of CPUID.
    """

    value: int = 0
    more: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Refuse:
    """Let the host refuse it, with a ``code`` of its own interface or, None, the usual one."""

    code: int | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """Let the host have done it up to ``physical``: the guest is to ask again from there."""

    physical: int


Reply = Give | Refuse | Retry

KVM_ENOSYS = (1 << 64) - 1000
"""KVM answers this to a hypercall of its own that it does not know (uapi/linux/kvm_para.h)."""


def describe(request: Request) -> str:
    """Return a request in words for people, such as ``MapGPA 0x1000000-0x1ffffff to shared``."""
    match request:
        case Mmio():
            mark = "" if request.shared else ", not shared"
            return (
                f"MMIO {_access(request.direction, request.width, request.value)}".format(
                    f"{request.physical:#x}"
                )
                + mark
            )
        case Halt(blocked):
            return "HLT, interrupts blocked" if blocked else "HLT"
        case MapGpa(start, size, shared):
            to = "shared" if shared else "private"
            return (
                f"MapGPA {start:#x}-{start + size - 1:#x} to {to}"
                if size
                else (f"MapGPA {start:#x}, 0 bytes, to {to}")
            )
        case FatalError(code, text):
            return (
                f"end of the guest, code {code:#x}: {text}"
                if text
                else (f"end of the guest, code {code:#x}")
            )
        case PortIo():
            kind = "string I/O" if request.string else "I/O"
            return f"{kind} {_access(request.direction, request.width, request.value)}".format(
                f"port {request.port:#x}"
            )
        case Msr("read", number):
            return f"RDMSR {number:#x}"
        case Msr(_, number, value):
            return f"WRMSR {number:#x}: {value or 0:#x}"
        case Cpuid(leaf, subleaf):
            return f"CPUID {leaf:#x}, {subleaf:#x}"
        case GetQuote(physical, size):
            return f"GetQuote {physical:#x}, {counted(size, 'byte')}"
        case EventNotify(vector):
            return f"SetupEventNotifyInterrupt {vector:#x}"
        case Other(name, number, operands):
            shown = " ".join(f"{value:#x}" for value in operands)
            return f"{name} {shown}".rstrip()


def _access(direction: Direction | None, width: int, value: int | None) -> str:
    told = "" if value is None else f": {value:#x}"
    return f"{direction or 'in no direction'} {{}}, {counted(width, 'byte')}{told}"
