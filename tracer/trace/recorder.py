"""Keep the last accesses of a run in a trace: a flight recorder, bounded on disk and in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self, get_args

from msgspec.structs import replace

from tracer.compiled.layout import SLOT_SIZE
from tracer.errors import TraceError
from tracer.text.file_error import unwritten
from tracer.trace import codec
from tracer.trace.block import Blocks
from tracer.trace.compiled import BlockRecord, PlacesRecord, SiteRecord
from tracer.trace.marker import ENTRY, PHASE
from tracer.trace.member import Via
from tracer.trace.reader import TraceReader
from tracer.trace.record import (
    End,
    Header,
    Intercept,
    Line,
    LostRecord,
    MapRecord,
    Mark,
    RegionRecord,
    StackRecord,
)
from tracer.trace.writer import TraceWriter, earlier_of

_MOST_REGIONS = 1 << 12


class FlightRecorder:
    """Append lines like a :class:`TraceWriter`, and keep the last accesses only.

    They are in two files: when the one has as many accesses as are wanted, it takes the place of
    the earlier one, and another is begun. Either is a trace of its own, so what a crash leaves is
    readable. With the end of the run they become one, cut to ``last`` accesses.
    """

    def __init__(self, path: Path | str, header: Header, last: int) -> None:
        """Create the file at ``path``; raise :exc:`TraceError` as a :class:`TraceWriter` does."""
        self._header = header
        self._last = last
        self._state = _State()
        self._writer = TraceWriter(path, header)
        self._path = self._writer.path
        self._earlier = earlier_of(self._path)
        self._part = _Part(self._writer, self._state)
        self._before: int | None = None  # accesses in the earlier file, None without one

    def append(self, line: Line) -> None:
        """Write one line; raise :exc:`TraceError` when that fails."""
        if isinstance(line, End):
            self._finish(line)
            return
        if _accesses(line) and self._part.accesses >= self._last:
            self._turn()
        self._state.add(line)
        self._part.append(line)

    def close(self) -> None:
        """Close what is open; a second call does nothing."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _turn(self) -> None:
        self._writer.close()
        _rename(self._path, self._earlier)
        self._before = self._part.accesses
        self._writer = TraceWriter(self._path, self._header)
        self._part = _Part(self._writer, self._state)
        self._part.begin(self._state.seq)

    # Make one of the files, of what is wanted; they stay until that is whole.
    def _finish(self, end: End) -> None:
        surplus = (self._before or 0) + self._part.accesses - self._last
        if self._before is None and surplus <= 0:
            self._writer.append(end)
            return
        self._writer.close()
        files = [self._path] if self._before is None else [self._earlier, self._path]
        whole = earlier_of(self._earlier)
        try:
            with TraceWriter(whole, self._header) as writer:
                _cut(files, surplus, writer, end)
            _rename(whole, self._path)
        except BaseException as error:
            whole.unlink(missing_ok=True)
            if isinstance(error.__cause__, OSError):
                why = unwritten(f"the end of trace {self._path}", error.__cause__)
                there = " and ".join(map(str, files))
                raise TraceError(f"{why}; its last accesses are safe in {there}") from error
            raise
        self._earlier.unlink(missing_ok=True)


def _rename(path: Path, to: Path) -> None:
    try:
        path.replace(to)
    except OSError as error:
        raise TraceError(unwritten(f"trace {to}", error)) from error


class _State:
    # All that a trace must have told before a line of it can be read, and the number of the next
    # access.

    def __init__(self) -> None:
        self.seq = 0
        self.time_ns = 0
        self.stacks: dict[int, StackRecord] = {}
        self._regions: dict[tuple[str, int], RegionRecord] = {}
        self._sites: dict[int, SiteRecord] = {}
        self._others: dict[str, Line] = {}

    def add(self, line: Line) -> None:
        self.time_ns = max(self.time_ns, line.time_ns)
        match line:
            case Intercept() | BlockRecord():
                self.seq = line.seq + _accesses(line)
            case RegionRecord():
                key = line.region.name, line.region.start
                self._regions.pop(key, None)
                self._regions[key] = line
                if len(self._regions) > _MOST_REGIONS:
                    del self._regions[next(iter(self._regions))]
            case SiteRecord():
                self._sites[line.number] = line
            case StackRecord():
                self.stacks[line.id] = line
            case PlacesRecord():
                self._others["places"] = line
            case MapRecord() if line.by.startswith("ioremap"):
                self._others.setdefault("map", line)  # it tells how far the boot has come
            case Mark() if line.text == ENTRY:
                # The log began there, and the accesses do not.
                self._others["entry"] = replace(line, qemu_log_offset=None, qemu_log_from=None)
            case Mark() if line.text.startswith(PHASE):
                self._others["phase"] = line
            case _:
                pass

    def lines(self) -> Iterator[Line]:
        yield from self._regions.values()
        yield from self._others.values()
        yield from self._sites.values()


