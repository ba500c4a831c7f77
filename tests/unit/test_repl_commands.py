"""The commands of the prompt, on a guest that is made up: what they do, say, and refuse."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import stop_sample
from guest_sample import CRASH, Talk

from tracer.breakpoint import parse_break, parse_until
from tracer.repl.command import Command
from tracer.repl.commands import command_table
from tracer.repl.parser import statements
from tracer.trace import UserRecord


def run(test: Callable[[Talk], Coroutine[Any, Any, None]], **options: Any) -> None:
    """Run a test with a guest that stands at its kernel's entry."""

    async def body() -> None:
        talk = await Talk(**options).start()
        try:
            await test(talk)
        finally:
            await talk.control.close()

    asyncio.run(body())


def told(*lines: str, **options: Any) -> Talk:
    """Type lines, all of which have to do; return what came of it."""
    kept: list[Talk] = []

    async def test(talk: Talk) -> None:
        kept.append(talk)
        assert await talk.type(*lines) == 0, talk.complaints

    run(test, **options)
    return kept[0]


def refused(*lines: str, status: int = 2, before: tuple[str, ...] = ()) -> str:
    """Type a line that has to fail, and leaves the guest where it was; return why."""
    kept: list[str] = []

    async def test(talk: Talk) -> None:
        assert await talk.type(*before) == 0, talk.complaints
        halt, made = talk.control.halt, list(talk.session.made)
        breaks, choice = talk.desk.watch.breaks, talk.session.choice
        assert await talk.type(*lines) == status
        assert (talk.control.halt, talk.session.made) == (halt, made)
        assert (talk.desk.watch.breaks, talk.session.choice) == (breaks, choice)
        kept.append("\n".join(talk.complaints))

    run(test)
    return kept[0]


# ---- going on


def test_step_stands_before_the_next_access() -> None:
    talk = told("step")
    assert talk.session.made == []
    assert "nvme+0x1c" in talk.text and "CSTS" in talk.text and "R4" in talk.text


def test_steps_are_counted() -> None:
    assert told("step 3").session.made == [("read", 1), ("write", 0)]


def test_an_empty_line_steps_again() -> None:
    talk = told("step", "", "")
    assert len(talk.session.made) == 2


def test_an_empty_line_after_another_command_does_nothing() -> None:
    assert told("step", "info breaks", "").session.made == []


def test_next_and_until_and_continue() -> None:
    assert len(told("next nvme").session.made) == 0
    assert len(told("until 1.003").session.made) == 3
    assert len(told("step", "until +2ms").session.made) == 2
    assert told("until nvme_reset_work").session.made == []
    talk = told("continue")
    assert len(talk.session.made) == 6
    assert talk.said[-1] == "the guest has powered off"


def test_a_crash_is_the_failure_of_the_command_that_let_the_guest_go_on() -> None:
    async def test(talk: Talk) -> None:
        assert await talk.type("continue") == 1
        assert talk.complaints == ["the guest panicked: no init"]
        assert await talk.type("show last 2", "info regions") == 0
        assert await talk.type("step") == 2
        assert talk.complaints[-1] == "the guest has ended (the guest panicked: no init)"

    run(test, error=CRASH)


def test_detached_the_guest_is_out_of_reach() -> None:
    async def test(talk: Talk) -> None:
        assert await talk.type("detach") == 0
        await talk.control.wait()
        assert talk.session.made == [] and talk.control.outcome == "poweroff"

    run(test)


# ---- stopping


def test_a_break_stops_before_the_access() -> None:
    talk = told("break write nvme.CC", "continue")
    assert talk.session.made == [("read", 1)]
    assert "break 1: write nvme.CC" in talk.said


def test_a_break_on_the_value_of_a_read_stops_once_the_device_has_answered() -> None:
    talk = told("break read nvme if value == 1", "continue", "set value 7", "step")
    assert talk.session.made[0] == ("read", 7)


def test_hits_are_counted_and_a_temporary_break_is_gone_after_its_stop() -> None:
    talk = told("break write nvme", "tbreak nvme.CSTS", *3 * ["continue"], "info breaks")
    assert talk.said[-1] == "1   2 hits  write nvme"


def test_a_symbol_is_what_makes_the_access_or_has_called_it() -> None:
    assert told("break symbol nvme_reset_work", "continue").session.made == []
    assert told("break symbol nvme_pci_*", "continue").session.made == []
    # It was interrupted: it has called nobody.
    assert len(told("break symbol linux_banner", "continue").session.made) == 6


def test_a_condition_without_an_answer_stops_and_says_so() -> None:
    assert "break 1: " in told("break nvme if value // 0 == 1", "continue").text


