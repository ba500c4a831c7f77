"""Traces on disk: written, read, filtered, replayed and compared, and how that grows."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from scripts.benchmark.result import Result
from scripts.benchmark.yardstick import laps
from tracer.check.diff import Differ, compare
from tracer.check.replay import Replay
from tracer.devices import library
from tracer.errors import TraceError
from tracer.query.facts import Recorded
from tracer.query.sieve import Sieve
from tracer.query.source import Source
from tracer.query.tally import Counted, parse_tally
from tracer.query.words import choose
from tracer.trace.event import Event, events_of
from tracer.trace.reader import TraceReader
from tracer.trace.record import FORMAT_VERSION, End, Header, Intercept, MemoryAccess
from tracer.trace.writer import TraceWriter
from tracer.x86.state import GPR

REPLAY_LIMIT = 6.0
"""Laps of the yardstick that replaying a record may take."""

_LAPS = 10_000
_SIZES = (10**4, 10**5, 10**6)
_BASE = 0xFFFFC90000034000
_REGISTERS = 64  # that the made-up device has, and values they take


def speed_of_traces() -> Result:
    """Measure records a second for write, read, filter, replay and diff, at three sizes."""
    rates: dict[str, list[float]] = {}
    laps_each: dict[str, list[float]] = {"replay": [], "tally": []}
    with tempfile.TemporaryDirectory(prefix="bench-of-vetrace-") as name:
        for size in _SIZES:
            path = Path(name) / f"{size}.vtrace.zst"
            for step, work in _steps(path, size):
                lap = laps(time.process_time, _LAPS)
                begun = time.process_time()
                work()
                seconds = (time.process_time() - begun) / size
                rates.setdefault(step, []).append(1 / seconds)
                if step in laps_each:
                    around = lap + laps(time.process_time, _LAPS)
                    laps_each[step].append(2 * seconds / around)
            path.unlink()
    rows = [("records", "".join(f"{size:>14,}" for size in _SIZES))]
    for step, figures in rates.items():
        rows.append((f"{step}, a second", "".join(f"{rate:>14,.0f}" for rate in figures)))
    replayed, tallied = (
        "".join(f"{each:>14.2f}" for each in laps_each[step]) for step in ("replay", "tally")
    )
    rows.append(("a record replayed : a lap", f"{replayed}   (limit {REPLAY_LIMIT:.0f})"))
    rows.append(("a record tallied : a lap", tallied))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows.append(("peak memory", f"{peak:,.0f} MiB"))
    return Result(
        "Made-up compressed traces, one access a record: written record by record, read, made into"
        " events with registers and phases, filtered by region, offset and value, replayed on one"
        " core, counted by register and function, and compared with themselves (both readings"
        " included). Seconds are of processor time. The limit is in laps of a fixed piece of plain"
        " Python, run before and after the replay.",
        tuple(rows),
        kept=max(laps_each["replay"]) <= REPLAY_LIMIT,
    )


def _steps(path: Path, size: int) -> Iterator[tuple[str, Callable[[], None]]]:
    yield "write", lambda: write(path, size)
    yield "read", lambda: _read(path, size)
    yield "events", lambda: _make_events(path, size)
    yield "filter", lambda: _filter(path)
    yield "replay", lambda: _replay(path)
    yield "tally", lambda: _tally(path, size)
    yield "diff", lambda: _diff(path)


def write(path: Path, size: int) -> None:
    """Write a trace of so many records, record by record."""
    shapes = [made_up(number) for number in range(_REGISTERS)]
    with TraceWriter(path, bench_header()) as trace:
        for seq in range(size):
            # Any order will do that does not repeat soon.
            shape = shapes[seq * seq // 7 % _REGISTERS]
            trace.append(msgspec.structs.replace(shape, seq=seq, time_ns=1000 * seq))
        trace.append(End(time_ns=1000 * size, outcome="poweroff", counts={"accesses": size}))


def bench_header() -> Header:
    """Return the header of a trace of no guest."""
    return Header(
        version=FORMAT_VERSION, tool="scripts/bench", created="", clock="icount", kernel="",
        kernel_sha256="", command_line="", memory=0, vcpus=1, qemu="", gdb="", qemu_args=[],
    )  # fmt: skip


def made_up(number: int) -> Intercept:
    """Return a record of ``mov eax, [rax + 0x1c]``, of a device with 64 registers."""
    offset = 0x1C + 4 * number
    before = {"rflags": 0x246, **{name: _BASE + 8 * n for n, name in enumerate(GPR)}}
    value = 0xABCD00 + number
    return Intercept(
        seq=0, time_ns=0, vcpu=0, cpl=0, mode=64, rip=0xFFFFFFFF8160A31E,
        symbol="nvme_pci_enable+0x5e", code=b"\x8b\x40\x1c",
        text="mov eax, dword ptr [rax + 0x1c]",
        cr2=_BASE + offset, error_code=0x8, via="emulated",
        accesses=[
            MemoryAccess(
                direction="read", width=4, linear=_BASE + offset,
                physical=0xFEBF0000 + offset, value=value, region="nvme", offset=offset,
            )
        ],
        before=before | {"rax": _BASE + 4 * number},
        after={"rip": 0xFFFFFFFF8160A321, "rax": value},
    )  # fmt: skip


def _read(path: Path, size: int) -> None:
    with TraceReader(path) as trace:
        found = sum(1 for _ in trace)
    if found != size + 1:
        raise TraceError(f"{found} records read of {size + 1} written")


def _make_events(path: Path, size: int) -> None:
    with TraceReader(path) as trace:
        found = sum(1 for _ in Source(trace, choose(), library.load()).events())
    if found != size:
        raise TraceError(f"{found} events made of {size} accesses")


def _filter(path: Path) -> None:
    sieve = Sieve(choose(region="nvme*", value="1/0xf"))
    with TraceReader(path) as trace:
        if not sum(len(sieve.wanted(record)) for record in trace):
            raise TraceError("the filter let nothing pass")


def _tally(path: Path, size: int) -> None:
    counted = Counted(parse_tally("count by register, function"))
    with TraceReader(path) as trace:
        source = Source(trace, choose(), library.load())
        facts = Recorded(source.course)
        for _, events, times in source.kinds():
            for event in events:
                counted.add(facts.at(event.record, event.access, event.seq, event.named), times)
    if counted.accesses != size:
        raise TraceError(f"{counted.accesses} accesses tallied of {size}")


def _replay(path: Path) -> None:
    replay = Replay()
    with TraceReader(path) as trace:
        if any(replay.add(record) for record in trace):
            raise TraceError("the replay diverged")


def _diff(path: Path) -> None:
    differ = Differ()
    sides = []
    for _ in range(2):
        with TraceReader(path) as trace:
            sides.append(differ.read(_events(trace)))
    if not compare("nvme", sides[0]["nvme"], sides[1]["nvme"]).agrees:
        raise TraceError("a trace differs from itself")


def _events(trace: TraceReader) -> Iterator[Event]:
    for record in trace:
        yield from events_of(record)
