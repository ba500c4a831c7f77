"""Go along a trace and a log, strand by strand, and count how they agree."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from tracer.check.comparison import (
    Comparison,
    Cut,
    Difference,
    Kind,
    RegionComparison,
    TracedAccess,
    excuse_late,
)
from tracer.check.configuration import ConfigurationLog
from tracer.check.interrupts import UNKNOWN, Interrupts
from tracer.check.messages import Messages, tells
from tracer.check.qemu_log import LogEntry, LogReader
from tracer.check.witness.alignment import align
from tracer.check.witness.fingerprint import IN_A_ROW
from tracer.check.witness.reading import fit
from tracer.check.witness.recovery import Place, Recovery, agreement
from tracer.check.witness.side import Side, Strand, strand_of
from tracer.check.witness.territory import INTERRUPTS, PORT, Territory, is_message
from tracer.check.witness.traced import Whole, interrupt_of, traced_accesses, wholes_of
from tracer.trace.configuration import REGION
from tracer.trace.record import (
    RELEASED,
    Intercept,
    MapRecord,
    Mark,
    MemoryAccess,
    Record,
    RegionRecord,
    UserRecord,
)

_BEGINNING = 16  # accesses in a row that tell where a region begins in a log with more before it
_DISTINCT = 8  # of them that differ: a row without is a loop's, and may be in many places
_LONGEST = 1 << 12  # accesses among which they are sought
_SEARCHED = 64  # entries looked at for a beginning at once
_FOLLOWING = 32  # accesses that tell where one of unknown extent ends
_ROOM = 1 << 16  # entries held before those that nothing will ask for are given up
_BEHIND = 8  # traced accesses behind the end of the log that tell that it is cut

_SPACES = frozenset({"memory", PORT})
"""Where accesses are that any log tells of, as the first ones of their records."""
_DISPUTED = 1 << 12
"""Differences of interrupts that are looked at once more, at most."""
_COMPARED = frozenset({"memory", REGION, INTERRUPTS})
"""The spaces whose regions are compared each in an order of its own."""


class Matching:
    """Match one trace with one log."""

    def __init__(
        self, records: Iterator[Record], log: Iterable[bytes], keep: int, vcpus: int
    ) -> None:
        self._result = Comparison()
        self._keep = keep
        self._territory = Territory()
        self._interrupts = Interrupts(vcpus)
        self._several = vcpus > 1
        self._disputed: list[Difference] = []  # of interrupts
        self._messages = Messages()
        self._log = LogReader(log, ConfigurationLog(), self._interrupts)
        self._traced = Side(self._accesses(records))
        self._logged = Side(self._entries())
        self._offset: int | None = None
        self._log_size = 0  # at least, as marks tell
        self._firmware: list[tuple[int, int]] = []  # where in the log no vCPU ran the kernel
        self._aligned: set[Strand] = set()
        self._judged = Strand("")
        self._words: dict[str, str] = {}
        self._released = False
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

    # ---- the two sides

    def _accesses(self, records: Iterator[Record]) -> Iterator[tuple[Strand, TracedAccess]]:
        begun = False
        last = 0
        for record in records:
            match record:
                case RegionRecord():
                    self._territory.add(record)
                    if record.region.traced and record.region.space in _COMPARED:
                        self._count(record.region.name)
                case MapRecord():
                    self._territory.map(record.regions)
                case Mark(qemu_log_offset=int(offset), qemu_log_from=begin):
                    if begin is not None:
                        self._firmware.append((begin, offset))
                    self._log_size = max(self._log_size, offset)
                    if not begun and self._offset is None:
                        self._offset = offset
                        self._result.marked = True
                case Intercept():
                    begun = True
                    by_vcpu = record.via in ("stepped", "compiled", "monitor")
                    if self._pass_over(record):
                        continue
                    site = self._word(record.site)
                    made = record.device_accesses()
                    last = made[-1][0] if made else last
                    if made and made[0][1].space == INTERRUPTS:
                        yield from self._came(record, site)
                        continue
                    wholes = wholes_of(record.accesses) if len(record.accesses) > 1 else {}
                    text = self._word(record.text)
                    yield from self._met(record.vcpu, made, site, text, by_vcpu, wholes)
                case UserRecord():
                    self._released = self._released or record.text == RELEASED
                    made = [(last, access) for access in record.accesses]
                    yield from self._met(record.vcpu, made, "user", record.text)
                case _:
                    pass

    # QEMU logs nothing of MSRs, CPUID and the counter; of interrupts where the trace says so.
    def _pass_over(self, record: Intercept) -> bool:
        space = record.accesses[0].space if record.accesses else "memory"
        witnessed = space in _SPACES or (space == INTERRUPTS and self._territory.interrupts)
        if not witnessed:
            self._result.unwitnessed[space] = self._result.unwitnessed.get(space, 0) + 1
        return not witnessed

    def _came(self, record: Intercept, site: str) -> Iterator[tuple[Strand, TracedAccess]]:
        interrupt = interrupt_of(record, site, self._word(record.text))
        if interrupt is not None:
            self._count(INTERRUPTS).traced += 1
            yield strand_of(INTERRUPTS, record.vcpu), interrupt

    # A word that many accesses have is held once.
    def _word(self, word: str) -> str:
        return self._words.setdefault(word, word)

    def _met(
        self,
        vcpu: int,
        made: Iterable[tuple[int, MemoryAccess]],
        site: str,
        text: str,
        by_vcpu: bool = False,
        wholes: Mapping[int, Whole] | None = None,
    ) -> Iterator[tuple[Strand, TracedAccess]]:
        for region, traced in traced_accesses(made, site, text, by_vcpu, wholes or {}):
            self._count(region).traced += traced.count
            yield strand_of(region, vcpu), traced
        for _, access in made:
            if access.offset is not None and access.space == "memory":
                base = access.physical - access.offset
                self._territory.learn(access.region or "", base)

    # Only asked for its first entry after the first access was read, so the offset is settled.
    def _entries(self) -> Iterator[tuple[Strand, LogEntry]]:
        result = self._result
        for entry in self._log.entries(self._offset or 0):
            match entry.space:
                case "config":
                    yield from self._configuration(entry)
                    continue
                case "irq":
                    yield from self._interrupt(entry)
                    continue
            result.entries += 1
            if entry.cpu >= 0 and (entry.cpu in self._interrupts.managing or self._is_firmware()):
                result.firmware += 1
                continue
            if entry.refused:
                placed = self._refused(entry)
                if placed is not None:
                    yield placed
                continue
            if is_message(entry):
                source = self._messages.sources(entry)
                result.messages += 1
                result.sources[source] = result.sources.get(source, 0) + 1
                continue
            found = self._territory.find(entry)
            if found is None:
                continue
            place, entry = found
            if entry.direction == "write" and tells(place.name):
                offset = self._territory.offset(place.name, entry.address)
                self._messages.note(place.name, offset, entry)
            if place.name == PORT and entry.cpu < 0:
                continue  # a device's, or a debugger's
            if place.traced:
                yield strand_of(place.name, entry.cpu), entry
            elif entry.cpu >= 0 and (result.marked or self._aligned):
                result.overlooked[place.name] = result.overlooked.get(place.name, 0) + 1

    # The log tells neither whose it was nor at which address: it is taken for what is being looked
    # for.
    def _refused(self, entry: LogEntry) -> tuple[Strand, LogEntry] | None:
        placed = self._territory.place(entry, self._judged.region)
        ports = self._territory.ports(entry)
        if ports and (placed is None or self._judged.region == PORT):
            return Strand(PORT), replace(entry, address=self._port(entry, ports))
        if placed is None:
            return None
        name, entry = placed
        return self._judged if self._judged.region == name else Strand(name), entry

    # Devices that are alike have regions of one name, such as both interrupt controllers: the next
    # such access of the trace tells which it was.
    def _port(self, entry: LogEntry, ports: Collection[int]) -> int:
        following = self._traced.view(Strand(PORT), _FOLLOWING) if len(ports) > 1 else ()
        for access in following:
            alike = (access.direction, access.width) == (entry.direction, entry.width)
            if alike and access.address in ports:
                return access.address
        return min(ports)

    # A line of the port tells such an entry too, and whose it was.
    def _configuration(self, entry: LogEntry) -> Iterator[tuple[Strand, LogEntry]]:
        managing = entry.cpu in self._interrupts.managing
        if (
            self._territory.configuration
            and entry.cpu >= 0
            and not (managing or self._is_firmware())
        ):
            self._result.absent += not entry.name
            self._messages.note(REGION, entry.address, entry)
            yield Strand(REGION), entry

    # Interrupts of a vCPU that is not in the monitor are not recorded. The log tells no place of
    # some: then the trace's is taken, which is as many interrupts further on.
    def _interrupt(self, entry: LogEntry) -> Iterator[tuple[Strand, LogEntry]]:
        if not self._territory.interrupts or self._is_firmware():
            return
        if entry.cpu < 0:
            if self._result.marked:
                self._result.overlooked[INTERRUPTS] = self._result.overlooked.get(INTERRUPTS, 0) + 1
            return
        strand = strand_of(INTERRUPTS, entry.cpu)
        if entry.address == UNKNOWN:
            before = self._logged.size(strand)
            here = self._traced.view(strand, before + 1)[before:]
            entry = replace(entry, address=here[0].address if here else 0)
        yield strand, entry

    # Tells whether firmware ran when the last line was written.
    def _is_firmware(self) -> bool:
        return any(begin < self._log.size <= end for begin, end in self._firmware)

    def _count(self, region: str) -> RegionComparison:
        return self._result.regions.setdefault(region, RegionComparison())

    # ---- one access after the other

    # Judge the first traced access of a strand, and others as far as that takes.
    def _judge(self, strand: Strand) -> None:
        self._judged = strand
        if not self._result.marked and strand not in self._aligned:
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
        if logged:
            self._last_line = max(self._last_line, logged[-1].line)
        self._count(strand.region).witnessed += access.count

    def _recover(self, strand: Strand) -> None:
        place = Recovery(self._traced, self._logged, strand).place()
        traced = self._traced.take(strand, place.accesses)
        logged = self._logged.take(strand, place.entries)
        for access, entries, agrees in align(traced, logged):
            if access is None:
                self._differ("missing", strand, None, entries)
            elif agrees:
                self._agree(strand, access, entries)
            else:
                self._differ("different" if entries else "extra", strand, access, entries)

    # ---- where it begins and ends

    # Find where a strand's accesses begin, without a mark: after the last access agreed on.
    def _align(self, strand: Strand) -> None:
        traced = self._traced.view(strand, _LONGEST)
        needed = min(_BEGINNING, len(traced))
        first_of_all = not self._aligned
        while (entry := self._logged.first(strand)) is not None and entry.line <= self._last_line:
            self._logged.take(strand)
        while True:
            logged = self._logged.view(strand, _SEARCHED + _BEGINNING)
            for skipped in range(min(len(traced) - needed, len(logged), _BEGINNING) + 1):
                _, end = agreement(traced, logged, Place(skipped, skipped), 8 * _BEGINNING)
                if end.accesses - skipped >= needed:
                    further = self._further(strand, traced)
                    if further is None:
                        self._differ_all(strand, skipped)
                    else:
                        self._logged.take(strand, further)
                    self._aligned.add(strand)
                    return
            # Before anything is aligned the log may be long: forget what is oldest.
            if first_of_all and self._logged.held >= _ROOM:
                for other in self._logged.strands:
                    if other != strand:
                        self._logged.take(other, self._logged.size(other) // 2)
            if not self._logged.take(strand):
                self._aligned.add(strand)
                return

    # How many entries further all agrees that tells a beginning from the turns of a loop, None
    # where it does nowhere.
    def _further(self, strand: Strand, traced: Sequence[TracedAccess]) -> int | None:
        row = _telling(traced)
        logged: Sequence[LogEntry] = ()
        for at in range(_ROOM):
            if at + len(row) > len(logged):
                logged = self._logged.view(strand, 2 * (at + len(row)))
                if at + len(row) > len(logged):
                    break
            _, end = agreement(row, logged, Place(0, at), len(logged))
            if end.accesses == len(row):
                return at
        return None

    def _differ_all(self, strand: Strand, count: int) -> None:
        pairs = zip(self._traced.take(strand, count), self._logged.take(strand, count), strict=True)
        for access, entry in pairs:
            self._differ("different", strand, access, (entry,))

    # Entries of other strands before the last access agreed on will not be asked for
    # any more: the trace lacks it.
    def _make_room(self) -> None:
        if self._logged.held < _ROOM:
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
        while not self._released:
            for strand in list(self._logged.pending):
                self._lack(strand, self._logged.take(strand, self._logged.size(strand)))
            if self._logged.fetch() is None:
                return

    def _lack(self, strand: Strand, entries: Sequence[LogEntry]) -> None:
        for entry in entries:
            if self._result.marked or strand in self._aligned:
                self._differ("missing", strand, None, (entry,))

    def _close(self) -> None:
        result, log = self._result, self._log
        # The log is read to its end where the trace was, and the guest not let go.
        short = not self._released and log.size < self._log_size
        # A log that is cut agrees up to there.
        ends = self._behind >= _BEHIND > self._amiss
        if log.torn is not None or short or ends:
            end = self._end_seq if self._behind else None
            result.cut = Cut(log.torn or log.line, self._behind, end)
        result.switched = sorted(self._territory.switched)
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
        count = self._count(strand.region)
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


# The first accesses, as many as it takes that enough of them differ.
def _telling(traced: Sequence[TracedAccess]) -> Sequence[TracedAccess]:
    seen = set()
    for count, access in enumerate(traced, 1):
        seen.add((access.direction, access.address, access.value))
        if count >= _BEGINNING and len(seen) >= _DISTINCT:
            return traced[:count]
    return traced
