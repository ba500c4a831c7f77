"""Compare a trace with what QEMU itself logged of the same run.

QEMU is an independent witness: it notes what reached a device model, whoever sent it. For each
traced region both sides must tell the same accesses in the same order: direction, physical
address, width and value. Two liberties alone are taken, because QEMU logs an access at the width
of the device model's implementation and not at the width the instruction asked for:

- several ascending narrower entries without a gap may be one access (8 bytes as 2 x 4), and
- one wider entry that contains an access may be that access.

An access that a vCPU made in a native step must have been logged for a vCPU, and its value is
compared where the trace knows it. Writes to ``apic-msi`` that are messages from devices are left
out and counted. Ports, and regions that are not traced, are ignored.

Ref: QEMU 7.2, softmmu/memory.c (access_with_adjusted_size, flatview_read_continue),
hw/intc/apic.c (apic_mem_write: which writes are messages); Intel SDM vol. 3A, 10.11.1 (MSI
address format).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import BinaryIO, Generic, TypeVar

from tracer.comparison import Comparison, Difference, Kind, RegionComparison, TracedAccess
from tracer.qemu_log import LogEntry, entries
from tracer.trace import RELEASED, Intercept, Mark, MemoryAccess, Record, RegionRecord, UserRecord


def compare(
    records: Iterable[Record], log: BinaryIO | Iterable[bytes], keep: int = 10
) -> Comparison:
    """Return how a trace's records agree with the lines of QEMU's log; keep ``keep`` differences.

    The comparison begins at the byte offset that a mark before the first access gives. Without
    one, each region begins at the first place in the log, after the last access agreed on before,
    where its first sixteen traced accesses (or all, if fewer) stand in a row. Both sides are read
    as streams, and memory does not grow with their length.
    """
    return _Matching(iter(records), log, keep).run()


# Agreement over this many accesses in a row is no accident.
_RUN = 4
# The same for the beginning of a region in a log that tells of what came before it, too.
_BEGINNING = 16
# How far to look on either side for the place where they agree again.
_HORIZON = 64
# How many accesses or entries one side may run ahead of the other, over all regions.
_AHEAD = 1 << 16

_T = TypeVar("_T")


# One side, read in its own order and queued by region; `pending` names the regions with something
# in their queues.
class _Side(Generic[_T]):
    def __init__(self, source: Iterator[tuple[str, _T]]) -> None:
        self.source = source
        self.queues: defaultdict[str, deque[_T]] = defaultdict(deque)
        self.pending: set[str] = set()
        self.held = 0

    def fetch(self) -> bool:
        for region, item in self.source:
            self.queues[region].append(item)
            self.pending.add(region)
            self.held += 1
            return True
        return False

    def fill(self, region: str, count: int) -> bool:
        queue = self.queues[region]
        while len(queue) < count and self.held < _AHEAD and self.fetch():
            pass
        return len(queue) >= count

    def peek(self, region: str, count: int) -> list[_T]:
        self.fill(region, count)
        return list(islice(self.queues[region], count))

    def take(self, region: str, count: int = 1) -> list[_T]:
        queue = self.queues[region]
        taken = [queue.popleft() for _ in range(min(count, len(queue)))]
        self.held -= len(taken)
        if not queue:
            self.pending.discard(region)
        return taken


class _Matching:
    def __init__(
        self, records: Iterator[Record], log: BinaryIO | Iterable[bytes], keep: int
    ) -> None:
        self.result = Comparison()
        self.keep = keep
        self.map = _RegionMap()
        self.offset: int | None = None
        self.traced = _Side(self._accesses(records))
        self.logged = _Side(self._entries(log))
        self.aligned: set[str] = set()
        self.released = False
        self.last_seq: dict[str, int] = {}
        self.last_line = 0

    def run(self) -> Comparison:
        while self.traced.fetch():
            while pending := self.traced.pending:
                self._judge(min(pending, key=lambda region: self.traced.queues[region][0].seq))
        self._drain()
        self._leave_out_switched()
        return self.result

    # Of a region that was not traced all the time, the log has more than the trace.
    def _leave_out_switched(self) -> None:
        result = self.result
        result.switched = sorted(self.map.switched)
        for name in self.map.switched:
            result.regions.pop(name, None)
        kept = (d for d in result.differences if d.region not in self.map.switched)
        result.differences = list(kept)

    def _accesses(self, records: Iterator[Record]) -> Iterator[tuple[str, TracedAccess]]:
        begun = False
        last = 0
        for record in records:
            match record:
                case RegionRecord():
                    self.map.add(record)
                    if record.region.traced:
                        self.result.regions.setdefault(record.region.name, RegionComparison())
                case Mark() if not begun and self.offset is None:
                    self.offset = record.qemu_log_offset
                    self.result.marked = self.offset is not None
                case Intercept():
                    begun = True
                    for region, access in _traced_accesses(record):
                        self._count(region).traced += 1
                        last = access.seq
                        yield region, access
                case UserRecord():
                    self.released = self.released or record.text == RELEASED
                    for made in record.accesses:
                        self._count(made.region or "").traced += 1
                        yield made.region or "", _traced_access(made, last, "user", record.text)
                case _:
                    pass

    # Only asked for its first entry after the first access was read, so the offset is settled.
    def _entries(self, log: BinaryIO | Iterable[bytes]) -> Iterator[tuple[str, LogEntry]]:
        for entry in entries(log, self.offset or 0):
            self.result.entries += 1
            if entry.refused:
                placed = self.map.place(entry)
                if placed is None:
                    continue
                entry = placed
            region = self.map.find(entry)
            if region is None:
                continue
            if is_message(entry):
                self.result.messages += 1
                continue
            yield region, entry

    def _count(self, region: str) -> RegionComparison:
        return self.result.regions.setdefault(region, RegionComparison())

    # Judge the first traced access of a region, and others as far as that takes.
    def _judge(self, region: str) -> None:
        if not self.result.marked and region not in self.aligned:
            self._align(region)
            return
        self._make_room()
        entries_used = self._match_first(region)
        if entries_used:
            self._agree(region, entries_used)
        elif self.logged.queues[region]:
            self._resync(region)
        else:
            self._differ("extra", region, self.traced.take(region)[0], ())

    # How many log entries are the first traced access, or 0.
    def _match_first(self, region: str) -> int:
        access = self.traced.queues[region][0]
        wanted = 1
        while True:
            logged = self.logged.peek(region, wanted)
            used, same = fit(access, logged)
            if used <= len(logged):
                return used if same else 0
            if len(logged) < wanted:
                return 0
            wanted += 1

    def _agree(self, region: str, entries_used: int) -> None:
        (access,) = self.traced.take(region)
        self.last_seq[region] = access.seq
        self.last_line = self.logged.take(region, entries_used)[-1].line
        self._count(region).witnessed += 1

    # Skip as little as possible on both sides to where they agree again.
    def _resync(self, region: str) -> None:
        traced = self.traced.peek(region, _HORIZON + _RUN)
        logged = self.logged.peek(region, _HORIZON + 2 * _RUN)
        best = (0, len(traced[:_HORIZON]), len(logged[:_HORIZON]))
        for skipped in range(1, _HORIZON + 1):
            for i in range(min(skipped, len(traced)) + 1):
                j = skipped - i
                if j <= len(logged):
                    best = max(best, (_run(traced[i:], logged[j:]), i, j), key=lambda b: b[0])
            if best[0]:
                break
        self._skip(region, best[1], best[2])

    # Pair what is skipped; what is left over on one side is extra or missing.
    def _skip(self, region: str, accesses: int, logged: int) -> None:
        queue = deque(self.logged.take(region, logged))
        for access in self.traced.take(region, accesses):
            used, same = fit(access, list(islice(queue, 2 * _RUN)))
            used = used if 0 < used <= len(queue) else min(1, len(queue))
            pair = tuple(queue.popleft() for _ in range(used))
            if pair and same:
                self._count(region).witnessed += 1
            else:
                self._differ("different" if pair else "extra", region, access, pair)
        for entry in queue:
            self._differ("missing", region, None, (entry,))

    # Find where a region's accesses begin, without a mark: after the last access agreed on.
    def _align(self, region: str) -> None:
        traced = self.traced.peek(region, _HORIZON + _RUN)
        needed = min(_BEGINNING, len(traced))
        first_of_all = not self.aligned
        while queue := self.logged.queues[region]:
            if queue[0].line > self.last_line:
                break
            self.logged.take(region)
        while True:
            logged = self.logged.peek(region, _HORIZON)
            for skipped in range(min(len(traced) - needed, len(logged), _BEGINNING) + 1):
                if _run(traced[skipped:], logged[skipped:], needed):
                    self.aligned.add(region)
                    self._skip(region, skipped, skipped)
                    return
            # Before anything is aligned the log may be long: forget what is oldest.
            if first_of_all and self.logged.held >= _AHEAD:
                for other, queue in self.logged.queues.items():
                    self.logged.take(other, len(queue) // 2 if other != region else 0)
            if not self.logged.take(region):
                self.aligned.add(region)
                return

    # What the log told of other regions before the last access agreed on will not be asked for
    # any more: the trace lacks it.
    def _make_room(self) -> None:
        if self.logged.held < _AHEAD:
            return
        for region, queue in self.logged.queues.items():
            if self.traced.queues[region]:
                continue
            while queue and queue[0].line < self.last_line:
                (entry,) = self.logged.take(region)
                if self.result.marked or region in self.aligned:
                    self._differ("missing", region, None, (entry,))

    def _drain(self) -> None:
        # What a guest did after it was let go was not traced.
        while not self.released:
            for region in self.logged.queues:
                for entry in self.logged.take(region, len(self.logged.queues[region])):
                    if self.result.marked or region in self.aligned:
                        self._differ("missing", region, None, (entry,))
            if not self.logged.fetch():
                return

    def _differ(
        self, kind: Kind, region: str, access: TracedAccess | None, logged: tuple[LogEntry, ...]
    ) -> None:
        count = self._count(region)
        match kind:
            case "missing":
                count.missing += 1
                count.witnessed += 1
            case "extra":
                count.extra += 1
            case "different":
                count.different += 1
                count.witnessed += 1
        if len(self.result.differences) < self.keep:
            self.result.differences.append(
                Difference(kind, region, access, logged, self.last_seq.get(region))
            )


def fit(access: TracedAccess, logged: Sequence[LogEntry]) -> tuple[int, bool]:
    """Return how many of the first log entries are ``access``, and whether the values agree.

    The count is 0 when direction, address, width or the kind of CPU rule it out, and one more
    than there are entries when what is there fits so far and more would be needed.
    """
    value, cursor, last = 0, access.address, access.address + access.width
    for used, entry in enumerate(logged, 1):
        if entry.direction != access.direction:
            return 0, False
        if entry.refused:
            same = used == 1 and (entry.address, entry.width) == (access.address, access.width)
            return int(same), same and (access.direction == "write" or not access.value)
        if access.stepped and entry.cpu < 0:
            return 0, False
        end = entry.address + entry.width
        if used == 1 and entry.address <= cursor and end >= last:
            value = entry.value >> 8 * (cursor - entry.address)
            cursor = last
        elif entry.address == cursor and end <= last:
            value |= entry.value << 8 * (cursor - access.address)
            cursor = end
        else:
            return 0, False
        if cursor == last:
            value &= (1 << 8 * access.width) - 1
            return used, access.value is None or value == access.value
    return len(logged) + 1, False


# How long both sides agree from here on, at most _HORIZON; 0 when that is shorter than it must be,
# unless both sides end there.
def _run(traced: Sequence[TracedAccess], logged: Sequence[LogEntry], needed: int = _RUN) -> int:
    position = 0
    for count, access in enumerate(traced):
        used, same = fit(access, logged[position : position + 2 * _RUN])
        if not same or position + used > len(logged):
            return count if count >= needed else 0
        position += used
    ended = position == len(logged)
    return len(traced) if ended or len(traced) >= needed else 0


# Regions in which IOMMUs take the messages that they remap.
_REMAPPED = frozenset({"vtd-ir", "amd_iommu_ir", "amdvi-ir"})


def is_message(entry: LogEntry) -> bool:
    """Tell whether an entry is a message-signalled interrupt on its way to a local APIC.

    Devices send them as writes to 0xfeexxxxx. In the page of the local APIC's own registers the
    first sixteen bytes are reserved, so nothing but a message is written there; and beyond that
    page nothing but messages goes. One that an IOMMU remaps goes to the IOMMU's own region, in an
    address space that no vCPU sees (QEMU hw/i386/intel_iommu.c, amd_iommu.c).
    """
    if entry.direction != "write":
        return False
    if entry.name in _REMAPPED:
        return True
    return entry.name == "apic-msi" and (
        entry.address & 0xFFF < 0x10 or entry.address >= 0xFEE01000
    )


def _traced_accesses(record: Intercept) -> Iterator[tuple[str, TracedAccess]]:
    site = record.symbol or record.rip
    for seq, access in record.device_accesses():
        if not access.skipped:
            traced = _traced_access(access, seq, site, record.text, record.via == "stepped")
            yield access.region or "", traced


def _traced_access(
    access: MemoryAccess, seq: int, site: str, text: str, stepped: bool = False
) -> TracedAccess:
    value = access.device or access.value
    return TracedAccess(
        seq=seq,
        site=site,
        text=text,
        stepped=stepped,
        direction=access.direction,
        address=int(access.physical, 16),
        width=access.width,
        value=None if value is None else int(value, 16),
    )


# Which region a physical address belongs to. A region that moved keeps its old place as well, as
# the log is read ahead of the trace; of several places the one whose name the log tells counts,
# then the one announced last.
class _RegionMap:
    def __init__(self) -> None:
        self.places: list[tuple[int, int, str, str | None]] = []
        self.known: dict[tuple[int, str], str | None] = {}
        self.switched: set[str] = set()
        self._traced: dict[tuple[str, str], bool] = {}

    def add(self, record: RegionRecord) -> None:
        region = record.region
        key = region.name, region.start
        if self._traced.setdefault(key, region.traced) != region.traced:
            self.switched.add(region.name)
        self.places.insert(
            0,
            (
                int(region.start, 16),
                int(region.end, 16),
                region.qemu_name,
                region.name if region.traced else None,
            ),
        )
        self.known.clear()

    # A refused access at its physical address, or None when the name fits no region or several.
    def place(self, entry: LogEntry) -> LogEntry | None:
        bases = {start for start, _, name, _ in self.places if name == entry.name}
        if len(bases) != 1:
            return None
        return replace(entry, address=bases.pop() + entry.address)

    # The name of the traced region, or None.
    def find(self, entry: LogEntry) -> str | None:
        key = entry.address, entry.name
        if key not in self.known:
            if len(self.known) > _AHEAD:
                self.known.clear()
            self.known[key] = self._find(entry)
        return self.known[key]

    def _find(self, entry: LogEntry) -> str | None:
        here = [place for place in self.places if place[0] <= entry.address <= place[1]]
        named = [place for place in here if place[2] == entry.name]
        return next((place[3] for place in named or here), None)