class _Part:
    # A file, and the accesses that it has. What a line needs of call chains comes before it. The
    # ways in which accesses were made are told where ``blocks`` know the sites.

    def __init__(self, writer: TraceWriter, state: _State, blocks: Blocks | None = None) -> None:
        self.accesses = 0
        self.ways: Counter[str] = Counter()
        self.intercepts = 0
        self._writer = writer
        self._state = state
        self._blocks = blocks
        self._told: set[int] = set()

    def begin(self, seq: int) -> None:
        # Nothing is left out where the first access is the first one.
        for line in self._state.lines():
            self.append(line)
        if seq:
            self.append(LostRecord(time_ns=self._state.time_ns, count=seq, seq=seq))

    def append(self, line: Line) -> None:
        for number in _stacks(line):
            if number not in self._told and number in self._state.stacks:
                self.append(self._state.stacks[number])
        if isinstance(line, StackRecord):
            if line.id in self._told:
                return
            self._told.add(line.id)
        made = _accesses(line)
        if isinstance(line, Intercept):
            self.ways[line.via] += made
            self.intercepts += 1
        elif isinstance(line, BlockRecord) and self._blocks is not None:
            self.ways += self._blocks.ways(line.rows, line.window)
        self.accesses += made
        self._writer.append(line)


def _accesses(line: Line) -> int:
    match line:
        case Intercept():
            return len(line.device_accesses())
        case BlockRecord():
            return line.accesses
        case _:
            return 0


def _stacks(line: Line) -> Iterable[int]:
    match line:
        case Intercept():
            return () if line.stack is None else (line.stack,)
        case BlockRecord():
            return {number for number in line.stacks if number is not None}
        case _:
            return ()


# Write what files have beyond the first accesses, and the end.
def _cut(files: Sequence[Path], surplus: int, writer: TraceWriter, end: End) -> None:
    state, blocks = _State(), Blocks()
    part = _Part(writer, state, blocks)
    begun = False
    for line, _, _ in joined(files):
        if isinstance(line, codec.Unknown):
            continue
        if isinstance(line, LostRecord) and line.seq is not None:
            continue  # another one comes before the first access that is left
        if not isinstance(line, BlockRecord):
            list(blocks.records(line))
        if not begun:
            made = _accesses(line)
            if made <= surplus or not made:
                state.add(line)
                surplus -= made
                continue
            if isinstance(line, BlockRecord) and surplus > 0:
                line = _rest(blocks, line, surplus)
            begun = True
            part.begin(state.seq if not isinstance(line, Intercept | BlockRecord) else line.seq)
        state.add(line)
        part.append(line)
    if not begun:
        part.begin(state.seq)
    counts = {name: part.ways[name] for name in get_args(Via) if name in end.counts}
    told = {"accesses": part.accesses, "intercepts": part.intercepts, **counts}
    writer.append(
        replace(end, counts={**end.counts, **told, "left_out": state.seq - part.accesses})
    )


# Leave out the first rows of a block, which have so many accesses or a few more.
def _rest(blocks: Blocks, block: BlockRecord, surplus: int) -> BlockRecord:
    at = gone = 0
    while gone < surplus:
        row = block.rows[at * SLOT_SIZE : (at + 1) * SLOT_SIZE]
        _, made = blocks.count(row, block.window)
        if gone + made > surplus:
            break
        at, gone = at + 1, gone + made
    return replace(
        block, seq=block.seq + gone, accesses=block.accesses - gone,
        rows=block.rows[at * SLOT_SIZE :], stacks=block.stacks[at:],
    )  # fmt: skip


def joined(files: Sequence[Path]) -> Iterator[tuple[Line | codec.Unknown, bytes, str]]:
    """Yield the lines of files that follow each other: as read, as they are there, their place.

    The later files begin with what is known, which does not come again. Raise :exc:`TraceError`
    where one cannot be read.
    """
    for number, path in enumerate(files):
        known = number > 0
        with TraceReader(path) as trace:
            for at, text in trace.lines():
                with trace.named():
                    line = codec.decode(text, at)
                if not known:
                    yield line, text, f"{trace.name}: line {at}"
                known = known and not (isinstance(line, LostRecord) and line.seq is not None)
