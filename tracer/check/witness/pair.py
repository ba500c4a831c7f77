"""A trace and its log side by side: what each tells, strand by strand, and which it leaves out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

from tracer.check.comparison import Comparison, RegionComparison, TracedAccess
from tracer.check.configuration import ConfigurationLog
from tracer.check.interrupts import UNKNOWN, Interrupts
from tracer.check.qemu_log import LogEntry, LogReader
from tracer.check.witness.side import Side, Strand, strand_of
from tracer.check.witness.territory import (
    INTERRUPTS,
    MESSAGES,
    PORT,
    Territory,
    holds_vector,
    is_message,
)
from tracer.check.witness.traced import Whole, interrupt_of, traced_accesses, wholes_of
from tracer.trace.cause import LAPIC, Causes
from tracer.trace.configuration import REGION
from tracer.trace.messages import Messages, tells
from tracer.trace.record import (
    RELEASED,
    End,
    Intercept,
    MapRecord,
    Mark,
    MemoryAccess,
    Record,
    RegionRecord,
    UserRecord,
)

_ALIKE = 32
"""Traced accesses that may tell to which of devices that are alike an entry of the log belongs."""

_SPACES = frozenset({"memory", PORT})
"""Where accesses are that any log tells of, as the first ones of their records."""
_COMPARED = frozenset({"memory", REGION, INTERRUPTS, MESSAGES})
"""The spaces whose regions are compared, all but messages each in an order of its own."""
_BY_RESET = "-reset"
"""How the outcome of a guest that was reset ends (QEMU qapi/run-state.json, ShutdownCause)."""
_RESET = b"CPU Reset (CPU 0)"  # QEMU hw/core/cpu-common.c, cpu_common_reset


class _Resets:
    # Notes the lines that tell of a reset of the first vCPU; makes no entry of them.
    def __init__(self, lines: list[int]) -> None:
        self._lines = lines

    def line(self, line: bytes, number: int) -> Iterable[LogEntry]:
        if line.startswith(_RESET):
            self._lines.append(number)
        return ()

    def entry(self, _: LogEntry) -> Iterable[LogEntry]:
        return ()

    def rest(self) -> Iterable[LogEntry]:
        return ()


class Pair:
    """Hold one trace and one log as two sides, and in ``result`` what is counted as they are read.

    ``reset`` tells that the trace ended with the guest's reset, ``resets`` has the lines of the log
    that tell of one. ``judged`` is the strand that is being looked at, ``aligned`` has those whose
    beginning in a log without a mark is known. ``released`` tells that the guest was let go,
    ``log_size`` is what the log has at least, in bytes.
    """

    def __init__(self, records: Iterator[Record], log: Iterable[bytes], vcpus: int) -> None:
        self.result, self.territory = Comparison(), Territory()
        self.judged = Strand("")
        self.aligned: set[Strand] = set()
        self.released = False
        self.reset = False
        self.resets: list[int] = []
        self.log_size = 0
        self._interrupts = Interrupts(vcpus)
        self._messages = Messages()
        # By vector: whose the last message to each address was, with its data, and where some are
        # on their way.
        self._senders: dict[int, dict[int, tuple[str | None, int]]] = {}
        self._sent: dict[int, set[int]] = {}
        self._apics = Causes()
        self._offset: int | None = None
        self._firmware: list[tuple[int, int]] = []  # where in the log no vCPU ran the kernel
        self._words: dict[str, str] = {}
        self.log = LogReader(log, ConfigurationLog(), self._interrupts, _Resets(self.resets))
        self.traced = Side(self._accesses(records))
        self.logged = Side(self._entries())

    def count(self, region: str) -> RegionComparison:
        """Return the counts of a region."""
        return self.result.regions.setdefault(region, RegionComparison())

    def _accesses(self, records: Iterator[Record]) -> Iterator[tuple[Strand, TracedAccess]]:
        begun = False
        last = 0
        for record in records:
            match record:
                case RegionRecord():
                    self.territory.add(record)
                    if record.region.traced and record.region.space in _COMPARED:
                        self.count(record.region.name)
                case MapRecord():
                    self.territory.map(record.regions)
                case Mark(qemu_log_offset=int(offset), qemu_log_from=begin):
                    if begin is not None:
                        self._firmware.append((begin, offset))
                    self.log_size = max(self.log_size, offset)
                    if not begun and self._offset is None:
                        self._offset = offset
                        self.result.marked = True
                case Mark(last=True):
                    self.released = True
                case Intercept():
                    begun = True
                    by_vcpu = record.via in ("stepped", "compiled", "monitor")
                    if self._pass_over(record):
                        continue
                    site = self._word(record.site)
                    made = record.device_accesses()
                    last = made[-1][0] if made else last
                    if made and made[-1][1].space == INTERRUPTS:
                        yield from self._came(record, site)
                        continue
                    wholes = wholes_of(record.accesses) if len(record.accesses) > 1 else {}
                    text = self._word(record.text)
                    yield from self._met(record.vcpu, made, site, text, by_vcpu, wholes)
                case End(outcome=outcome):
                    self.reset = outcome.endswith(_BY_RESET)
                case UserRecord():
                    self.released = self.released or record.text == RELEASED
                    made = [(last, access) for access in record.accesses]
                    yield from self._met(record.vcpu, made, "user", record.text)
                case _:
                    pass

    # QEMU logs nothing of MSRs, CPUID and the counter; of interrupts where the trace says so.
    def _pass_over(self, record: Intercept) -> bool:
        space = record.accesses[0].space if record.accesses else "memory"
        if space == MESSAGES:
            space = record.accesses[-1].space  # the interrupt that came of it
        witnessed = space in _SPACES or (space == INTERRUPTS and self.territory.interrupts)
        if not witnessed:
            self.result.unwitnessed[space] = self.result.unwitnessed.get(space, 0) + 1
        return not witnessed

    def _came(self, record: Intercept, site: str) -> Iterator[tuple[Strand, TracedAccess]]:
        interrupt = interrupt_of(record, site, self._word(record.text))
        if interrupt is not None:
            self.count(INTERRUPTS).traced += 1
            if interrupt.message is not None:
                self.count(MESSAGES).traced += 1
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
        # Nested traps tell of no mapping: what is accessed has one.
        self.territory.map(access.region or "" for _, access in made if access.space == "memory")
        for region, traced in traced_accesses(made, site, text, by_vcpu, wholes or {}):
            self.count(region).traced += traced.count
            yield strand_of(region, vcpu), traced
        for _, access in made:
            if access.offset is not None and access.space == "memory":
                base = access.physical - access.offset
                self.territory.learn(access.region or "", base)

    # Only asked for its first entry after the first access was read, so the offset is settled.
    def _entries(self) -> Iterator[tuple[Strand, LogEntry]]:
        result = self.result
        for entry in self.log.entries(self._offset or 0):
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
                source = self._messages.sources(entry.address, entry.value)
                result.messages += 1
                result.sources[source] = result.sources.get(source, 0) + 1
                if holds_vector(entry):
                    vector = entry.value & 0xFF
                    self._senders.setdefault(vector, {})[entry.address] = source, entry.value
                    self._sent.setdefault(vector, set()).add(entry.address)
                continue
            found = self.territory.find(entry)
            if found is None:
                continue
            place, entry = found
            if entry.direction == "write" and tells(place.name):
                offset = self.territory.offset(place.name, entry.address)
                self._messages.note(place.name, offset, entry.width, entry.value)
            if place.name == LAPIC and entry.cpu >= 0:
                self._learn(place.name, entry)
            if place.name == PORT and entry.cpu < 0:
                continue  # a device's, or a debugger's
            if place.traced:
                yield strand_of(place.name, entry.cpu), entry
            elif entry.cpu >= 0 and (result.marked or self.aligned):
                result.overlooked[place.name] = result.overlooked.get(place.name, 0) + 1

    # The log tells neither whose it was nor at which address: it is taken for what is being looked
    # for.
    def _refused(self, entry: LogEntry) -> tuple[Strand, LogEntry] | None:
        placed = self.territory.place(entry, self.judged.region)
        ports = self.territory.ports(entry)
        if ports and (placed is None or self.judged.region == PORT):
            return Strand(PORT), replace(entry, address=self._port(entry, ports))
        if placed is None:
            return None
        name, entry = placed
        return self.judged if self.judged.region == name else Strand(name), entry

    # Devices that are alike have regions of one name, such as both interrupt controllers: the next
    # such access of the trace tells which it was.
    def _port(self, entry: LogEntry, ports: Collection[int]) -> int:
        following = self.traced.view(Strand(PORT), _ALIKE) if len(ports) > 1 else ()
        for access in following:
            alike = (access.direction, access.width) == (entry.direction, entry.width)
            if alike and access.address in ports:
                return access.address
        return min(ports)

    # A line of the port tells such an entry too, and whose it was.
    def _configuration(self, entry: LogEntry) -> Iterator[tuple[Strand, LogEntry]]:
        managing = entry.cpu in self._interrupts.managing
        if (
            self.territory.configuration
            and entry.cpu >= 0
            and not (managing or self._is_firmware())
        ):
            self.result.absent += not entry.name
            if entry.direction == "write":
                self._messages.note(REGION, entry.address, entry.width, entry.value)
            yield Strand(REGION), entry

    # Interrupts of a vCPU that is not in the monitor are not recorded. The log tells no place of
    # some: then the trace's is taken, which is as many interrupts further on.
    def _interrupt(self, entry: LogEntry) -> Iterator[tuple[Strand, LogEntry]]:
        entry = self._sent_by(entry)
        if not self.territory.interrupts or self._is_firmware():
            return
        if entry.cpu < 0:
            if self.result.marked:
                self.result.overlooked[INTERRUPTS] = self.result.overlooked.get(INTERRUPTS, 0) + 1
            return
        strand = strand_of(INTERRUPTS, entry.cpu)
        if entry.address == UNKNOWN:
            before = self.logged.size(strand)
            here = self.traced.view(strand, before + 1)[before:]
            entry = replace(entry, address=here[0].address if here else 0)
        yield strand, entry

    # Local APICs tell which addresses of messages are theirs.
    def _learn(self, region: str, entry: LogEntry) -> None:
        told = self.territory.offset(region, entry.address), LAPIC, entry.direction
        if Causes.follows("memory", *told):
            self._apics.note(entry.cpu, "memory", *told, entry.width, entry.value)

    # Messages of an interrupt's vector that can be for its vCPU: those on their way, else others.
    def _sent_by(self, entry: LogEntry) -> LogEntry:
        senders, sent = self._senders.get(entry.value, {}), self._sent.get(entry.value, set())
        here = [to for to in senders if self._apics.reaches(entry.cpu, to) is not False]
        due = sent.intersection(here)
        sent -= due
        told = {to: senders[to] for to in due or here}
        names = {name for name, _ in told.values()}
        known = None if None in names else " or ".join(sorted(filter(None, names)))
        messages = frozenset((to, data) for to, (_, data) in told.items())
        return replace(entry, sender=known or None, sent=bool(due), messages=messages)

    # Tells whether firmware ran when the last line was written.
    def _is_firmware(self) -> bool:
        return any(begin < self.log.size <= end for begin, end in self._firmware)
