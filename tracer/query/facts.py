"""What is known of one access, for conditions and breaks: live, or from a trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tracer.access.decision import Pending
from tracer.access.transfer import located
from tracer.confidential.audit import judgement, locate
from tracer.confidential.handler import PROFILES, judge
from tracer.query.condition.vocabulary import Fact
from tracer.trace.record import Intercept, MemoryAccess
from tracer.trace.summary import mnemonic
from tracer.x86.state import GPR

RegisterName = Callable[[str, int, int], str]
"""Name what a region has at an offset and a width, both in bytes; an empty name for nothing."""


def facts_of_pending(
    pending: Pending,
    *,
    register: RegisterName | None = None,
    callers: Callable[[], Sequence[str]] = tuple,
    phase: str | None = None,
) -> AccessFacts:
    """Return what is known of an access that is about to be made, or was just answered.

    ``callers`` is asked once at most for the functions under way, the innermost first.
    """
    return AccessFacts(_Live(pending, register, callers, phase))


def facts_of_access(
    record: Intercept,
    access: MemoryAccess,
    seq: int,
    *,
    register: RegisterName | None = None,
    callers: Callable[[], Sequence[str]] = tuple,
    phase: str | None = None,
    device: str | None = None,
) -> AccessFacts:
    """Return what is known of a recorded device access; ``seq`` is its number in the trace.

    ``device`` is the name of the region's device, by default what stands before a dot.
    """
    return AccessFacts(_Recorded(record, access, seq, register, callers, phase, device))


class AccessFacts(dict[str, Fact]):
    """Hold facts by the names of conditions, each worked out when it is first asked for."""

    __slots__ = ("_callers", "_source")

    def __init__(self, source: _Source) -> None:
        super().__init__()
        self._source = source
        self._callers: tuple[str, ...] | None = None

    def __missing__(self, name: str) -> Fact:
        fact = self[name] = self._source.fact(name)
        return fact

    @property
    def callers(self) -> tuple[str, ...]:
        """Return the functions under way, the innermost first, as far as they are known."""
        if self._callers is None:
            symbol = self["symbol"]
            own = (str(symbol),) if symbol else ()
            self._callers = (*own, *self._source.callers())
        return self._callers

    def oops(self, profile: str) -> bool:
        """Tell whether the handler of a profile, by its name, would not survive the access."""
        return self._source.oops(profile)


class _Source(Protocol):
    @property
    def callers(self) -> Callable[[], Sequence[str]]: ...

    def fact(self, name: str) -> Fact: ...

    def oops(self, profile: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Live:
    pending: Pending
    register: RegisterName | None
    callers: Callable[[], Sequence[str]]
    phase: str | None

    def fact(self, name: str) -> Fact:
        if name.startswith("$"):
            return self._cpu(name[1:])
        return _OF_PENDING[name](self)

    def _cpu(self, name: str) -> int:
        cpu = self.pending.cpu
        match name:
            case "rip":
                return cpu.rip
            case "rflags":
                return cpu.rflags
        return cpu.gpr[GPR.index(name)]

    def oops(self, profile: str) -> bool:
        pending = self.pending
        if pending.insn is None:
            return True
        # The operand may begin in RAM, a page before: a part of it is pending.
        direction = pending.transfer.direction
        parts = [part.linear for part in pending.foretold if part.direction == direction]
        linear = parts[0] if parts else pending.transfer.linear
        verdict = judge(PROFILES[profile], pending.insn, cpl=pending.cpu.cpl, linear=linear)
        return verdict.outcome == "oops"


@dataclass(frozen=True, slots=True)
class _Recorded:
    record: Intercept
    access: MemoryAccess
    seq: int
    register: RegisterName | None
    callers: Callable[[], Sequence[str]]
    phase: str | None
    device: str | None

    def fact(self, name: str) -> Fact:
        if name.startswith("$"):
            return self._cpu(name[1:])
        return _OF_RECORD[name](self)

    def _cpu(self, name: str) -> int | None:
        # An imported trace has no registers.
        return _number(self.record.rip if name == "rip" else self.record.before.get(name))

    def oops(self, profile: str) -> bool:
        return judgement(self.record, PROFILES[profile]).outcome == "oops"


def _number(text: str | None) -> int | None:
    return None if text is None else int(text, 16)


def _register(name: RegisterName | None, region: str, offset: int | None, width: int) -> str:
    return "" if name is None or offset is None else name(region, offset, width)


def _site(symbol: str | None) -> str:
    return (symbol or "").partition(" [")[0]


def _function(symbol: str | None) -> str:
    return locate(symbol)[0].function or ""


def _module(symbol: str | None) -> str:
    return locate(symbol)[0].module or ""


def _device(live: _Live) -> str:
    region = live.pending.transfer.region
    return "unassigned" if region is None else region.device


_OF_PENDING: Mapping[str, Callable[[_Live], Fact]] = {
    "value": lambda live: live.pending.transfer.value,
    "offset": lambda live: located(live.pending.transfer)[1],
    "width": lambda live: live.pending.transfer.width,
    "address": lambda live: live.pending.transfer.physical,
    "linear": lambda live: live.pending.transfer.linear,
    "region": lambda live: located(live.pending.transfer)[0],
    "device": _device,
    "register": lambda live: _register(
        live.register, *located(live.pending.transfer), live.pending.transfer.width
    ),
    "symbol": lambda live: _site(live.pending.symbol),
    "function": lambda live: _function(live.pending.symbol),
    "module": lambda live: _module(live.pending.symbol),
    "direction": lambda live: live.pending.transfer.direction,
    "vcpu": lambda live: live.pending.vcpu,
    "cpl": lambda live: live.pending.cpu.cpl,
    "seq": lambda live: live.pending.seq,
    "time": lambda live: live.pending.time_ns,
    "count": lambda live: None,
    "mnemonic": lambda live: mnemonic(live.pending.insn.text) if live.pending.insn else "",
    "via": lambda live: live.pending.via,
    "phase": lambda live: live.phase or "",
}

_OF_RECORD: Mapping[str, Callable[[_Recorded], Fact]] = {
    "value": lambda told: _number(told.access.value),
    "offset": lambda told: _number(told.access.offset),
    "width": lambda told: told.access.width,
    "address": lambda told: int(told.access.physical, 16),
    "linear": lambda told: int(told.access.linear, 16),
    "region": lambda told: told.access.region or "",
    "device": lambda told: told.device or (told.access.region or "").partition(".")[0],
    "register": lambda told: _register(
        told.register, told.access.region or "", _number(told.access.offset), told.access.width
    ),
    "symbol": lambda told: _site(told.record.symbol),
    "function": lambda told: _function(told.record.symbol),
    "module": lambda told: _module(told.record.symbol),
    "direction": lambda told: told.access.direction,
    "vcpu": lambda told: told.record.vcpu,
    "cpl": lambda told: told.record.cpl,
    "seq": lambda told: told.seq,
    "time": lambda told: told.record.time_ns,
    "count": lambda told: None,
    "mnemonic": lambda told: mnemonic(told.record.text),
    "via": lambda told: told.record.via,
    "phase": lambda told: told.phase or "",
}
