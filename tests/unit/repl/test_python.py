"""A person's Python at the prompt: it never holds up what serves the guest, and Ctrl-C ends it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from guest_sample import Talk

from scripts.patience import patience
from tracer.repl.interpreter import INTERRUPTED
from tracer.repl.interruption import Interruption


@pytest.fixture(autouse=True)
def unblocked() -> Iterator[None]:
    """Fail a test in which the event loop is held up: nothing else would end it."""

    def fail(number: int, frame: FrameType | None) -> None:
        raise AssertionError("the event loop is held up")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(int(patience(60)) + 1)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def run(test: Callable[[Talk], Coroutine[Any, Any, None]], **options: Any) -> Talk:
    """Run a test with a guest that stands at its kernel's entry; return what was said."""
    talk = Talk(**options)

    async def body() -> None:
        await talk.start()
        try:
            await test(talk)
        finally:
            await talk.control.close()

    asyncio.run(body())
    return talk


def own(folder: Path, code: str) -> Path:
    """Return a file of one's own."""
    path = folder / "own.py"
    head = "from tracer.repl.extension import command, filter, subscriber\n"
    path.write_text(head + code)
    return path


ASKS = """
class Asks:
    def __init__(self, guest):
        self.guest = guest

    def __repr__(self):
        return f"asked {self.guest.run('info breaks')}"
"""


# ---- the texts of values


def test_a_value_may_ask_the_guest_for_its_text() -> None:
    async def test(talk: Talk) -> None:
        assert await talk.type("break nvme.CC", "py breaks", "py [breaks, registers]") == 0

    talk = run(test)
    assert talk.said[1] == "1  nvme.CC" and "1  nvme.CC" in talk.said[2]


def test_so_may_what_a_command_of_ones_own_returns(tmp_path: Path) -> None:
    path = own(
        tmp_path, f"{ASKS}\n@command('ask', help='')\ndef ask(guest):\n return [Asks(guest)]"
    )

    async def test(talk: Talk) -> None:
        assert await talk.type(f"source {path}", "ask") == 0, talk.complaints

    assert run(test).said[-1] == "[asked []]"
    told = [json.loads(line) for line in run(test, json=True).said]
    assert told[-1]["result"] == "[asked []]"


def test_and_an_error_for_its_words(tmp_path: Path) -> None:
    code = (
        "class Wrong(Exception):\n def __str__(self): return str(self.args[0].run('info breaks'))\n"
        "@command('fail', help='')\ndef fail(guest):\n raise Wrong(guest)"
    )

    async def test(talk: Talk) -> None:
        assert await talk.type(f"source {own(tmp_path, code)}") == 0
        assert await talk.type("fail") == 2

    assert run(test).complaints[-1].endswith("Wrong: []")


@pytest.mark.parametrize("code", ["2**70", r"'\ud800'", "float('nan')", "object", "b'1'"])
def test_json_has_every_value(code: str) -> None:
    async def test(talk: Talk) -> None:
        assert await talk.type(f"py {code}") == 0

    assert json.loads(run(test, json=True).said[-1])["ok"]


# ---- what the event loop calls


@pytest.mark.parametrize("kind", ["filter", "subscriber"])
def test_what_the_event_loop_calls_cannot_wait_for_it(tmp_path: Path, kind: str) -> None:
    code = {
        "filter": "@filter('mine')\ndef mine(access): return kept[0].run('info breaks')",
        "subscriber": "@subscriber\ndef mine(record): kept and kept[0].run('info breaks')",
    }[kind]
    path = own(
        tmp_path,
        f"kept = []\n{code}\n@command('keep', help='')\ndef keep(guest):\n kept.append(guest)",
    )

    async def test(talk: Talk) -> None:
        talk.context.complain = talk.complaints.append
        talk.context.feed.on = True
        assert await talk.type(f"source {path}", "keep") == 0, talk.complaints
        if kind == "filter":
            assert await talk.type("filter mine") == 0
        assert await talk.type("step 3", "info breaks") == 0

    talk = run(test)
    assert "vetrace itself called this" in talk.complaints[0]
    assert len(talk.complaints) == 1 and len(talk.made) == 2


