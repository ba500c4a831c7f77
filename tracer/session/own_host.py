"""A host in a person's own Python, which decides what becomes of accesses.

::

    from tracer.api import Access, delay, refuse

    on = "read nvme"  # asked about these alone; all others go the fast way

    def mmio(access: Access) -> object:
        if access.register == "CSTS":
            return 0xFFFF_FFFF

A class named ``Host``, or an object, has the same as methods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tracer.access.decision import LONGEST_DELAY, Delay, Give, Postpone, Refuse, Ruling
from tracer.confidential.request import Request
from tracer.errors import HostFailed, UsageError
from tracer.host.own_code import BrokenOff, blamed, breakable
from tracer.trace.flat import Access

refuse = Refuse()
"""Tell a confidential guest that an access cannot be made."""

retry = Postpone()
"""Tell a confidential guest to ask again."""


def delay(time_ns: int) -> Delay:
    """Let the guest's time pass before it has the answer: ``delay(1_000_000)`` is 1 ms."""
    if not isinstance(time_ns, int) or isinstance(time_ns, bool):
        raise TypeError(f"a delay is a whole number of nanoseconds, not {time_ns!r}")
    if not 0 <= time_ns <= LONGEST_DELAY:
        raise ValueError(f"a delay is from 0 to {LONGEST_DELAY:,} ns, not {time_ns:,}")
    return Delay(time_ns)


Answer = Callable[[Access], object]
"""Takes an access; returns None, a value to give, or one of the above."""


@dataclass(frozen=True, slots=True)
class OwnHost:
    """Hold the functions of a host; one that it lacks is None.

    ``name`` is what it is called in a trace, ``path`` in errors. ``on`` has the words that say
    which accesses it is asked about, none for all.
    """

    name: str
    path: str
    mmio: Answer | None = None
    hypercall: Callable[[object], object] | None = None
    on: tuple[str, ...] = ()

    @property
    def on_text(self) -> str:
        """Return what ``on`` is called in errors."""
        return f"{self.path}: on" if self.path.endswith(".py") else self.path

    def rule(self, access: Access) -> Ruling | None:
        """Return what becomes of an access; None lets it go on. Raises HostFailed.

        A signal breaks off what does not come to its end: the run is ended by it anyway.
        """
        told = self._told(self.mmio, access)
        where = f"the {access.width} bytes of this access to {access.region}"
        return self._ruling("mmio", told, access.width, where)

    def answer(self, request: Request) -> Ruling | None:
        """Return what is said to a call of a confidential guest, in the same way."""
        told = self._told(self.hypercall, request)
        return self._ruling("hypercall", told, 8, "8 bytes")

    def _told(self, function: Callable[[Any], object] | None, asked: object) -> object:
        # Returns what a function of the person's says, None where there is none.
        if function is None:
            return None
        try:
            with breakable():
                return function(asked)
        except BrokenOff:
            return None
        except BaseException as error:  # sys.exit() is not theirs to call
            raise HostFailed(blamed(error, self.path)) from error

    def _ruling(self, verb: str, told: object, width: int, where: str) -> Ruling | None:
        match told:
            case None:
                return None
            case Delay(time_ns):
                return Delay(time_ns, self.name) if time_ns else None
            case Refuse():
                return Refuse(self.name)
            case Postpone():
                return Postpone(self.name)
            case int(value) if not isinstance(told, bool):
                bits = 8 * width
                if not -(1 << bits - 1) <= value < 1 << bits:
                    raise HostFailed(
                        f"{self.path}: {verb} returned {value:#x}, which does not fit {where}"
                    )
                return Give(value & (1 << bits) - 1, self.name)
        raise HostFailed(
            f"{self.path}: {verb} returned {told!r:.60}: None, a whole number, refuse, retry and "
            "delay(ns) mean something"
        )


def own_host(source: object, name: str, path: str) -> OwnHost:
    """Return the host that an object is, by its ``mmio``, ``hypercall`` and ``on``.

    Raises UsageError.
    """
    functions = {verb: getattr(source, verb, None) for verb in ("mmio", "hypercall")}
    for verb, function in functions.items():
        if function is not None and not callable(function):
            raise UsageError(f"{path}: {verb} is no function")
    if not any(functions.values()):
        raise UsageError(f"{path} has no mmio(access) and no hypercall(call), nor a class Host")
    on = getattr(source, "on", ())
    words: object = (on,) if isinstance(on, str) else on
    if not isinstance(words, Sequence) or not all(isinstance(word, str) for word in words):
        raise UsageError(f'{path}: on is text, or several: on = "read nvme"')
    return OwnHost(name, path, functions["mmio"], functions["hypercall"], tuple(words))
