"""A look at the loop around a read that a guest makes again and again: what does it wait for?

Polls are followed as records come. One that goes on for a while has its next turn made by a stop,
where registers, stack and code are those of the read. So the loop is found in whichever caller it
is, and the guest is held up once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from tracer.access.region import Region, RegionMap
from tracer.access.space import AddressSpace
from tracer.access.transfer import Transfer, located
from tracer.compiled.flagging import NO_INPUTS, flag_of_msr, flagged
from tracer.devices.map import Named
from tracer.errors import TraceError
from tracer.intercept.journal import Journal
from tracer.intercept.names import Names
from tracer.intercept.queue.doorbell import Doorbells
from tracer.intercept.queue.told import Rung
from tracer.intercept.view import GuestView
from tracer.trace.antecedents import places_of
from tracer.trace.bars import Bars
from tracer.trace.block import Blocks
from tracer.trace.compiled import BlockRecord
from tracer.trace.configuration import DATA
from tracer.trace.member import Space
from tracer.trace.messages import functions, table_owners
from tracer.trace.naming import Naming
from tracer.trace.poll import Place, Poll
from tracer.trace.polls import Polls
from tracer.trace.queue import QueueRecord
from tracer.trace.record import Intercept, Line, MemoryAccess, RegionRecord
from tracer.trace.waiting import WaitRecord, WayOut
from tracer.x86.poll import Exit, loop_of
from tracer.x86.state import GPR, Mode

_MOST_LOOKS = 256
"""Places that are looked at in one run."""

_FLAGS: Mapping[Space, Callable[[int], int]] = {
    "port": lambda port: port,
    "config": lambda address: DATA[address & 3],
    "msr": flag_of_msr,
}
"""The bit of an input by its address, of the spaces whose reads are looked at."""

_WHOLE, _HEAD, _TAIL = 128, 16, 48
"""Rows of a block that are taken one by one: all of so many; else the first and the last."""


class Lookout:
    """Follow the polls of one guest, and look at those that last; ``naming`` knows clocks."""

    def __init__(
        self, view: GuestView, names: Names, journal: Journal, naming: Naming | None = None
    ) -> None:
        self.naming = naming
        self.polls = Polls()
        self._view = view
        self._names = names
        self._journal = journal
        self._blocks = Blocks()
        self.doorbells: Doorbells | None = None
        self._follows: Naming | None = None
        self._tells = False
        self._bars = Bars()
        self._late: list[QueueRecord] = []
        self._ports: Sequence[Region] = ()
        self._places: tuple[RegionMap | None, list[range]] = None, []
        self._ringing = NO_INPUTS
        self._early: dict[tuple[str | None, int | None], Rung] = {}
        self._looks: Counter[Place] = Counter()
        self._wanted: dict[Place, tuple[Space, int]] = {}

    def follow_queues(self, naming: Naming, *, tell: bool) -> None:
        """Follow the queues of devices, and ``tell`` what each doorbell was about.

        To be called before regions are announced.
        """
        self._follows = Naming(naming.maps)
        self._tells = tell
        self.doorbells = Doorbells(self._follows, self._view.memory.read, lambda: self._view.shared)

    # ---- what comes in

    def take(self, line: Line) -> None:
        """Take the next line of the run: it is a scribe."""
        if isinstance(line, RegionRecord) and self.naming is not None:
            self.naming.learn(line)
        if isinstance(line, RegionRecord) and self._follows is not None:
            self._follows.learn(line)
        if isinstance(line, BlockRecord):
            try:
                self._take_block(line)
            except TraceError:
                self.polls = Polls()  # whoever takes the block tells of it
            return
        for record in self._blocks.records(line):
            self.polls.add(record)
            if isinstance(record, Intercept):
                self._follow(record, late=record.via == "monitor" and not self._is_early(record))

    def _follow(self, record: Intercept, *, late: bool = False) -> None:
        # Takes what an access tells of queues. Of one that took no stop, its doorbell is read now.
        if self._follows is None or self.doorbells is None:
            return
        for seq, access in record.device_accesses():
            self._bars.note(access)
            named = self._follows.add(access)
            self.doorbells.learn(access, named)
            if self._tells:
                # An interrupt takes no stop.
                after = late or access.space == "irq"
                for device in self._interrupting(access, named, record.cause):
                    done = self.doorbells.completed(device)
                    self._late += [each.record(record, seq, late=after) for each in done]
            if late:
                told = self.doorbells.rung(record, seq, access, named, late=True)
                if told is not None and self._tells:
                    self._late.append(told)

    def _interrupting(
        self, access: MemoryAccess, named: Named | None, cause: str | None
    ) -> list[str]:
        # Returns the devices that have interrupted, as an interrupt's cause tells, or what a
        # driver reads.
        if access.space == "irq":
            return [*table_owners(cause or ""), *self._by_capability(cause or "")]
        if named is None or not named.tells_interrupts or access.direction != "read":
            return []
        assert self._follows is not None
        return [self._follows.device_of(access.region or "")] if access.value else []

    def _by_capability(self, cause: str) -> Iterator[str]:
        # Yields the devices that have sent an interrupt by their MSI capability: each is that
        # which answers where the guest has put the function's registers.
        for function in functions(cause):
            found = (self._view.regions.find(at) for at in self._bars.memory(function))
            region = next((each for each in found if each is not None), None)
            if region is not None:
                yield region.device

    def _is_early(self, record: Intercept) -> bool:
        # Tells whether its doorbell has been read before it was rung.
        places = ((access.region, access.offset) for access in record.accesses)
        return bool(self._early) and any(place in self._early for place in places)

    def settle(self) -> None:
        """Publish what was read late of queues, behind the accesses that it is of."""
        late, self._late = self._late, []
        for told in late:
            self._journal.publish(told)

    def places(self, regions: RegionMap) -> list[range]:
        """Return the physical addresses of doorbells, whose accesses are to take stops."""
        if self.doorbells is None or not self._tells:
            return []
        if self._places[0] is not regions:
            self._places = (
                regions,
                [
                    range(region.base + part.start, region.base + part.stop)
                    for region in regions.regions
                    if regions.is_traced_region(region)
                    for part in self.doorbells.doorbells(region.name, region.end - region.base + 1)
                ],
            )
        return self._places[1]

    @property
    def tells_queues(self) -> bool:
        """Tell whether doorbells are told of."""
        return self._tells

    def inputs(self, regions: RegionMap) -> int:
        """Return the set of the ports that are doorbells, and of inputs that are looked at.

        These are to take stops.
        """
        if self.doorbells is None or not self._tells:
            return self.due_inputs()
        if regions.ports is not self._ports:
            self._ports = regions.ports
            self._ringing = flagged(
                port
                for region in regions.ports
                for part in self.doorbells.doorbells(region.name, region.end - region.base + 1)
                for port in range(region.base + part.start, region.base + part.stop)
            )
        return self._ringing | self.due_inputs()

    def _take_block(self, block: BlockRecord) -> None:
        places = places_of(block.rows)
        count = len(places)
        if count > _WHOLE and self._view.vcpus == 1 and self.doorbells is None:
            tail = Counter(places[-_TAIL:])
            middle = Counter(places[_HEAD:-_TAIL])
            if middle.keys() <= tail.keys():
                kinds: dict[tuple[int, int, int], list[Place]] = {}
                rows = range(count - _TAIL, count)
                made = list(self._blocks.rows(block, rows))
                # A write may part what waits, or come of what it read: such are taken one by one.
                if all(_reads(record) for records in made for record in records):
                    self._add(self._blocks.rows(block, range(_HEAD)))
                    for at, records in zip(rows, made, strict=True):
                        kinds[places[at]] = [place for it in records for place in _places(it)]
                    more: Counter[Place] = Counter()
                    for kind, times in middle.items():
                        more.update(dict.fromkeys(kinds[kind], times))
                    self.polls.repeat(more, 0)
                    self._add(iter(made))
                    return
        seen = self._blocks.seen(block) if self.doorbells is None else None
        if seen is not None:
            for each in seen:
                self.polls.see(*each)
            return
        for record in self._blocks.records(block):
            self.polls.add(record)
            if isinstance(record, Intercept):
                self._follow(record, late=True)

    def _add(self, rows: Iterator[list[Intercept]]) -> None:
        for records in rows:
            for record in records:
                self.polls.add(record)

    # ---- who is to be looked at

    def due(self) -> list[int]:
        """Return the physical addresses whose next read is to take a stop."""
        return [physical for space, physical in self._due() if space == "memory"]

    def due_inputs(self) -> int:
        """Return the set of the inputs whose next read is to take a stop."""
        flags = {_FLAGS[space](at) for space, at in self._due() if space in _FLAGS}
        return flagged(flags) if flags else NO_INPUTS

    def _due(self) -> list[tuple[Space, int]]:
        if self._looks.total() >= _MOST_LOOKS:
            return []
        for poll in (*self.polls.waiting(), *self.polls.parted()):
            if not poll.lasts or self._is_looked_at(poll.place):
                continue
            if not self._is_clock(poll):
                self._wanted[poll.place] = poll.space, poll.physical
        return list(self._wanted.values())

    def _is_looked_at(self, place: Place) -> bool:
        # A loop that was found may turn out to be another one than that which goes on.
        return self._looks[place] > self.polls.doubts.get(place, 0)

    def named(self, poll: Poll) -> Named | None:
        """Return what a poll's register is called, None where it has no name."""
        if self.naming is None:
            return None
        return self.naming.name(poll.region, poll.offset, poll.width)

    def _is_clock(self, poll: Poll) -> bool:
        return not poll.may_wait(self.named(poll))

    def waiting(self) -> list[Poll]:
        """Return the polls that go on now, without those of clocks, the longest first."""
        found = self.polls.waiting(self._view.time_ns)
        return [poll for poll in found if not self._is_clock(poll)]

    # ---- the look

    def behind(self, record: Intercept, space: AddressSpace) -> None:
        """Look at the loop around an access that was made just now; the guest stands there."""
        self._ring(record)
        if len(record.before) < len(GPR):
            return
        for seq, access in record.device_accesses():
            place = access.region or "", access.offset or 0, record.rip
            if access.direction != "read" or self._is_looked_at(place):
                continue
            if place not in self._wanted and not self._lasts(place):
                continue
            self._wanted.pop(place, None)
            self._looks[place] += 1
            linear = access.linear if access.space == "memory" else record.rip
            told = self._told(record, seq, place, linear, access.width, space)
            # Reads that others part are told of only where they wait.
            if told.awaited or self._lasts(place):
                self._journal.publish(told)

    def rings(self, transfer: Transfer) -> bool:
        """Tell whether a transfer rings a doorbell."""
        if self.doorbells is None or self._follows is None or transfer.direction != "write":
            return False
        region, offset = located(transfer)
        named = self._follows.name(region, offset, transfer.span)
        return self.doorbells.bell(region, named) is not None

    def before(self, transfers: Sequence[Transfer]) -> None:
        """Read what doorbells are about before they are rung: a device may take it at once."""
        if self.doorbells is None or self._follows is None:
            return
        for transfer in transfers:
            if not transfer.traced or transfer.direction != "write" or transfer.value is None:
                continue
            region, offset = located(transfer)
            named = self._follows.name(region, offset, transfer.span)
            found = self.doorbells.look(region, transfer.value, named)
            if found is not None:
                self._early[region, offset] = found

    def ahead(self, record: Intercept, seq: int, access: MemoryAccess) -> list[QueueRecord]:
        """Return what a doorbell that is about to be rung tells, or a device that interrupts."""
        if self.doorbells is None or self._follows is None or access.region is None:
            return []
        if access.space == "irq":
            cause, _ = self._blocks.message(record.vcpu, access.physical)
            ahead = self.doorbells.copy()
            devices = self._interrupting(access, None, cause)
            done = (each for device in devices for each in ahead.completed(device))
            return [each.record(record, seq) for each in done]
        named = self._follows.name(access.region, access.offset or 0, access.span)
        told = self.doorbells.ahead(record, seq, access, named)
        return [] if told is None else [told]

    def _ring(self, record: Intercept) -> None:
        if self.doorbells is None or self._follows is None:
            return
        for seq, access in record.device_accesses():
            if access.region is None or access.offset is None or access.skipped:
                continue
            early = self._early.pop((access.region, access.offset), None)
            if early is not None:
                told: QueueRecord | None = early.record(record, seq)
            else:
                named = self._follows.name(access.region, access.offset, access.span)
                told = self.doorbells.rung(record, seq, access, named)
            if told is not None and self._tells:
                self._journal.publish(told)

    def _lasts(self, place: Place) -> bool:
        return any(
            poll.place == place and poll.lasts and not self._is_clock(poll)
            for poll in self.polls.open()
        )

    def _told(
        self, record: Intercept, seq: int, place: Place, linear: int, width: int,
        space: AddressSpace,
    ) -> WaitRecord:  # fmt: skip
        gpr = [record.before[name] for name in GPR]

        def name(at: int) -> str | None:
            told = self._names.lookup(at, space)
            return told and told.removesuffix("+0x0")

        named = None if self.naming is None else self.naming.name(place[0], place[1], width)
        found = loop_of(record.rip, gpr, linear, space.read, name, Mode(record.mode))
        return WaitRecord(
            time_ns=record.time_ns,
            seq=seq,
            vcpu=record.vcpu,
            rip=record.rip,
            symbol=record.symbol,
            region=place[0],
            offset=place[1],
            width=width,
            register=None if named is None else named.text,
            head=None if found is None else found.head,
            loop=None if found is None else name(found.head),
            awaited=[]
            if found is None
            else [_way_out(each, name, named) for each in found.awaited],
            gives_up=[] if found is None else [_way_out(each, name) for each in found.gives_up],
        )


def _way_out(exit: Exit, name: Callable[[int], str | None], named: Named | None = None) -> WayOut:
    way = exit.way
    bits = "" if way is None or named is None or not way.mask else named.bits(way.mask, way.value)
    return WayOut(
        rip=exit.linear,
        symbol=name(exit.linear),
        mask=None if way is None else way.mask,
        value=None if way is None else way.value or None,
        other=way is not None and not way.equal,
        said=exit.said or bits or None,
    )


def _reads(record: Intercept) -> bool:
    return all(access.direction == "read" for _, access in record.device_accesses())


def _places(record: Intercept) -> Iterator[Place]:
    for _, access in record.device_accesses():
        yield access.region or "", access.offset or 0, record.rip
