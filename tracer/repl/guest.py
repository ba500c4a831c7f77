"""The guest as plain objects, for a Python console and for a person's own commands.

Every call waits until it is done, and raises :exc:`tracer.errors.TracerError` as the command of the
prompt would. The calls are for a thread beside the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from tracer.access.decision import Pending
from tracer.access.region import Region
from tracer.access.transfer import Transfer
from tracer.errors import UsageError
from tracer.host.typed import typed
from tracer.query.pending import event_of
from tracer.repl.context import Context
from tracer.repl.failures import Failures
from tracer.repl.feed import Seen
from tracer.repl.parser import statements
from tracer.repl.thread import ask_loop
from tracer.trace.flat import Access, flat
from tracer.trace.summary import summary_object

_T = TypeVar("_T")


class Guest:
    """Drive the guest: ``guest.step()``, ``guest.peek("nvme.CSTS")``, ``guest.run("plan")``."""

    def __init__(
        self,
        context: Context,
        loop: asyncio.AbstractEventLoop,
        failures: Failures | None = None,
    ) -> None:
        self._context = context
        self._loop = loop
        self._failures = failures or Failures()
        self.registers = Registers(self)
        self.regions = Regions(self)
        self.breaks = Breaks(self)

    def __repr__(self) -> str:
        return f"<guest, {self.state} at {self.time:.6f} s>"

    @property
    def state(self) -> str:
        """Return ``stopped``, ``running``, ``detached`` or ``ended``."""
        return self._context.run.state

    @property
    def time(self) -> float:
        """Return the guest's time in seconds, as of the last stop that told it."""
        return self._context.run.time_ns / 1e9

    @property
    def pending(self) -> Pending | None:
        """Return the access that waits, None where none does."""
        halt = self._context.run.halt
        return None if halt is None else halt.pending

    @property
    def access(self) -> Transfer | None:
        """Return direction, physical address, width and value of the access that waits."""
        return None if self.pending is None else self.pending.transfer

    @property
    def waiting(self) -> Access | None:
        """Return the access that waits as a flat value; a read has none until it is answered."""
        if self.pending is None:
            return None
        context, named = self._context, self._context.named(self.pending)
        return flat(event_of(self.pending, named, context.phase), context.run.stacks)

    @property
    def outcome(self) -> str | None:
        """Return how the guest ended, ``poweroff`` if well; None as long as it has not."""
        return self._context.run.outcome

    @property
    def summary(self) -> dict[str, Any]:
        """Return what has been counted so far, as `vetrace stats --json` has it."""
        return summary_object(self._context.summary)

    @property
    def recent(self) -> list[Seen]:
        """Return the last accesses that were made, oldest first."""
        return list(self._context.recent)

    @typed
    def run(self, line: str) -> object:
        """Carry out commands as if typed; return the value of the last, as ``--json`` has it."""
        return self._wait(self._run(line))

    async def _run(self, line: str) -> object:
        context, value = self._context, None
        waits, context.waits = context.waits, True
        scripted, context.scripted = context.scripted, True
        interrupts = context.interrupts
        try:
            for statement in statements(line, context.commands.takes_line):
                if context.interrupts != interrupts:
                    raise UsageError(f"interrupted before {statement}")
                item = context.commands.find(statement.name)
                item.check(statement, context.recording)
                if item.name == "py":
                    raise UsageError("py cannot be called from Python")
                value = (await item.action(context, statement)).value
        finally:
            context.waits, context.scripted = waits, scripted
        return value

    def resume(self) -> object:
        """Let the guest go on to its next stop or its end; return where it stands then."""
        return self.run("continue")

    @typed
    def step(self, count: int = 1) -> object:
        """Go on to before the next access, or the ``count``-th; return where it stands then."""
        return self.run(f"step {count}")

    @typed
    def until(self, target: str) -> object:
        """Go on to a time (``1.2s``, ``+50ms``) or a function; return where it stands then."""
        return self.run(f"until {target}")

    @typed
    def at(self, text: str) -> Iterator[Access]:
        """Let the guest go on, and yield each access that waits, of those that `break` would take.

        What is done to it before the next turn, such as :meth:`give` and :meth:`skip`, is what
        becomes of it. The iteration ends with the guest, and raises what that ended with.
        """
        number = self.breaks.add(text)
        try:
            while self.state != "ended":
                self.resume()
                if self.waiting is not None:
                    yield self.waiting
        finally:
            # A guest that is gone has no breaks, either.
            with contextlib.suppress(UsageError):
                self.breaks.delete(number)

    def finish(self) -> None:
        """Let the guest go on to its end, past every break; raise what it ended with, unless well.

        ``outcome`` and ``summary`` tell of it then.
        """
        self.breaks.delete()
        while self.state == "stopped":
            self.resume()
        self._wait(self._context.run.wait())  # of a guest that is detached

    @typed
    def subscribe(self, function: Callable[[Access], object], text: str = "") -> None:
        """Have a function called with each access that is made, or those that `filter` would show.

        What serves the guest calls it, so it cannot ask the guest. Where it fails it is called no
        more, and the call of the guest that waits raises its error.
        """
        rule = self._wait(self._context.rule(text)) if text else None

        def take(seen: Seen) -> None:
            if rule is None or rule.fits(seen):
                function(flat(seen, self._context.run.stacks))

        listeners = self._context.listeners
        listen = self._failures.guarded(take, lambda: listeners.remove(listen))
        listeners.append(listen)

    @typed
    def peek(self, place: str, width: int | None = None) -> int:
        """Read a device; ``width`` is in bytes, by default the register's own."""
        told = self.run(f"peek{f'/{width}' if width else ''} {place}")
        assert isinstance(told, dict)
        return int(told["value"], 16)

    @typed
    def poke(self, place: str, value: int, width: int | None = None) -> None:
        """Write a device."""
        self.run(f"poke{f'/{width}' if width else ''} {place} {value:#x}")

    @typed
    def give(self, value: int) -> None:
        """Give the access that waits another value, as `set value` does."""
        self.run(f"set value {value:#x}")

    @typed
    @typed
    def skip(self, value: int = 0) -> object:
        """Complete the instruction without its device."""
        return self.run(f"skip {value:#x}")

    @typed
    def rule(self, text: str) -> int:
        """Say what becomes of accesses, as `rule` does; return the rule's number."""
        told = self.run(f"rule {text}")
        assert isinstance(told, dict)
        return int(told["number"])

    @typed
    def read(self, linear: int, size: int) -> bytes:
        """Return up to ``size`` bytes of RAM at a linear address; fewer where it ends."""

        async def read() -> bytes:
            return self._context.halt.space.read(linear, size)

        return self._wait(read())

    @typed
    def symbol(self, linear: int) -> str | None:
        """Return the name of a linear address with its offset."""

        async def symbol() -> str | None:
            return self._context.run.symbol(linear)

        return self._wait(symbol())

    @typed
    def address(self, name: str) -> int | None:
        """Return the linear address of a kernel symbol."""
        return self._context.address_of(name)

    def _wait(self, work: Coroutine[Any, Any, _T]) -> _T:
        if _called_by(self._loop):
            work.close()
            raise UsageError(
                "vetrace itself called this and would wait for ever: `py` and commands of your own "
                "can ask the guest, filters and subscribers cannot"
            )
        if self._loop.is_closed():
            work.close()
            raise UsageError("the guest has ended: nothing of it can be reached any more")
        answer = ask_loop(work, self._loop)
        self._failures.tell()
        return answer


