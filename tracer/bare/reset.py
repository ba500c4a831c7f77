"""A guest that is traced from its CPU's reset on: firmware, boot loader, and whatever they start.

Nothing of it has to be known. Where it comes to run a system that is, it is known from there on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from tracer.access.space import AddressSpace
from tracer.access.stack import Stack
from tracer.access.symbols import table_of
from tracer.bare.image import Image
from tracer.bare.system import Bare, Callers
from tracer.compiled.diary import Errand
from tracer.compiled.stack_copy import StackCopy
from tracer.errors import GuestError
from tracer.intercept.ground import Ground
from tracer.intercept.journal import Journal
from tracer.intercept.names import Names
from tracer.intercept.system import Callers as AnyCallers
from tracer.intercept.system import Learnt
from tracer.intercept.trap import Breakpoint
from tracer.intercept.view import GuestView
from tracer.trace.record import Mark, StackRecord
from tracer.x86.paging import PhysicalMemory
from tracer.x86.state import CpuState

_NOTHING = Image((), table_of(()))

Publish = Callable[[Mark | StackRecord], None]


class Coming(Protocol):
    """Know the system that a guest comes to run, as soon as it does.

    These are members of a :class:`tracer.intercept.system.System`, of which nothing is asked before
    :meth:`expect` has called ``learn`` but the ``names``, which are few until then.
    """

    @property
    def names(self) -> Names:
        """Return the names of its code."""
        ...

    @property
    def telling(self) -> Sequence[range]:
        """Return the linear addresses of the code that writes to the block."""
        ...

    async def expect(
        self, view: GuestView, journal: Journal, learn: Callable[[Learnt], None], *, tells: bool
    ) -> Sequence[Breakpoint]:
        """Set traps at which it shows."""
        ...

    def callers(self, publish: Publish, *, stacks: bool) -> AnyCallers:
        """Return what follows who makes accesses."""
        ...

    async def remove(self, space: AddressSpace) -> None:
        """Leave its code as it would be without a tracer."""
        ...


class LaterCallers:
    """Tell nothing of who made an access until that can be ``known``."""

    def __init__(self) -> None:
        self.known: AnyCallers = Callers()

    @property
    def state(self) -> int:
        """Return the linear address of what tells how far the boot has got; 0 for nothing."""
        return self.known.state

    @property
    def stack_end(self) -> int:
        """Return the linear address of a page at which a stack ends though memory goes on, or 0."""
        return self.known.stack_end

    @property
    def started(self) -> bool:
        """Tell whether the guest has come to its last phase."""
        return self.known.started

    def note(
        self,
        cpu: CpuState,
        space: AddressSpace,
        time_ns: int,
        copy: StackCopy | None = None,
        before: Callable[[], None] | None = None,
    ) -> int | None:
        """Take the state in which an access was made; return the number of its stack, if any."""
        return self.known.note(cpu, space, time_ns, copy, before)

    def note_errand(self, errand: Errand | None, space: AddressSpace, time_ns: int) -> None:
        """Take the errand on which an access was made a moment ago, None for beside all."""
        self.known.note_errand(errand, space, time_ns)

    def unwind(self, cpu: CpuState, space: AddressSpace) -> Stack:
        """Return the functions under way in this state, outermost last."""
        return self.known.unwind(cpu, space)

    def remark(self, space: AddressSpace) -> str | None:
        """Say nothing yet: it is said once they are known."""
        return None


class FromReset(Bare):
    """Know nothing but that a guest has not begun: a :class:`tracer.intercept.system.System`.

    ``hidden`` are the physical addresses of RAM that it is not told of, ``coming`` is the system
    that it may come to run.
    """

    stack_in_device = False

    def __init__(self, hidden: range, release: str, sha256: str, coming: Coming) -> None:
        super().__init__(_NOTHING, release, sha256)
        self.names = coming.names
        self.hidden = hidden
        self._coming = coming
        self._later: list[tuple[LaterCallers, Publish, bool]] = []

    @property
    def title(self) -> str:
        """Return what it is, for people."""
        return f"{self.release} (from reset)"

    async def reach_entry(self, memory: PhysicalMemory) -> None:
        """Stay where the machine begins."""

    async def watch(
        self, ground: Ground, space: AddressSpace, *, late: bool
    ) -> Sequence[Breakpoint]:
        """Refuse poisoned entries: there are no page tables yet."""
        raise GuestError("a guest has no page tables at its reset: give --trap nested")

    async def expect(
        self, view: GuestView, journal: Journal, learn: Callable[[Learnt], None], *, tells: bool
    ) -> Sequence[Breakpoint]:
        """Set traps at which the system shows that it comes to run."""

        def know(known: Learnt) -> None:
            self.current, self.telling = known.current, self._coming.telling
            for later, publish, stacks in self._later:
                later.known = self._coming.callers(publish, stacks=stacks)
            learn(known)
            for later, _, stacks in self._later:
                remark = later.known.remark(view.space(*known.tables)) if stacks else None
                if remark is not None:
                    journal.remark(remark)

        return await self._coming.expect(view, journal, know, tells=tells)

    def callers(self, publish: Publish, *, stacks: bool) -> LaterCallers:
        """Return what knows callers once the system does."""
        later = LaterCallers()
        self._later.append((later, publish, stacks))
        return later

    async def remove(self, space: AddressSpace) -> None:
        """Leave the system's code as it was."""
        await self._coming.remove(space)
