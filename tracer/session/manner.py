"""How a guest is to be traced, and what is in place once it is."""

from __future__ import annotations

from dataclasses import dataclass

from tracer.compiled.inputs import Input
from tracer.intercept.below.bench import Bench, Wanted
from tracer.intercept.below.firmware import Underneath
from tracer.intercept.entry.post import Post
from tracer.intercept.interceptor import Interceptor
from tracer.intercept.recording import RecordedDevice
from tracer.intercept.ring.input_bell import InputBell
from tracer.intercept.ring.monitor import Monitor
from tracer.intercept.ring.secondary import Secondary
from tracer.intercept.system import Callers
from tracer.intercept.trap import Trap
from tracer.session.traps import Bell, GateWatch


@dataclass(frozen=True, slots=True)
class Manner:
    """Say how to trace a guest.

    ``recorded`` answers for its regions in place of their devices. With ``asks`` a person is asked
    what becomes of each access. What is ``wanted`` is tried on the guest's own handler. With
    ``stacks`` the call chain is recorded with each access. With a ``ring`` of so many records
    instructions are compiled, where that can be; ``inputs`` of these kinds are recorded there,
    too. Traps are poisoned entries, or ``nested``.
    """

    recorded: RecordedDevice | None = None
    asks: bool = False
    wanted: Wanted | None = None
    stacks: bool = False
    ring: int | None = None
    inputs: frozenset[Input] = frozenset()
    nested: bool = False


@dataclass(frozen=True, slots=True)
class Traced:
    """Hold what is in place once a guest is being traced.

    A stop goes to the first of the ``traps`` that claims it. ``underneath`` is what a confidential
    guest has below it, ``bench`` tries instructions on its handler, ``late`` tells that compiled
    sites come once there is room. The guest runs inside the ``monitor``, where there is one, which
    vCPUs that come later enter at ``secondary``; inputs that somebody is asked about, that
    are doorbells, or that code waits for, ring the ``input_bell``.
    """

    gate: Post
    callers: Callers
    watch: GateWatch | None
    bell: Bell
    interceptor: Interceptor
    traps: tuple[Trap, ...]
    underneath: Underneath | None = None
    bench: Bench | None = None
    late: bool = False
    secondary: Secondary | None = None
    input_bell: InputBell | None = None

    @property
    def monitor(self) -> Monitor | None:
        """Return what the guest runs inside."""
        return None if self.secondary is None else self.secondary.inside
