"""The facts of a call of a confidential guest while the guest waits at it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tracer.access.decision import Called
from tracer.confidential.request import MapGpa, Mmio
from tracer.errors import UsageError
from tracer.query.condition import Condition
from tracer.query.condition.vocabulary import SITE, Between, Fact
from tracer.query.course import Marks
from tracer.query.waiting import OF_ALL, WaitingFacts

_ADDRESS = "address"


class CalledFacts(WaitingFacts):
    """Know a call that is about to be answered."""

    def __init__(
        self,
        called: Called,
        *,
        callers: Callable[[], Sequence[str]] = tuple,
        phase: str | None = None,
        marks: Marks | None = None,
    ) -> None:
        super().__init__(called, callers=callers, phase=phase, marks=marks)
        self.called = called

    def _found(self, name: str) -> Fact:
        return self.address if name == _ADDRESS else super()._found(name)

    @property
    def address(self) -> int | None:
        """Return the physical address that it is about, None where it is about none."""
        match self.called.request:
            case Mmio(physical=physical) | MapGpa(start=physical):
                return physical
        return None


def check_of_call(condition: Condition | None) -> None:
    """Raise UsageError for a condition on what a call does not have."""
    names = () if condition is None else sorted(condition.names)
    facts = (_ADDRESS, *(name for name in OF_ALL if name != SITE))
    for name in names:
        has = name in (SITE, *facts) or name.startswith("$") or isinstance(name, Between)
        if not has:
            known = ", ".join((*facts, "registers such as $r12"))
            raise UsageError(f"{name} is an access's: a call has {known}")
