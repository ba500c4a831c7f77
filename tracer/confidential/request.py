"""What a confidential guest asks of its host, and what the host says: values that both modes share.

A TDX guest asks by TDG.VP.VMCALL, an SEV-ES guest by VMGEXIT; a device access, a halt, a page that
is to be shared are the same question in both. The numbers that carry them are in
:mod:`tracer.confidential.tdx_module` and :mod:`tracer.confidential.sev_host`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tracer.x86.bus import Direction


@dataclass(frozen=True, slots=True)
class Mmio:
    """Ask for a device access: ``width`` in bytes, ``physical`` without the shared bit or C-bit.

    ``width`` is as the guest says it, whether or not that can be. ``direction`` is None for a
    number that is neither; ``value`` is what a write writes, no wider than that. ``shared`` tells
    that the address was marked as shared with the host, which a host insists on.
    """

    direction: Direction | None
    width: int
    physical: int
    value: int | None
    shared: bool = True


@dataclass(frozen=True, slots=True)
class Halt:
    """Ask to sleep until an interrupt; ``interrupts_blocked`` is what RFLAGS.IF being 0 means."""

    interrupts_blocked: bool


@dataclass(frozen=True, slots=True)
class MapGpa:
    """Ask for guest-physical memory to be made shared or private; ``size`` is in bytes."""

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
    """Ask for an access of an I/O port; ``value`` is what a write writes.

    ``count`` is above 1, or unknown (0), for string instructions.
    """

    direction: Direction | None
    width: int
    port: int
    value: int | None
    count: int = 1


@dataclass(frozen=True, slots=True)
class Msr:
    """Ask for RDMSR or WRMSR."""

    direction: Direction
    number: int
    value: int | None


@dataclass(frozen=True, slots=True)
class Cpuid:
    """Ask for a leaf of CPUID."""

    leaf: int
    subleaf: int


@dataclass(frozen=True, slots=True)
class GetQuote:
    """Ask for a quote of the TD report at ``physical``, without the shared bit."""

    physical: int
    size: int


@dataclass(frozen=True, slots=True)
class EventNotify:
    """Ask for the vector by which the host tells that something is done."""

    vector: int


@dataclass(frozen=True, slots=True)
class Other:
    """Ask what has no value of its own here; ``name`` is the specification's, or its number."""

    name: str
    number: int
    known: bool = True


Request = Mmio | Halt | MapGpa | FatalError | PortIo | Msr | Cpuid | GetQuote | EventNotify | Other


@dataclass(frozen=True, slots=True)
class Give:
    """Let the host grant it; ``value`` is what a read reads, 0 where nothing is read."""

    value: int = 0


@dataclass(frozen=True, slots=True)
class Refuse:
    """Let the host refuse: an invalid operand, as KVM says it."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Let the host have done it up to ``physical`` only: the guest shall ask again from there."""

    physical: int


Reply = Give | Refuse | Retry


def describe(request: Request) -> str:
    """Return a request in words for people."""
    return str(request)