def test_breaks_are_kept_by_number() -> None:
    talk = told("break nvme.CC", "tbreak nvme.CSTS", "disable 1", "ignore 2 1", "info breaks")
    assert talk.said[-2:] == [
        "1   disabled, 0 hits  nvme.CC",
        "2   0 hits  nvme.CSTS  (ignores the next 1, once)",
    ]
    talk = told("break nvme.CC", "condition 1 value == 3", "delete 1", "info breaks")
    assert talk.said[1:] == [
        "break 1: nvme.CC if value == 3",
        "deleted break 1",
        "there are no breaks; `help break` tells how to make one",
    ]


# ---- looking


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("plan", "the 4 bytes read, zero-extended"),
        ("regs", "rflags"),
        ("regs rsi", "rsi"),
        ("bt", "no more of it here"),
        ("x/2xg $rsp", "0x"),
        ("page", "poison"),
        ("sym nvme_reset_work", "0xffffffff81002000  nvme_reset_work+0x0"),
        ("sym nvme_*", "nvme_pci_reg_read32"),
        ("stats", "call site"),
        ("info region nvme", "CSTS"),
        ("info devices", "nvme"),
        ("info mappings", "no traced region"),
        ("info display", "nothing is displayed"),
        ("info filters", "every access is shown"),
        ("show last", "no access yet"),
        ("trace", "traced: nvme"),
        ("help", "go on:"),
        ("help break", "examples:"),
        ("history", ""),
    ],
)
def test_looking_says(line: str, words: str) -> None:
    assert words in told("step", line).text


def test_nothing_of_a_device_is_read_by_looking_at_memory() -> None:
    talk = told("step", "x/4xw $rsi")
    assert "a device, which is not read; `peek nvme+" in talk.text
    assert talk.session.made == []


# ---- changing


def test_another_value_for_the_guest_and_for_the_device() -> None:
    talk = told("step", "set value 0x10300", "step", "set value = 5", "step")
    assert talk.session.made == [("read", 0x10300), ("write", 5)]
    notes = [record.text for record in talk.records if isinstance(record, UserRecord)]
    assert notes == ["set value 0x10300", "set value 0x5"]


def test_skip_leaves_the_device_alone() -> None:
    assert told("step", "skip 9").session.made == [("skip", 9)]


def test_a_fault_in_place_of_the_instruction() -> None:
    assert told("step", "fault gp").session.made[0][0] == "fault 13"
    assert told("step", "fault pf").session.made[0][0] == "fault 14"


def test_a_register_is_set() -> None:
    assert told("step", "set $rax 0x5").session.made[0][0] == "retry 0x5"


def test_a_register_is_set_to_a_sum() -> None:
    talk = told("step", "set $rax = $rsi - 0x1c")
    assert talk.said[-1].startswith(f"$rax is {stop_sample.LINEAR:#x} (was ")
    talk = told("step", "set $rax = -1")
    assert talk.said[-1].startswith("$rax is 0xffffffffffffffff (was ")


def test_what_is_displayed_is_shown_at_each_stop_of_a_script() -> None:
    talk = told("display regs rip", "step", "set $rax 1", "step")
    assert [line.split()[0] for line in talk.said].count("rip") == 2


def test_an_empty_line_repeats_what_was_typed_and_not_what_was_displayed() -> None:
    talk = told("display disas", "step", "", "")
    assert talk.session.made == [("read", 1), ("write", 0)]


def test_peek_and_poke_know_registers() -> None:
    talk = told("step", "peek nvme.VS", "poke nvme.CC 0x460001", "peek nvme.CC", "peek/1 nvme+0x1c")
    assert "nvme+0x8 VS  0x00010400" in talk.said[2]
    assert talk.session.device[0x14] == 0x460001
    assert "EN" in talk.said[-2]
    assert talk.said[-1].startswith("nvme+0x1c")


def test_a_register_that_is_only_read_is_not_said_to_be_written() -> None:
    talk = told("step", "poke nvme.CSTS 1", "poke nvme.CC 1", json=True)
    sent, written = (json.loads(line)["result"] for line in talk.said[-2:])
    assert sent["read_only"] and "read-only register" in sent["text"]
    assert not written["read_only"] and written["text"].endswith("written")


def test_trace_and_bypass_choose() -> None:
    asked = told("bypass nvme", "trace off", "trace on").session.asked
    assert [(choice.wanted, choice.bypassed) for choice in asked] == [
        ((), ("nvme",)), ((), ("nvme",)), ((), ()),
    ]  # fmt: skip


