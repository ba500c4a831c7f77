"""The TDX module as a pure state machine: what TDCALL answers, and when a fault becomes a #VE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tracer.confidential.request import Reply, Request


@dataclass(frozen=True, slots=True)
class VeInfo:
    """Hold what TDG.VP.VEINFO.GET tells: ``gla`` linear, ``gpa`` physical with the shared bit.

    ``length`` of the instruction is 0 for an EPT violation.
    """

    reason: int
    qualification: int
    gla: int
    gpa: int
    length: int = 0


@dataclass(frozen=True, slots=True)
class TdxState:
    """Hold what the module remembers of a guest.

    ``pending`` has a vCPU's #VE until the guest has fetched it. ``shared`` has the ranges, first
    and behind the last address, that MapGPA made shared, in order and apart. ``fields`` has the
    metadata fields that the guest wrote.
    """

    pending: tuple[VeInfo | None, ...] = (None,)
    gpaw: int = 48
    shared: tuple[tuple[int, int], ...] = ()
    fields: tuple[tuple[int, int], ...] = ()

    @property
    def shared_bit(self) -> int:
        """Return the bit of a guest-physical address that marks it as shared with the host."""
        return 1 << (self.gpaw - 1)

    def is_shared(self, physical: int) -> bool:
        """Return whether MapGPA has made an address (without the shared bit) shared."""
        return any(start <= physical < end for start, end in self.shared)


@dataclass(frozen=True, slots=True)
class Tdcall:
    """Tell one TDCALL: the leaf by number and name, the registers it takes and gives.

    ``request`` is what TDG.VP.VMCALL asks the host. ``returned`` is empty until the host has
    replied. ``note`` says in words what is odd, nothing mostly.
    """

    vcpu: int
    leaf: int
    name: str
    given: Mapping[str, int]
    returned: Mapping[str, int]
    request: Request | None = None
    note: str = ""

    @property
    def waits(self) -> bool:
        """Return whether only a host's reply, by :func:`reply`, can answer it."""
        return self.request is not None and not self.returned


@dataclass(frozen=True, slots=True)
class Answered:
    """Give the state afterwards, the registers to write back, and what was asked."""

    state: TdxState
    changes: Mapping[str, int]
    event: Tdcall


def answer(state: TdxState, vcpu: int, registers: Mapping[str, int]) -> Answered:
    """Answer a TDCALL; ``registers`` has all general-purpose ones by name, as it found them.

    What only the host can answer has no changes, and an event that ``waits``.
    """
    raise NotImplementedError


def usual(state: TdxState, request: Request) -> Reply | None:
    """Return what an honest host says; None where the machine itself has to be asked.

    That is so for a device access that may be made (the reply is then Give with what was read),
    for a halt (Give once the vCPU goes on), and for FatalError, which ends the run.
    """
    raise NotImplementedError


def reply(state: TdxState, event: Tdcall, said: Reply) -> Answered:
    """Turn a host's reply to an event that waits into registers, and note what it changed."""
    raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Strip:
    """Let the page be reached: clear the shared bit in its leaf and run the instruction again.

    ``converted`` tells whether MapGPA ever made it shared: else, on hardware, private and shared
    contents are two, and the guest has mixed them up.
    """

    physical: int
    converted: bool


@dataclass(frozen=True, slots=True)
class Inject:
    """Enter the guest's #VE handler; ``info`` is what TDG.VP.VEINFO.GET will tell."""

    info: VeInfo


@dataclass(frozen=True, slots=True)
class DoubleFault:
    """Tell of a #VE before the guest has fetched the last one: a #DF on hardware; the run ends."""

    pending: VeInfo
    info: VeInfo


@dataclass(frozen=True, slots=True)
class PrivateDevice:
    """Tell of a device reached through a private mapping: on hardware the TD is ended."""

    physical: int


Outcome = Strip | Inject | DoubleFault | PrivateDevice


def fault(
    state: TdxState, vcpu: int, *, gla: int, gpa: int, write: bool, is_ram: bool
) -> tuple[TdxState, Outcome]:
    """Decide about a page fault on a leaf that has the shared bit, or leads to a device.

    ``gla`` is the linear address, ``gpa`` the physical one with the shared bit as the leaf has it.
    """
    raise NotImplementedError
