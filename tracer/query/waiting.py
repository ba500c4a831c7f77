"""The facts that all have of which a guest waits at one: an access, a call of its host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from tracer.query.condition.vocabulary import SITE, Fact
from tracer.query.course import Marks
from tracer.query.facts import function, module, site, with_functions
from tracer.x86.state import GPR, CpuState


class Standing(Protocol):
    """Say where and when a guest waits, on which vCPU, and with what registers."""

    @property
    def time_ns(self) -> int: ...
    @property
    def vcpu(self) -> int: ...
    @property
    def symbol(self) -> str | None: ...
    @property
    def cpu(self) -> CpuState: ...


class WaitingFacts(dict[str, Fact]):
    """Know what a guest waits at.

    Each fact is worked out when it is first asked for. ``callers`` tells the functions under way,
    the innermost first, without that of the guest's place.
    """

    def __init__(
        self,
        standing: Standing,
        *,
        callers: Callable[[], Sequence[str]] = tuple,
        phase: str | None = None,
        marks: Marks | None = None,
    ) -> None:
        super().__init__()
        self.standing = standing
        self.phase = phase
        self.marks = marks or Marks(kept=True)
        self._callers = callers

    def __missing__(self, name: str) -> Fact:
        fact = self[name] = self._found(name)
        return fact

    def _found(self, name: str) -> Fact:
        find, cpu = OF_ALL.get(name), self.standing.cpu
        if find is not None:
            return find(self)
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
        return with_functions((self.standing.symbol or "", *self._callers()))


OF_ALL: Mapping[str, Callable[[WaitingFacts], Fact]] = {
    SITE: lambda live: live.standing.symbol or "",
    "symbol": lambda live: site(live.standing.symbol),
    "function": lambda live: function(live.standing.symbol),
    "module": lambda live: module(live.standing.symbol),
    "callers": lambda live: live.callers,
    "vcpu": lambda live: live.standing.vcpu,
    "cpl": lambda live: live.standing.cpu.cpl,
    "time": lambda live: live.standing.time_ns,
    "count": lambda live: None,
    "phase": lambda live: live.phase or "",
    "mark": lambda live: live.marks.last,
}
"""Each fact by its name, but for registers and the marks that a condition names."""
