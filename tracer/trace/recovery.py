"""The rows that a killed vetrace had not taken from its guest's ring, put into the trace.

The block of compiled sites, as it was when QEMU ended, tells all that its rows need but for the
sites and places, which are in the trace.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import get_args

from tracer.compiled import inputs
from tracer.compiled.asking import FIRST, AskedSites, decoded, of_accesses
from tracer.compiled.inputs import Input, InputPlace, InputSites, of_kinds
from tracer.compiled.layout import SLOT_SIZE
from tracer.compiled.ring import counters, left_behind, sequence_of, without_threads
from tracer.errors import InterceptError, TraceError
from tracer.text.amount import counted
from tracer.trace.block import MOST_ROWS, Blocks
from tracer.trace.compiled import VIRTUAL, BlockRecord, Rate, SiteRecord
from tracer.trace.inputs import input_site, instruction_of, kind_of
from tracer.trace.member import Via
from tracer.trace.record import End, Header, Intercept, Line, LostRecord
from tracer.trace.site import asked_site
from tracer.x86.instruction import Instruction


class Recovery:
    """Follow the lines of a trace that was cut, and say what is to come after them.

    ``recovered`` counts the accesses that the ring had beyond the trace.
    """

    def __init__(self, header: Header) -> None:
        self.header = header
        self.recovered = 0
        self._blocks = Blocks()
        self._ways: Counter[str] = Counter()
        self._intercepts = 0
        self._sites = 0
        self._left_out = 0
        self._asked = FIRST
        self._inputs = inputs.FIRST
        self._kinds: set[Input] = set()
        self._known: dict[tuple[int, int], SiteRecord] = {}
        self._seq = 0
        self._time_ns = 0
        self._taken: int | None = None
        self._rate: Rate | None = VIRTUAL if header.clock == "icount" else None

    def follow(self, line: Line) -> None:
        """Take the next line of the trace."""
        self._time_ns = max(self._time_ns, line.time_ns)
        if isinstance(line, BlockRecord):
            ways = self._blocks.ways(line.rows, line.window)
            self._ways += ways
            self._seq = line.seq + ways.total()
            self._taken = sequence_of(line.rows)
            self._rate = line.rate
            self._tell_time(line.rows)
            self._blocks.skip(line)
            return
        if isinstance(line, LostRecord) and line.seq is not None:
            self._left_out = self._seq = line.seq
        for record in self._blocks.records(line):
            if isinstance(record, Intercept):
                made = len(record.device_accesses())
                self._seq = record.seq + made
                self._ways[record.via] += made
                self._intercepts += 1
        if isinstance(line, SiteRecord):
            self._learn(line)

    def _learn(self, line: SiteRecord) -> None:
        self._sites += 1
        kind = kind_of(line)
        if kind is None:
            self._asked = max(self._asked, line.number + 1)
            return
        self._inputs = max(self._inputs, line.number + 1)
        self._kinds.add(kind)
        if line.code:
            self._known[line.rip, line.mode] = line

    def _look(self, place: InputPlace) -> Instruction | None:
        if place.code:
            return decoded(place.code, place.rip, place.mode)
        # The trace has the code of inputs that were met before.
        known = self._known.get((place.rip, place.mode.value))
        return None if known is None else instruction_of(known)

    def _named(self, rows: bytes) -> tuple[bytes, list[SiteRecord]]:
        # Gives inputs their sites. Which kinds were wanted is known where there were any.
        if self._kinds:
            rows = of_kinds(rows, self._kinds)
        rows, new = InputSites(self._look, self._inputs).name(rows)
        told = []
        for site in new:
            known = self._known.get((site.place.rip, site.place.mode.value))
            symbol = None if known is None else known.symbol
            told.append(input_site(site, self._time_ns, symbol))
        return rows, told

    def rest(self, block: bytes) -> Iterator[Line]:
        """Yield what follows the last line: what the ``block`` of the guest has, and the end.

        Of a confidential guest's calls only those for accesses are among it. Raise
        :exc:`TraceError` where that is not the block of this trace's guest.
        """
        try:
            window, rows = left_behind(block, self._taken)
            rows, met = self._named(rows)
            rows, new = AskedSites(self._asked).name(of_accesses(rows))
        except (InterceptError, ValueError) as error:
            raise TraceError(str(error)) from error
        for told in (*met, *(asked_site(site, self._time_ns) for site in new)):
            self.follow(told)
            yield told
        for at in range(0, len(rows), MOST_ROWS * SLOT_SIZE):
            # Nobody knows any more what its threads have told of their errands.
            some = without_threads(rows[at : at + MOST_ROWS * SLOT_SIZE])
            some = self._blocks.with_messages(some, window)
            ways = self._blocks.ways(some, window)
            accesses = ways.total()
            seq, time_ns = self._seq, self._time_ns
            self._seq += accesses
            self._tell_time(some)
            self._ways += ways
            self.recovered += accesses
            if accesses:
                rest = BlockRecord(
                    seq=seq, time_ns=time_ns, accesses=accesses, window=window, rows=some,
                    rate=self._rate,
                )  # fmt: skip
                self._blocks.skip(rest)
                yield rest
        counts = {name: self._ways[name] for name in get_args(Via)}
        if self._left_out:
            counts["left_out"] = self._left_out
        yield End(
            time_ns=self._time_ns,
            outcome=f"killed; {counted(self.recovered, 'access')} recovered",
            counts={
                "accesses": self._ways.total(), "intercepts": self._intercepts, **counts,
                "sites": self._sites, "recovered": self.recovered,
            },
        )  # fmt: skip

    def _tell_time(self, rows: bytes) -> None:
        if self._rate is not None:
            self._time_ns = max(self._time_ns, self._rate.at(max(counters(rows))))
