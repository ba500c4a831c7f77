"""The names of code that a trace has: where functions are, as far as its accesses show that."""

from __future__ import annotations

from contextlib import suppress

from tracer.query.facts import function, module, site
from tracer.trace.marker import PHASE
from tracer.trace.phase import PHASES
from tracer.trace.record import Mark, StackRecord
from tracer.trace.tape import Tape


# A call is told by where it ends, and lies before that.
def _before(symbol: str | None) -> str | None:
    name, plus, rest = (symbol or "").partition("+")
    offset, gap, owner = rest.partition(" ")
    with suppress(ValueError):
        if plus and int(offset, 16):
            return f"{name}+{int(offset, 16) - 1:#x}{gap}{owner}"
    return None


class TraceNames:
    """Know the call sites of a tape as far as that has been read; it follows when more is."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._kinds = self._told = 0
        self._sites: dict[int, str] = {}
        self._begins: dict[str, int] = {}
        self._starts: dict[int, str] = {}
        self._phases: dict[str, None] = dict.fromkeys(PHASES)

    def _follow(self) -> None:
        tape = self._tape
        for kind in tape.kinds[self._kinds :]:
            self._add(kind.rip, kind.symbol)
        for _, record in tape.told[self._told :]:
            if isinstance(record, StackRecord):
                for frame in record.frames:
                    self._add(frame.rip, frame.symbol)
            elif isinstance(record, Mark) and record.text.startswith(PHASE):
                self._phases[record.text.removeprefix(PHASE)] = None
        self._kinds, self._told = len(tape.kinds), len(tape.told)

    def _add(self, linear: int, symbol: str | None) -> None:
        if symbol is None or self._sites.get(linear) == symbol:
            return
        self._sites.setdefault(linear, symbol)
        _, _, offset = site(symbol).partition("+")
        with suppress(ValueError):  # a name from elsewhere may have no offset
            begin = linear - int(offset or "0", 16)
            self._begins.setdefault(function(symbol), begin)
            self._starts.setdefault(begin, symbol.replace(f"+{offset}", "+0x0", 1))

    @property
    def functions(self) -> frozenset[str]:
        """Return the functions that made accesses, and those under way meanwhile."""
        self._follow()
        return frozenset(self._begins)

    @property
    def modules(self) -> frozenset[str]:
        """Return the modules that these are of."""
        self._follow()
        return frozenset(filter(None, map(module, self._sites.values())))

    @property
    def phases(self) -> list[str]:
        """Return the phases that can be, and those that marks name."""
        self._follow()
        return list(self._phases)

    def lookup(self, linear: int) -> str | None:
        """Return the name of a linear address that a record has, of the one before it, or of where
        its function begins."""
        self._follow()
        found = self._sites.get(linear) or self._starts.get(linear)
        return found or _before(self._sites.get(linear + 1))

    def address_of(self, name: str) -> int | None:
        """Return the linear address at which a function begins."""
        self._follow()
        return self._begins.get(name)
