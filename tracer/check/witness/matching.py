"""Go along a trace and a log, strand by strand, and count how they agree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tracer.check.comparison import (
    Comparison,
    Cut,
    Difference,
    Kind,
    TracedAccess,
    excuse_late,
)
from tracer.check.qemu_log import LogEntry
from tracer.check.witness.alignment import align
from tracer.check.witness.beginning import ROOM, begin
from tracer.check.witness.fingerprint import IN_A_ROW
from tracer.check.witness.pair import Pair
from tracer.check.witness.reading import fit
from tracer.check.witness.recovery import Place, Recovery, agreement
from tracer.check.witness.side import Strand
from tracer.check.witness.territory import INTERRUPTS, MESSAGES
from tracer.trace.cause import UNKNOWN, is_message
from tracer.trace.record import Record

_SEARCHED = 64  # entries looked at for an end at once
_FOLLOWING = 32  # accesses that tell where one of unknown extent ends
_BEHIND = 8  # traced accesses behind the end of the log that tell that it is cut
_DISPUTED = 1 << 12
"""Differences of interrupts that are looked at once more, at most."""


class Matching:
    """Match one trace with one log."""

    def __init__(
        self, records: Iterator[Record], log: Iterable[bytes], keep: int, vcpus: int
    ) -> None:
        self._pair = pair = Pair(records, log, vcpus)
        self._result, self._traced, self._logged = pair.result, pair.traced, pair.logged
        self._keep = keep
        self._several = vcpus > 1
        self._disputed: list[Difference] = []  # of interrupts
        self._stood_for = 0  # messages of the log that a record of the trace is of
        self._last_seq: dict[Strand, int] = {}
        self._last_line = 0
        self._behind = 0  # accesses behind the end of the log
        self._end_seq = 0  # number of the first of them
        self._amiss = 0  # faults in the log since both sides last agreed

    def run(self) -> Comparison:
        """Read both sides to their ends and return what was found."""
        while self._traced.fetch() is not None:
            while pending := self._traced.pending:
                self._judge(min(pending, key=self._first_seq))
        self._drain()
        self._close()
        if self._several:
            excuse_late(self._result, INTERRUPTS, self._disputed)
        return self._result

    def _first_seq(self, strand: Strand) -> int:
        access = self._traced.first(strand)
        return access.seq if access is not None else 0

    # ---- one access after the other

    # Judge the first traced access of a strand, and others as far as that takes.
    def _judge(self, strand: Strand) -> None:
        self._pair.judged = strand
        if not self._result.marked and strand not in self._pair.aligned:
            self._align(strand)
            return
        self._make_room()
        access = self._traced.first(strand)
        entry = self._logged.first(strand)
        assert access is not None  # the region is pending
        if entry is None and access.width:
            if not self._behind:
                self._end_seq = access.seq
            self._differ("extra", strand, self._traced.take(strand)[0], ())
            self._behind += self._logged.ended
            return
        used = (
            1
            if entry is not None and access.width and fit(access, (entry,), more=True) == (1, True)
            else self._used(strand, access)
        )
        if used is None:
            self._recover(strand)
        else:
            self._agree(strand, self._traced.take(strand)[0], self._logged.take(strand, used))

    # How many log entries are the region's next access, None when they are not.
    def _used(self, strand: Strand, access: TracedAccess) -> int | None:
        wanted = 1
        while True:
            logged = self._logged.view(strand, wanted)
            used, agrees = fit(access, logged, more=len(logged) == wanted)
            if used <= len(logged) and (access.width or used < wanted or len(logged) < wanted):
                break
            wanted *= 2
        if not agrees:
            return None
        return used if access.width else self._bounded(strand, used)

    # An access of unknown extent ends where those that follow it begin, None where that is nowhere.
    def _bounded(self, strand: Strand, most: int) -> int | None:
        following = self._traced.view(strand, 1 + _FOLLOWING)[1:]
        room = _SEARCHED
        for used in range(most + 1):
            while True:
                logged = self._logged.view(strand, used + room)
                count, end = agreement(following, logged, Place(0, used), IN_A_ROW)
                if end.entries < used + room - _SEARCHED // 2 or len(logged) < used + room:
                    break
                room *= 2
            # Fewer of them are all that there are; the log must have no more either.
            whole = len(following) == _FOLLOWING or end.entries == len(logged)
            if count >= IN_A_ROW or (end.accesses == len(following) and whole):
                return used
        return None

    def _agree(self, strand: Strand, access: TracedAccess, logged: Sequence[LogEntry]) -> None:
        if logged:
            self._behind = self._amiss = 0
        self._last_seq[strand] = access.seq
        if access.cause is not None and logged:
            self._attribute(access.cause, logged[0])
        if access.message is not None and logged:
            self._compare(strand, access, access.message, logged[0])
        if logged:
            self._last_line = max(self._last_line, logged[-1].line)
        self._pair.count(strand.region).witnessed += access.count

    # A message that comes while another one of its vector waits is one interrupt with that.
    def _attribute(self, cause: str, entry: LogEntry) -> None:
        causes = set(cause.split(" or "))
        senders = set() if entry.sender is None else set(entry.sender.split(" or "))
        if cause == UNKNOWN or (entry.sent and not senders):
            return
        agrees = bool(causes & senders) or (
            not entry.sent and not all(is_message(each) for each in causes)
        )
        if agrees:
            self._result.attributed += 1
        else:
            self._result.misattributed += 1

    # A message is compared as far as it is known.
    def _compare(
        self,
        strand: Strand,
        access: TracedAccess,
        message: tuple[int, int | None],
        entry: LogEntry,
    ) -> None:
        address, data = message
        if any(address in (0, to) and data in (None, told) for to, told in entry.messages):
            self._pair.count(MESSAGES).witnessed += 1
            self._stood_for += entry.sent
        else:
            self._differ("different", strand._replace(region=MESSAGES), access, (entry,))

    def _recover(self, strand: Strand) -> None:
        place = Recovery(self._traced, self._logged, strand).place()
        traced = self._traced.take(strand, place.accesses)
        logged = self._logged.take(strand, place.entries)
        for access, entries, agrees in align(traced, logged):
            if access is None:
                self._lack(strand, entries)
            elif agrees:
                self._agree(strand, access, entries)
            else:
                self._differ("different" if entries else "extra", strand, access, entries)

    # ---- where it begins and ends

    # Find where a strand's accesses begin, without a mark: after the last access agreed on.
    def _align(self, strand: Strand) -> None:
        while (entry := self._logged.first(strand)) is not None and entry.line <= self._last_line:
            self._logged.take(strand)
        aligned = self._pair.aligned
        self._differ_all(strand, begin(self._traced, self._logged, strand, first=not aligned))
        aligned.add(strand)

    def _differ_all(self, strand: Strand, count: int) -> None:
        pairs = zip(self._traced.take(strand, count), self._logged.take(strand, count), strict=True)
        for access, entry in pairs:
            self._differ("different", strand, access, (entry,))

    # Entries of other strands before the last access agreed on will not be asked for
    # any more: the trace lacks it.
    def _make_room(self) -> None:
        if self._logged.held < ROOM:
            return
        for strand in self._logged.strands:
            if self._traced.size(strand):
                continue
            while self._logged.size(strand):
                entry = self._logged.first(strand)
                if entry is None or entry.line >= self._last_line:
                    break
                self._lack(strand, self._logged.take(strand))

    def _drain(self) -> None:
        # A guest that was let go is not traced any more.
        while not self._pair.released:
            for strand in list(self._logged.pending):
                self._lack(strand, self._logged.take(strand, self._logged.size(strand)))
            if self._logged.fetch() is None:
                return

    # Behind the reset that ended the trace of a guest of somebody else it is the next guest's.
    def _is_next(self, entry: LogEntry) -> bool:
        resets = self._pair.resets if self._pair.reset else ()
        return any(self._last_line < line < entry.line for line in resets)

    def _lack(self, strand: Strand, entries: Sequence[LogEntry]) -> None:
        for entry in entries:
            begun = self._result.marked or strand in self._pair.aligned
            if begun and not self._is_next(entry):
                self._differ("missing", strand, None, (entry,))

    def _close(self) -> None:
        result, pair = self._result, self._pair
        # The log is read to its end where the trace was, and the guest not let go.
        short = not pair.released and pair.log.size < pair.log_size
        # A log that is cut agrees up to there.
        ends = self._behind >= _BEHIND > self._amiss
        if pair.log.torn is not None or short or ends:
            end = self._end_seq if self._behind else None
            result.cut = Cut(pair.log.torn or pair.log.line, self._behind, end)
        if pair.territory.messages:
            result.unrecorded = result.messages - self._stood_for
        result.switched = sorted(pair.territory.switched)
        for name in result.switched:
            # The log has more than the trace of a region that was not traced all the time.
            result.regions.pop(name, None)
        result.differences = [d for d in result.differences if d.region not in result.switched]

    # ---- what is found

    def _differ(
        self, kind: Kind, strand: Strand, access: TracedAccess | None, logged: Sequence[LogEntry]
    ) -> None:
        if logged:
            self._behind = 0
            self._amiss += 1
        count = self._pair.count(strand.region)
        match kind:
            case "missing":
                count.missing += 1
                count.witnessed += 1
            case "extra":
                count.extra += access.count if access is not None else 0
            case "different":
                count.different += 1
                count.witnessed += 1
        after = self._last_seq.get(strand)
        difference = Difference(kind, strand.region, access, tuple(logged), after)
        if len(self._result.differences) < self._keep:
            self._result.differences.append(difference)
        if strand.region == INTERRUPTS and len(self._disputed) < _DISPUTED:
            self._disputed.append(difference)