@pytest.mark.parametrize("kind", ["filter", "subscriber"])
def test_what_the_event_loop_calls_cannot_end_the_run(tmp_path: Path, kind: str) -> None:
    code = {
        "filter": "@filter('mine')\ndef mine(access): raise SystemExit(3)",
        "subscriber": "@subscriber\ndef mine(record): raise SystemExit(3)",
    }[kind]

    async def test(talk: Talk) -> None:
        talk.context.complain = talk.complaints.append
        talk.context.feed.on = True
        assert await talk.type(f"source {own(tmp_path, code)}") == 0, talk.complaints
        if kind == "filter":
            assert await talk.type("filter mine") == 0
        assert await talk.type("step 3") == 0

    talk = run(test)
    assert any("own.py:3: SystemExit: 3" in told for told in talk.complaints), talk.complaints


@pytest.mark.parametrize("kind", ["filter", "subscriber"])
def test_ctrl_c_ends_what_the_event_loop_calls(tmp_path: Path, kind: str) -> None:
    code = {
        "filter": "@filter('mine')\ndef mine(access):\n while True: pass",
        "subscriber": "@subscriber\ndef mine(record):\n while True: pass",
    }[kind]
    stops: list[bool] = []

    async def test(talk: Talk) -> None:
        talk.context.complain = talk.complaints.append
        talk.context.feed.on = True
        assert await talk.type(f"source {own(tmp_path, code)}") == 0
        if kind == "filter":
            assert await talk.type("filter mine") == 0
        interruption = Interruption(lambda text: None, person=True)
        interruption.loop_call = talk.context.loop_call
        interruption.on_interrupt = lambda: stops.append(True)
        task = asyncio.current_task()
        assert task is not None
        interruption.install(task)
        threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
        assert await talk.type("step 3", "info breaks") == 0
        await asyncio.sleep(0)

    talk = run(test)
    assert "interrupted" in talk.complaints[0] and len(talk.made) == 2
    assert stops == [True]  # the signal has been heeded as any other as well


# ---- what runs beside the event loop


async def begun(talk: Talk, line: str) -> asyncio.Task[int]:
    """Type a line that runs Python; return once that runs."""
    typed = asyncio.create_task(talk.type(line))
    while not talk.context.thread.busy:
        await asyncio.sleep(0.01)
    return typed


@pytest.mark.parametrize(
    ("code", "words"),
    [("while True: pass", "was interrupted"), ("import time; time.sleep(90)", "goes on by itself")],
)
def test_the_loop_goes_on_beside_python_and_ctrl_c_ends_it(code: str, words: str) -> None:
    async def test(talk: Talk) -> None:
        typed = await begun(talk, f"py {code}")
        await asyncio.sleep(0.1)
        talk.context.thread.interrupt()
        assert await typed == 1
        assert not talk.context.thread.busy
        assert await talk.type("py 1") == 0

    assert words in run(test).complaints[0]


def test_a_file_is_read_beside_the_loop(tmp_path: Path) -> None:
    path = own(tmp_path, "while True: pass")

    async def test(talk: Talk) -> None:
        typed = await begun(talk, f"source {path}")
        await asyncio.sleep(0.1)
        talk.context.thread.interrupt()
        assert await typed == 2

    assert "interrupted" in run(test).complaints[0]


def test_what_was_left_to_itself_cannot_reach_the_guest_any_more() -> None:
    code = "import time\ntime.sleep(2.5)\nguest.step()"

    async def test(talk: Talk) -> None:
        typed = await begun(talk, f"py exec({code!r})")
        # What ignores Ctrl-C for good goes on, but is told no.
        talk.context.thread._calls[-1].left = True
        talk.context.thread._calls[-1].give_up()
        assert await typed == 1
        await asyncio.sleep(3)
        assert talk.made == [] and talk.control.halt is not None
        assert talk.control.halt.text == "kernel entry"

    run(test)


# ---- a line of several commands


def test_ctrl_c_drops_the_rest_of_a_line() -> None:
    async def test(talk: Talk) -> None:
        def press(halt: object) -> None:
            talk.context.interrupts += 1

        talk.control.on_halt.append(press)
        assert await talk.type("step; mark a; mark b") == INTERRUPTED
        assert talk.complaints == ["interrupted, and not carried out: mark a; mark b"]
        assert await talk.type('py guest.run("step; mark c")') == 1
        assert talk.complaints[-1] == "interrupted before mark c"
        talk.control.on_halt.clear()
        assert await talk.type("step; mark d") == 0

    assert run(test).said[-1].startswith("noted")


def test_each_command_but_the_last_waits_for_the_stop() -> None:
    async def test(talk: Talk) -> None:
        talk.context.waits = False
        assert await talk.type("step; plan; step; regs rip; step") == 0, talk.complaints
        assert not talk.context.waits
        assert talk.control.state == "running"

    run(test)
