"""The facts of a call of a confidential guest while the guest waits at it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tracer.access.decision import Called
from tracer.confidential.request import MapGpa, Mmio
from tracer.errors import UsageError
from tracer.query.condition import Condition
from tracer.query.condition.vocabulary import SITE, Between, Fact
from tracer.query.course import Marks
from tracer.query.facts import function, module, site, with_functions
from tracer.x86.state import GPR


class CalledFacts(dict[str, Fact]):
    """Know a call that is about to be answered.

    Each fact is worked out when it is first asked for. ``callers`` tells the functions under way,
    the innermost first, without that of the call.
    """

    def __init__(
        self,
        called: Called,
        *,
        callers: Callable[[], Sequence[str]] = tuple,
        phase: str | None = None,
        marks: Marks | None = None,
    ) -> None:
        super().__init__()
        self.called = called
        self.phase = phase
        self.marks = marks or Marks(kept=True)
        self._callers = callers

    def __missing__(self, name: str) -> Fact:
        find = _OF_CALL.get(name)
        fact = self[name] = find(self) if find is not None else self._other(name)
        return fact

    def _other(self, name: str) -> Fact:
        cpu = self.called.cpu
        match name:
            case "$rip":
                return cpu.rip
            case "$rflags":
                return cpu.rflags
        if name.startswith("$"):
            return cpu.gpr[GPR.index(name[1:])]
        return self.marks.between(name)

    @property
    def callers(self) -> tuple[str, ...]:
        """Return the functions under way, the innermost first, as far as they are known."""
        return with_functions((self.called.symbol or "", *self._callers()))

    @property
    def address(self) -> int | None:
        """Return the physical address that it is about, None where it is about none."""
        match self.called.request:
            case Mmio(physical=physical) | MapGpa(start=physical):
                return physical
        return None


_OF_CALL: Mapping[str, Callable[[CalledFacts], Fact]] = {
    "address": lambda live: live.address,
    SITE: lambda live: live.called.symbol or "",
    "symbol": lambda live: site(live.called.symbol),
    "function": lambda live: function(live.called.symbol),
    "module": lambda live: module(live.called.symbol),
    "callers": lambda live: live.callers,
    "vcpu": lambda live: live.called.vcpu,
    "cpl": lambda live: live.called.cpu.cpl,
    "time": lambda live: live.called.time_ns,
    "count": lambda live: None,
    "phase": lambda live: live.phase or "",
    "mark": lambda live: live.marks.last,
}


def check_of_call(condition: Condition | None) -> None:
    """Raise UsageError for a condition on what a call does not have."""
    names = () if condition is None else sorted(condition.names)
    known = (*(name for name in _OF_CALL if name != SITE), "registers such as $r12")
    for name in names:
        has = name in _OF_CALL or name.startswith("$") or isinstance(name, Between)
        if not has:
            raise UsageError(f"{name} is an access's: a call has {', '.join(known)}")
