"""Ctrl-C on the way through a recording: where it stands then, and that nothing is missed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from trace_sample import device, end, intercept, region, write

from tracer.devices import library
from tracer.errors import Interrupted, UsageError
from tracer.query.breakpoint import parse_break
from tracer.repl import journey, scene
from tracer.repl import playback as playback_module
from tracer.repl.playback import Playback
from tracer.trace import tape as tape_module
from tracer.trace.reader import TraceReader
from tracer.trace.record import Record
from tracer.trace.tape import Tape

MAPS = library.load()
COUNT = 40


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be a trace of several chunks, of which others have their turn after each access."""
    monkeypatch.setattr(tape_module, "ACCESSES", 7)
    monkeypatch.setattr(journey, "TURN", 1)
    monkeypatch.setattr(playback_module, "TURN", 1)
    monkeypatch.setattr(scene, "_TURN", 1)
    made: list[Record] = [region("nvme"), region("hpet")]
    for seq in range(COUNT):
        name, offset = ("hpet", 0xF0) if seq % 10 == 9 else ("nvme", 0x14 + 4 * (seq % 3))
        made.append(intercept(seq, device(name, offset, 4, "write", seq)))
    return write(tmp_path / "run.vtrace.zst", [*made, end(COUNT)])


def on(path: Path, body: Callable[[Playback], Awaitable[None]], *breaks: str) -> None:
    async def run() -> None:
        playback = Playback(Tape(TraceReader(path), MAPS), MAPS)
        await playback.start()
        for text in breaks:
            playback.breaks = playback.breaks.added(parse_break(text))
        await body(playback)
        await playback.close()

    asyncio.run(run())


async def cut_short(playback: Playback, turns: int) -> int:
    """Interrupt what goes on after some turns; return where it stands then."""
    for _ in range(turns):
        await asyncio.sleep(0)
    await playback.interrupt()
    await playback.wait()
    return playback.place


@pytest.mark.parametrize(
    ("condition", "expected"),
    [("hpet if seq > 20", 29), ("nvme if value == 33", 33), ("nvme if count == 12", 12)],
)
def test_nothing_is_missed_on_the_way_forwards(path: Path, condition: str, expected: int) -> None:
    stood = set()

    for turns in range(60):

        async def body(playback: Playback, turns: int = turns) -> None:
            playback.resume()
            stood.add(place := await cut_short(playback, turns))
            assert place <= expected and playback.state == "stopped"
            if place < expected:
                assert playback.stopped().text == "interrupted"
                playback.resume()
                await playback.wait()
            assert playback.place == expected
            assert playback.breaks.items[0].hits == 1

        on(path, body, condition)
    assert len(stood) > 5 or stood == {0, expected}  # what depends on all before begins anew


@pytest.mark.parametrize(
    ("condition", "expected"),
    [("hpet if seq < 15", 9), ("nvme if value == 3", 3), ("nvme if count == 12", 12)],
)
def test_nothing_is_missed_on_the_way_back(path: Path, condition: str, expected: int) -> None:
    stood = set()

    for turns in range(60):

        async def body(playback: Playback, turns: int = turns) -> None:
            playback.jump(None)
            await playback.wait()
            playback.go_back_to(None)
            stood.add(place := await cut_short(playback, turns))
            assert expected <= place < COUNT
            if place > expected:
                assert playback.stopped().text == "interrupted"
                playback.go_back_to(None)
                await playback.wait()
            assert playback.place == expected

        on(path, body, condition)
    assert len(stood) > 2 or stood == {COUNT - 1, expected}


def test_the_end_is_told_at_the_end_alone(path: Path) -> None:
    for turns in range(60):

        async def body(playback: Playback, turns: int = turns) -> None:
            playback.resume()
            await cut_short(playback, turns)
            assert (playback.state == "ended") is (playback.place == COUNT)

        on(path, body)


def test_what_is_read_for_an_answer_ends_and_it_stands_where_it_was(path: Path) -> None:
    async def body(playback: Playback) -> None:
        playback.step(3)
        await playback.wait()
        for work in (
            playback.read_on(),
            playback.reads(playback.scene.counted()),
            playback.ahead(100, lambda seen: False),
            playback.before(100, lambda seen: False),
        ):
            asked = asyncio.ensure_future(work)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert playback.state == "running"
            with pytest.raises(UsageError, match="interrupt it first"):
                playback.step()
            await playback.interrupt()
            with pytest.raises(Interrupted, match="while the trace was read"):
                await asked
            assert (playback.place, playback.state) == (3, "stopped")
        assert len(await playback.ahead(2, lambda seen: True)) == 2
        assert [seen.seq for seen in await playback.before(2, lambda seen: True)] == [1, 2]

    on(path, body)