def _called_by(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:  # a thread without a loop
        return False


class Registers:
    """Read and set registers of the interrupted code: ``registers.rax``, ``registers["rip"]``."""

    _guest: Guest

    def __init__(self, guest: Guest) -> None:
        object.__setattr__(self, "_guest", guest)

    @typed
    def __getitem__(self, name: str) -> int:
        told = self._guest.run(f"regs {name}")
        assert isinstance(told, dict)
        return int(next(iter(told.values())), 16)

    @typed
    def __setitem__(self, name: str, value: int) -> None:
        self._guest.run(f"set ${name} {value:#x}")

    def __getattr__(self, name: str) -> int:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __setattr__(self, name: str, value: int) -> None:
        self[name] = value

    def __repr__(self) -> str:
        return "<registers: registers.rax, registers.rip, …>"


class Regions:
    """Look regions up by name: ``regions["nvme"].start``; iterate over all of them."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def __iter__(self) -> Iterator[Region]:
        return iter(self._guest._context.regions.regions)

    @typed
    def __getitem__(self, name: str) -> Region:
        for region in self:
            if region.name == name:
                return region
        raise self._guest._context.misses("region", name, self._guest._context.region_names())

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return f"<regions: {', '.join(dict.fromkeys(region.name for region in self))}>"


class Breaks:
    """Make, list and delete breaks: ``breaks.add("write nvme.CC")``, ``breaks.delete(1)``."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def add(self, text: str) -> int:
        """Make a break of the words after `break`; return its number."""
        told = self._guest.run(f"break {text}")
        assert isinstance(told, dict)
        return int(told["number"])

    def delete(self, *numbers: int) -> None:
        """Delete breaks, all of them when no number is given."""
        self._guest.run(f"delete {' '.join(map(str, numbers))}")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        found = self._guest.run("info breaks")
        assert isinstance(found, list)
        return iter(found)

    def __repr__(self) -> str:
        return "\n".join(f"{item['number']}  {item['text']}" for item in self) or "no breaks"
