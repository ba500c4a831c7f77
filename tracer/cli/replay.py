"""Carry out every recorded access again, without a guest, and compare."""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import signal
import sys
from collections import Counter, deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, get_args

import msgspec

from tracer.check.divergence import Divergence, out_of_turn
from tracer.check.lines import divergence_lines
from tracer.check.replay import Counts, Replay
from tracer.cli import EXIT_MISMATCH, EXIT_OK, terminal
from tracer.cli.parser import count
from tracer.errors import UsageError
from tracer.host.streams import warn
from tracer.text.amount import counted
from tracer.trace import codec
from tracer.trace.block import Blocks
from tracer.trace.member import Via
from tracer.trace.reader import TraceReader
from tracer.trace.record import End, Intercept, Record

_CHUNK = 2000  # records: some 50 ms of work for one process
_EARLIER = tuple(b'{"type":"%s"' % kind for kind in (b"region", b"user", b"site", b"places"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vetrace replay``."""
    parser.add_argument("trace", metavar="TRACE", help="a trace written by `vetrace boot`")
    parser.add_argument(
        "--jobs",
        "-j",
        metavar="N",
        type=count,
        default=1,
        help="use N processes (default 1)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = (
        "Each record's instruction is decoded and emulated again from the registers before it,"
        " with the recorded values for what it reads. Registers, flags, length and accesses must"
        " come out the same. Exit status 3 tells that one does not, or that there was none."
    )


def run(args: argparse.Namespace) -> int:
    """Replay the trace up to the first divergence; return the exit status."""
    if args.jobs < 1:
        raise UsageError(f"--jobs {args.jobs}: give a number of processes from 1 on")
    counts, divergence, due = Counts(), None, 0
    ways: Counter[str] = Counter()
    with TraceReader(args.trace) as trace:
        parts = _in_turn(trace) if args.jobs == 1 else _in_parallel(trace, args.jobs)
        with contextlib.closing(parts), terminal.progress(sys.stderr, "replaying") as advance:
            for part in parts:
                counts.add(part.counts)
                divergence = part.divergence
                ways += part.ways
                due = due if part.next_seq is None else part.next_seq
                if divergence is not None:
                    break
                advance(trace.progress())
    miscounted = None if divergence is not None else _miscounted(trace.end, ways)
    if args.json:
        print(msgspec.json.encode(_object(counts, divergence, miscounted, trace)).decode())
    else:
        _print(counts, divergence)
    terminal.warn_of_losses(trace)
    if miscounted is not None:
        warn(f"{trace.name}: {miscounted}")
    if not counts.replayed and divergence is None:
        warn(f"nothing was replayed: {trace.name} has no emulated access")
    agrees = divergence is None and miscounted is None and counts.replayed > 0
    return EXIT_OK if agrees else EXIT_MISMATCH


# The end record's own counts tell of records that were taken out before it, or told otherwise.
def _miscounted(end: End | None, ways: Counter[str]) -> str | None:
    found = {"accesses": ways.total()} | {name: ways[name] for name in get_args(Via)}
    for name, number in found.items():
        told = end.counts.get(name, number) if end is not None else number
        if told != number:
            return f"its end record counts {name} {told}, but it has {number}"
    return None


@dataclass(frozen=True, slots=True)
class _Part:
    # The result of some records in a row, the first of them, and the number due after the last.
    counts: Counts
    divergence: Divergence | None
    first: Intercept | None
    next_seq: int | None
    ways: Counter[str]
    unknown: Counter[str]
    left_out: bool


def _in_turn(trace: TraceReader) -> Generator[_Part, None, None]:
    replay, records = Replay(vcpus=trace.header.vcpus, next_seq=0), iter(trace)
    while True:
        replay.counts, replay.ways = Counts(), Counter()
        divergence, seen = None, 0
        for record in islice(records, _CHUNK):
            seen += 1
            divergence = replay.add(record)
            if divergence is not None:
                break
        if not seen:
            return
        # The reader itself counts what is unknown.
        yield _part(replay, divergence, Counter())


def _part(replay: Replay, divergence: Divergence | None, unknown: Counter[str]) -> _Part:
    return _Part(
        replay.counts, divergence, replay.first, replay.next_seq, replay.ways, unknown,
        replay.left_out,
    )  # fmt: skip


# Lines go to the processes undecoded, in chunks, each with what was announced or done by hand
# before it. No more than a few chunks are under way, and parts come back in file order.
def _in_parallel(trace: TraceReader, jobs: int) -> Generator[_Part, None, None]:
    # A copy of this process, which has threads, could find a lock held for good.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_leave_interrupts)
    pending: deque[Future[_Part]] = deque()
    due: int | None = 0

    def finished() -> _Part:
        nonlocal due
        with trace.named():
            part = pending.popleft().result()
        for kind, times in part.unknown.items():
            trace.skipped(kind, times)
        if part.first is not None:
            if due is not None and part.first.seq != due and not part.left_out:
                # A chunk cannot see that the records before it are not those it should follow.
                part = replace(part, counts=Counts(), divergence=out_of_turn(part.first, due))
            due = part.next_seq
        return part

    try:
        earlier: list[bytes] = []
        vcpus = trace.header.vcpus
        lines = trace.lines()
        while chunk := list(islice(lines, _CHUNK)):
            pending.append(pool.submit(_replay_lines, tuple(earlier), vcpus, chunk))
            earlier += [line for _, line in chunk if line.startswith(_EARLIER)]
            if len(pending) > 2 * jobs:
                yield finished()
        while pending:
            yield finished()
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts() -> None:
    # A terminal sends Ctrl-C to all processes; the one that started these ends them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _replay_lines(
    earlier: Iterable[bytes], vcpus: int, lines: Iterable[tuple[int, bytes]]
) -> _Part:
    blocks = Blocks()
    known: list[Record] = []
    for line in earlier:
        told = codec.decode(line, 0)
        if not isinstance(told, codec.Unknown):
            known += blocks.records(told)
    replay = Replay(known, vcpus)
    divergence = None
    unknown: Counter[str] = Counter()
    for number, line in lines:
        told = codec.decode(line, number)
        if isinstance(told, codec.Unknown):
            unknown[told.type] += 1
            continue
        made = map(replay.add, codec.records(blocks, told, number))
        divergence = next(filter(None, made), None)
        if divergence is not None:
            break
    return _part(replay, divergence, unknown)


def _print(counts: Counts, divergence: Divergence | None) -> None:
    if divergence is not None:
        for line in divergence_lines(divergence):
            print(line)
    told = [f"{counted(counts.replayed, 'record')} replayed"]
    if counts.stepped:
        told.append(f"{counts.stepped:,} natively stepped, not replayable")
    if counts.incomplete:
        told.append(f"{counts.incomplete:,} without the registers they need, not replayable")
    told.append("the last one diverges" if divergence is not None else "no divergence")
    print("; ".join(told))


def _object(
    counts: Counts, divergence: Divergence | None, miscounted: str | None, trace: TraceReader
) -> dict[str, Any]:
    return {
        "agrees": divergence is None and miscounted is None and counts.replayed > 0,
        **asdict(counts),
        "divergence": None if divergence is None else _told(divergence),
        "miscounted": miscounted,
        "damage": trace.damage,
    }


def _told(divergence: Divergence) -> dict[str, Any]:
    place = {"rip": hex(divergence.rip), "code": divergence.code.hex()}
    return asdict(divergence) | place
