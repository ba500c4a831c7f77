"""A script on the command line, from the kernel's entry to the exit status."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from guest_sample import CRASH, MAPS, trapped
from ram import PAGING
from simulated import Guest, Made, accesses

from tracer.cli.boot import add_arguments
from tracer.cli.interactive import wish
from tracer.errors import TracerError, UsageError
from tracer.repl.interruption import Interruption
from tracer.repl.live import Live
from tracer.repl.result import Screen
from tracer.repl.shell import Script, Shell, Wish
from tracer.session.control import Control
from tracer.trace.naming import Naming
from tracer.x86.paging import leaves

Output = pytest.CaptureFixture[str]


def carried_out(asked: Wish, error: TracerError | None = None) -> tuple[int, Guest, Made]:
    """Run a shell on a guest; return the exit status, and what became of the guest."""
    guest, made = Guest(accesses(), error), Made()

    async def body() -> int:
        session = guest.session()
        interruption = Interruption(lambda text: None, person=False)
        naming = Naming(MAPS)
        live = Live(Control(session), naming)
        shell = Shell(live, naming, asked, interruption, Screen)
        await trapped(session)
        session.subscribers.append(made)
        return await shell.run()

    return asyncio.run(body()), guest, made


def commands(*texts: str, **options: Any) -> Wish:
    return Wish(scripts=tuple(Script((text,)) for text in texts), **options)


def test_commands_are_carried_out_in_order_and_the_session_ends(capsys: Output) -> None:
    status, _, made = carried_out(commands("step; step", "info breaks"))
    assert (status, made.made) == (0, [("read", 1)])
    assert capsys.readouterr().out.splitlines()[-1].startswith("there are no breaks")


async def again_and_again(asked: Wish, guests: list[Guest]) -> int:
    """Run a shell on one guest after another, as long as it wants the same again."""
    shell, over = None, False
    while not over:
        guests.append(Guest(accesses()))
        session, naming = guests[-1].session(), Naming(MAPS)
        live = Live(Control(session), naming)
        if shell is None:
            interruption = Interruption(lambda text: None, person=False)
            shell = Shell(live, naming, asked, interruption, Screen)
            shell.check_restart = lambda: None
        else:
            shell.renew(live, naming, Path("run.2.vtrace"))
        await trapped(session)
        over = await shell.attend()
    assert shell is not None
    return shell.status


def test_the_same_guest_again_has_all_that_was_made_for_it(capsys: Output) -> None:
    guests: list[Guest] = []
    asked = commands(
        "alias on step",
        "display regs rip; break write nvme.CC; tally count; hide read; continue",
        "info breaks; restart; info breaks; tally; info display; filter; continue; on",
        "run; stats; step 2; tally; restart; nonsense; step", json=True,
    )  # fmt: skip
    assert asyncio.run(again_and_again(asked, guests)) == 2
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = [(row["command"], row.get("result")) for row in rows if row.get("command") != "regs"]
    names = [name for name, _ in told]
    assert names[-2:] == ["restart", "nonsense"] and names.count("restart") == 3
    first = names.index("restart")
    hits = [[each["hits"] for each in result] for name, result in told if result and name == "info"
            and isinstance(result, list) and "hits" in result[0]]  # fmt: skip
    assert hits == [[1], [0]]
    stops = [result["access"]["seq"] for name, result in told if name == "continue"]
    assert stops[0] == stops[1]
    assert told[first][1]["state"] == "stopped"
    counts = [result[0]["accesses"] for name, result in told if name == "tally"]
    assert counts == [0, 0, 1]
    assert next(result for name, result in told if name == "filter")["hidden"] == ["read"]
    assert next(result for name, result in told if name == "stats")["accesses"] == 0
    assert len(guests) == 4


def test_a_guest_that_nobody_starts_again_stays(capsys: Output) -> None:
    status, guest, made = carried_out(commands("step", "restart"))
    assert (status, made.made) == (2, []) and not guest.detached
    assert "this guest cannot be started again from here" in capsys.readouterr().err


def test_the_first_failure_is_the_exit_status(capsys: Output) -> None:
    status, *_ = carried_out(commands("step; stepp; info breaks"))
    out, err = capsys.readouterr()
    assert status == 2 and "breaks" not in out
    assert err == "vetrace: there is no command stepp; did you mean step?\n"


def test_a_crash_is_a_failure(capsys: Output) -> None:
    assert carried_out(commands("continue"), CRASH)[0] == 1
    assert capsys.readouterr().err == "vetrace: the guest panicked: no init\n"


def test_a_guest_that_was_detached_is_waited_for() -> None:
    status, guest, made = carried_out(commands("step; detach"))
    assert (status, guest.detached, made.made) == (0, True, [("read", 1)])
    assert not any(leaf.poisoned for leaf in leaves(guest.memory, PAGING))


def test_accesses_are_shown_when_they_are_asked_for(capsys: Output) -> None:
    carried_out(commands("continue"))
    assert "nvme+0x14" not in capsys.readouterr().out
    carried_out(commands("watch on; continue"))
    assert capsys.readouterr().out.count("nvme+0x14") == 3
    carried_out(commands("watch on; continue", json=True))
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [item["command"] for item in found if "command" in item] == ["watch", "continue"]
    assert [item["register"] for item in found if "seq" in item] == 3 * ["CSTS", "CC"]


def test_bytes_that_are_no_text_are_escaped_in_json(capsys: Output) -> None:
    name = b"n\xff".decode("utf-8", "surrogateescape")
    status, *_ = carried_out(commands(f"next {name}", json=True))
    (told,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert status == 2 and not told["ok"] and "n\\udcff" in told["error"]


def test_a_script_and_then_standard_input(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("step\n\nnonsense\nstep\n"))
    status, _, made = carried_out(Wish(interactive=True, scripts=(Script(("step",), "boot.txt"),)))
    assert (status, len(made.made)) == (2, 1)
    out, err = capsys.readouterr()
    assert "nvme+0x1c" in out  # the access that was stepped over is shown
    assert err == "vetrace: standard input:3: there is no command nonsense; `help` lists all\n"


def test_a_file_of_ones_own_that_does_not_do(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("1 / 0\n")
    with pytest.raises(UsageError, match=r"own.py:1: ZeroDivisionError: division by zero"):
        carried_out(commands("step", extensions=(path,)))


# ---- the command line


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def test_files_and_commands_keep_their_order(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("# first\nstep\n")
    asked = wish(arguments("-e", "step", "-x", str(path), "-e", "plan", "-i"), None)
    from_file = Script(("# first", "step"), str(path))
    assert asked.scripts == (Script(("step",)), from_file, Script(("plan",)))
    assert asked.interactive and asked.asked
    assert not wish(arguments(), None).asked


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--load", "own.py"], "--load is for a prompt or a script"),
        (["--load", "no.py", "-i"], "there is no file no.py to load"),
        (["-x", "no.txt"], "cannot read no.txt: No such file"),
        (["-x", "/dev/zero"], "/dev/zero is above 16 MiB: give a file that somebody wrote"),
        (["-x", "a\0b"], "cannot read a\0b: its name has a NUL; name another file"),
        (["-x", "."], "cannot read .: Is a directory"),
        (["-x", "/proc/self/mem"], "cannot read /proc/self/mem: Input/output error"),
        (["-x", "/bin/true"], "/bin/true is no UTF-8 text: byte "),
        (["-i", "--untraced"], "--untraced leaves nothing to stop at"),
    ],
)
def test_what_makes_no_sense(words: list[str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        wish(arguments(*words), None)


def test_a_script_may_be_a_pipe() -> None:
    read, write = os.pipe()
    os.write(write, b"step; plan\n")
    os.close(write)
    (script,) = wish(arguments("-x", f"/dev/fd/{read}"), None).scripts
    os.close(read)
    assert script.lines == ("step; plan",)


# ---- Ctrl-C before there is a prompt


def test_the_first_ctrl_c_tells_and_the_second_ends() -> None:
    told: list[str] = []

    async def body() -> None:
        interruption = Interruption(told.append, person=True)
        task = asyncio.current_task()
        assert task is not None
        interruption.install(task)
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.01)
        assert told == ["the guest will stop at its kernel's entry; Ctrl-C again quits"]
        taken: list[int] = []
        interruption.on_interrupt = lambda: taken.append(1)
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.01)
        assert taken == [1]
        interruption.on_interrupt = None
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(10)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(body())
