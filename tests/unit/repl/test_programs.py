"""The commands of the prompt, on a simulated guest: what programs get."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from guest_sample import Talk
from talk_sample import refused, run, told

from tracer.query.breakpoint import parse_break, parse_until
from tracer.repl.command import Command
from tracer.repl.commands import command_table
from tracer.repl.parser import statements

# ---- for programs


def test_json_has_a_line_a_command() -> None:
    talk = told("step", "set value 5", "info breaks", json=True)
    found = [json.loads(line) for line in talk.said]
    assert [item["command"] for item in found] == ["step", "set", "info"]
    assert all(item["ok"] for item in found)
    access = found[0]["result"]["access"]
    assert (access["region"], access["offset"], access["register"]) == ("nvme", "0x1c", "CSTS")


def test_json_of_a_failure() -> None:
    async def test(talk: Talk) -> None:
        assert await talk.type("pl") == 2
        assert json.loads(talk.said[-1]) == {
            "type": "command", "command": "plan", "ok": False, "status": 2,
            "error": "no access waits here: `step` goes to the next one",
        }  # fmt: skip
        assert await talk.type("nonsense") == 2
        assert json.loads(talk.said[-1])["command"] == "nonsense"

    run(test, json=True)


@pytest.mark.parametrize("item", list(command_table()), ids=lambda item: item.name)
def test_every_command_has_an_object_for_programs(
    item: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # `save` writes a file

    async def test(talk: Talk) -> None:
        await talk.type("step")
        for example in item.examples:
            await talk.type(example)
        for line in talk.said:
            found = json.loads(line)
            assert found["type"] == "command" and {"command", "ok"} <= set(found)

    if item.name not in ("quit", "source"):
        run(test, json=True)


@pytest.mark.parametrize(
    ("item", "example"),
    [(item, example) for item in command_table() for example in item.examples],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_examples_are_of_their_command(item: Command, example: str) -> None:
    found = list(statements(example, command_table().takes_line))
    assert len(found) == 1 and command_table().find(found[0].name) is item
    if item.name in ("break", "tbreak"):
        parse_break(found[0].rest)
    if item.name == "until":
        parse_until(found[0].rest, 0)


# ---- Python


def test_python_sees_the_guest(tmp_path: Path) -> None:
    talk = told(
        "step",
        "py registers.rsi == guest.access.linear",
        "py x = guest.peek('nvme.VS'); print(hex(x))",
        "py x",
        "py breaks.add('write nvme.CC'), len(list(breaks)), regions['nvme'].name",
        "py guest.resume()['text']",
        "py guest.step()['state'], guest.state",
    )
    assert talk.said[2:] == [
        "True", "66560", "(1, 1, 'nvme')", "'break 1: write nvme.CC'",
        "('stopped', 'stopped')",
    ]  # fmt: skip


def test_an_error_of_python_shows_the_persons_own_code() -> None:
    why = refused("py 1/0", status=1)
    assert why.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert "tracer/" not in why
    assert refused("py guest.peek('nvm')", status=1).splitlines()[-1].startswith("no region is")


EXTENSION = """
from tracer.repl.extension import Access, Guest, Record, command, filter, subscriber

seen = []

@command("version", help="the version of the controller")
def version(guest: Guest, *words: str) -> object:
    return {"version": guest.peek("nvme.VS"), "words": words}

@command("broken", help="fails")
def broken(guest: Guest) -> None:
    raise RuntimeError("on purpose")

@filter("writes")
def writes(access: Access) -> bool:
    return access.access.direction == "write"

@subscriber
def count(record: Record) -> None:
    seen.append(record)
    if len(seen) > 1:
        raise ValueError("enough")
"""


def test_a_file_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # lines are as long as the file's name makes them
    path = Path("own.py")
    path.write_text(EXTENSION)

    async def test(talk: Talk) -> None:
        talk.context.complain = talk.complaints.append
        own = shlex.quote(str(path))
        assert await talk.type(f"source {own}", "step", "version a b") == 0
        assert talk.said[0] == f"{path}: 2 commands, 1 filter, 1 subscriber"
        assert talk.said[-1] == "{'version': 66560, 'words': ('a', 'b')}"
        assert await talk.type("help version", f"source {own}") == 0
        assert await talk.type("broken") == 2
        assert talk.complaints.pop() == f"{path}:12: RuntimeError: on purpose"
        assert await talk.type("step 3", "show last 9 writes", "filter writes") == 0
        assert talk.complaints == 2 * [f"{path}:22: ValueError: enough; it is not called any more"]

    run(test)


def test_a_filter_without_an_answer_does_not_end_the_run() -> None:
    async def test(talk: Talk) -> None:
        talk.context.feed.on = True
        talk.context.complain = talk.complaints.append
        assert await talk.type("filter nvme if value // 0 == 1", "step 3", "filter") == 0
        assert talk.said[-1] == "every access is shown"
        assert len(talk.complaints) == 1 and "every access is shown from here" in talk.complaints[0]
        assert talk.control.halt is not None

    run(test)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("def f(:\n", ":1: invalid syntax"),
        ("x = 1\ny = x / 0\n", ":2: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)\n", ":2: SystemExit: 3"),
        (
            "from tracer.repl.extension import command\n"
            "@command('step', help='x')\ndef f(guest): ...\n",
            "there is a command step already",
        ),
    ],
)
def test_a_file_that_does_not_do(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    assert why in refused(f"source {path}")
