"""An access that is about to be made, and what may become of it.

The interceptor asks about each access to a traced device before anything has reached the device,
where there is anybody to ask. Else all of them are carried out as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tracer.access.space import AddressSpace
from tracer.access.transfer import Transfer
from tracer.compiled.flagging import ALL_INPUTS, NO_INPUTS
from tracer.confidential.hypercall import STANDARD
from tracer.confidential.request import Request
from tracer.trace.member import Via
from tracer.x86.instruction import Instruction
from tracer.x86.state import CpuState


@dataclass(frozen=True, slots=True)
class Pending:
    """Hold one access that is about to be made, and the instruction that makes it.

    ``seq`` is the number that the access gets in the trace. ``cpu`` is the state before the
    instruction, ``transfer`` the access; the value of a read is None until the device has
    answered. ``done`` are the transfers that the instruction has made before, ``foretold`` all
    that it may make. ``via`` is ``stepped`` where the vCPU itself has to carry the instruction
    out, ``why`` says why; ``insn`` is None for bytes that cannot be decoded, ``code`` are those at
    RIP. ``asked`` are the registers by which a confidential guest asks its host for it, once it
    does. An input's ``via`` is ``monitor``; the registers of CPUID are its transfers. ``complete``
    tells that ``cpu`` has all registers that the instruction sees.
    """

    seq: int
    time_ns: int
    vcpu: int
    symbol: str | None
    code: bytes
    insn: Instruction | None
    cpu: CpuState
    space: AddressSpace
    transfer: Transfer
    done: tuple[Transfer, ...] = ()
    foretold: tuple[Transfer, ...] = ()
    via: Via = "emulated"
    why: str | None = None
    asked: Mapping[str, int] | None = None
    complete: bool = True
    cause: str | None = None

    @property
    def is_input(self) -> bool:
        """Tell whether it is no access to memory, but to a port, say."""
        return self.transfer.space != "memory"

    @property
    def fixed(self) -> bool:
        """Tell whether its value is nobody's to change, and known before, if at all."""
        return self.via == "stepped" or self.transfer.space in ("irq", "msi")

    @property
    def continues(self) -> bool:
        """Tell whether it is of a CPUID of which another register was asked about before."""
        return self.transfer.space == "cpuid" and bool(self.done)


@dataclass(frozen=True, slots=True)
class Called:
    """Hold one call of a confidential guest that is about to be answered.

    ``leaf`` and ``name`` are those of TDCALL, ``given`` the registers that it takes; VMGEXIT has no
    leaf, and the fields of a GHCB. ``request`` is
    what the host is asked, None where the module alone is. ``cpu`` is the state before the call;
    ``access`` the one that it asks for as vetrace decodes it, where that is known. ``usual`` are
    the registers of its answer if nobody decides otherwise, None where a device gives that.
    """

    time_ns: int
    vcpu: int
    symbol: str | None
    leaf: int | None
    name: str
    given: Mapping[str, int]
    request: Request | None
    cpu: CpuState
    space: AddressSpace
    access: Transfer | None = None
    usual: Mapping[str, int] | None = None

    @property
    def hypercall(self) -> int | None:
        """Return the number of the sub-function that the host is asked for; None for a vendor's."""
        standard = self.request is not None and self.given.get("r10") == STANDARD
        return self.given["r11"] if standard else None


@dataclass(frozen=True, slots=True)
class Go:
    """Carry the access out as it is."""


@dataclass(frozen=True, slots=True)
class Give:
    """Carry it out, with another value: for the guest when it reads, for the device else.

    ``by`` says who decided, for the trace; it is empty for a person at the prompt, whose commands
    are in the trace. So in all rulings. ``rest`` are the values of the registers that CPUID gives
    behind this one.
    """

    value: int
    by: str = ""
    rest: tuple[int, ...] = ()


LONGEST_DELAY = 60_000_000_000
"""The longest time that an access may be late, in nanoseconds: a minute of the guest's."""


@dataclass(frozen=True, slots=True)
class Delay:
    """Carry it out, and let the guest's time pass before the guest has the answer."""

    time_ns: int
    by: str = ""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell the guest that the access cannot be made, as the host of a confidential guest can."""

    by: str = ""


@dataclass(frozen=True, slots=True)
class Postpone:
    """Tell the guest to ask again, likewise; for MapGPA from ``physical`` on, None for its start.

    What lies before is done then.
    """

    by: str = ""
    physical: int | None = None


Ruling = Give | Delay | Refuse | Postpone
"""A rule, or a host in Python, decides this of an access, which else is carried out as it is."""


@dataclass(frozen=True, slots=True)
class Skip:
    """Let the instruction complete without the device; what it reads is ``value``."""

    value: int = 0


@dataclass(frozen=True, slots=True)
class Inject:
    """Raise an exception in the instruction's place: ``linear`` is CR2, for #PF alone."""

    vector: int
    error_code: int | None = None
    linear: int | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """Start the instruction over from another state."""

    cpu: CpuState


Decision = Go | Ruling | Skip | Inject | Retry
"""A decision about an access."""


MOST_ACCESSES = 8
"""Accesses that one instruction without REP makes at most, in one iteration."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Say where accesses come from: an instruction of the kernel, and the name of its place."""

    insn: Instruction
    symbol: str | None


class Interest(Protocol):
    """Tell which instructions can make an access that somebody has to be asked about.

    Two that are equal tell the same.
    """

    def may_come_from(self, origin: Origin) -> bool:
        """Tell whether an access of this instruction can be one."""
        ...


@dataclass(frozen=True, slots=True)
class Leeway:
    """Say which accesses a guest may make without anybody being asked what becomes of them.

    Those at ``places``, physical addresses, are not among them, None for any, nor those that come
    from where any of the ``interests`` says. The others are as many as ``records`` hold, None for
    any number; one record is at most :data:`MOST_ACCESSES`. None of them is at the guest's time
    ``until_ns`` or later, if that is told. ``inputs`` are not among them either, a set of
    :mod:`tracer.compiled.flagging`.
    """

    places: Sequence[range] | None = ()
    records: int | None = None
    until_ns: int | None = None
    interests: tuple[Interest, ...] = ()
    inputs: int = field(default=NO_INPUTS, repr=False)

    def within(self, other: Leeway) -> Leeway:
        """Return what both leave."""
        if self.places is None or other.places is None:
            return Leeway(None, inputs=self.inputs | other.inputs)
        return Leeway(
            (*self.places, *other.places),
            _least(self.records, other.records),
            _least(self.until_ns, other.until_ns),
            (*self.interests, *(one for one in other.interests if one not in self.interests)),
            self.inputs | other.inputs,
        )


def _least(first: int | None, second: int | None) -> int | None:
    told = [number for number in (first, second) if number is not None]
    return min(told, default=None)


NO_LEEWAY = Leeway(None, inputs=ALL_INPUTS)