# ---- refusing


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("stepp", "there is no command stepp; did you mean step?"),
        ("di", "di is ambiguous: disable, disas, display"),
        ("step x", "'x' is no count: 16 and 0x10 are"),
        ("step 0", "0 accesses cannot be stepped over; usage: step [N]"),
        ("continue 3", "it takes no argument; usage: continue"),
        ("next nvm", "there is no region nvm; did you mean nvme?"),
        ("break nvm", "no region is called nvm; did you mean nvme?"),
        ("break nvme.CSTSS", "nvme has no register CSTSS; did you mean CSTS?"),
        ("delete 4", "there is no break 4; there are: none at all"),
        ("until 0.5", "0.5 is past"),
        ("until foo", "no function is called foo"),
        (
            "break symbol nvme_rest_work",
            "nvme_reset_work? (`pending` waits for one that is to come)",
        ),
        ("break if register == CCC", "no register is called CCC; did you mean CC?"),
        ("break nvme+0x4000", "nvme ends at offset 0x3fff"),
        ("break if module ~ x*", "no module is called anything like x*"),
        ("break if device == nvem", "no device is called nvem; did you mean nvme?"),
        ("tbreak 0x1000", "no device answers at physical 0x1000"),
        ("filter if function == foo", "no function is called foo"),
        ("hide nvmx*", "no region is called anything like nvmx*"),
        ("show last 3 nvme.CCC", "nvme has no register CCC; did you mean CC?"),
        ("set value 0x100000000", "0x100000000 does not fit in 4 bytes"),
        ("set value", "a name and a value are needed; usage: set value VALUE  or  set $REGISTER"),
        ("set $rxx 1", "$rxx cannot be set"),
        ("set rax 5", "rax cannot be set; did you mean $rax?"),
        ("set valu 5", "valu cannot be set; did you mean value?"),
        ("fault ud", "gp or pf is needed"),
        ("peek nvme+0x9000", "nvme ends at offset"),
        ("peek/3 nvme", "/3 is no width: /1 /2 /4 /8, or /b /h /w /g"),
        ("poke nvme.CC", "a place and a value are needed"),
        ("x/8xq $rsp", "/8xq"),
        ("x", "an address is needed"),
        ("x nosuch", "the kernel has no symbol nosuch"),
        ("x $rzx", "there is no register $rzx"),
        ("disas 0x0", "is not in RAM: not mapped"),
        ("info bogus", "there is no info bogus"),
        ("undisplay 3", "there is no display 3"),
        ("display step", "step does something"),
        ("show first", "there is no show first"),
        ("filter off 3", "there is no number 3"),
        ("unpause", "the output is not paused"),
        ("interrupt", "the guest is not running: it is stopped"),
        ("source nowhere.txt", "cannot read nowhere.txt: No such file or directory"),
        ("py", "a script has no Python console"),
        ("mark 'x", "the quote ' at column 6 is not closed"),
        ("mark", "there is nothing to note"),
    ],
)
def test_what_is_refused_changes_nothing(line: str, why: str) -> None:
    assert why in refused(line, before=("step",))


def test_a_script_says_that_it_waits_for_a_name() -> None:
    talk = told(
        "break symbol foo pending", "filter hdet pending", "until bar* pending", "info breaks"
    )
    assert talk.said[0] == "break 1: symbol foo (pending)"
    assert talk.said[-1].startswith("the guest has ended") or "symbol foo" in talk.said[-1]


@pytest.mark.parametrize("made", [True, False])
def test_a_person_is_asked_whether_to_wait_for_a_name(made: bool) -> None:
    async def test(talk: Talk) -> None:
        asked: list[str] = []

        async def confirm(question: str) -> bool:
            asked.append(question)
            return made

        talk.desk.waits, talk.desk.confirm = False, confirm
        talk.desk.complain = talk.complaints.append
        assert (await talk.type("break symbol nvme_rest_work") == 0) is made
        assert talk.complaints[0] == (
            "no function is called nvme_rest_work; did you mean nvme_reset_work?"
        )
        assert asked == ["Wait for one that is to come? (y or [n]) "]
        assert [item.pending for item in talk.desk.watch.breaks.items] == [True] * made
        # What may not come is not asked for.
        assert await talk.type("break nvme if value = 3") == 2 and len(asked) == 1

    run(test)


def test_without_an_access_that_waits() -> None:
    assert refused("plan") == "no access waits here: `step` goes to the next one"
    assert refused("next") == "no access waits here, so name the region: next nvme"


def test_a_condition_points_at_the_place() -> None:
    why = refused("break nvme if value = 3")
    assert why.splitlines()[-1].endswith("^")


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
def test_every_command_has_an_object_for_programs(item: Command) -> None:
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


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(EXTENSION)

    async def test(talk: Talk) -> None:
        talk.desk.complain = talk.complaints.append
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
        talk.desk.feed.on = True
        talk.desk.complain = talk.complaints.append
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
