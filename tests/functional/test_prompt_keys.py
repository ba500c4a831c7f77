"""Keys at the prompt: what interrupts, suspends and pastes, in each question that it asks."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prompt_terminal import COMMAND, PROMPT, environment, session, told
from vetrace_run import read_trace

from scripts.terminal import Terminal
from tracer.trace.record import UserRecord

pytestmark = pytest.mark.qemu

PASTE, PASTED = "\x1b[200~", "\x1b[201~"  # xterm's bracketed paste


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """Return a session that stands at its kernel's entry, one for all keys."""
    with session(tmp_path_factory.mktemp("keys"), columns=100, rows=24) as terminal:
        yield terminal


def press(terminal: Terminal, key: str) -> None:
    """Press a key, or send the signal."""
    if key == "SIGINT":
        os.kill(terminal.pid, signal.SIGINT)
    else:
        terminal.control(key[-1].lower())


def possibilities(terminal: Terminal) -> None:
    """Ask for more names than a screen holds."""
    mark = terminal.mark
    terminal.type("sym \t")
    terminal.wait_for(r"Display all \d+ possibilities\?", after=mark)


def more(terminal: Terminal) -> None:
    """See the first of them."""
    possibilities(terminal)
    mark = terminal.mark
    terminal.type("y")
    terminal.wait_for(r"--MORE--", after=mark)


def asks(terminal: Terminal, line: str, question: str) -> None:
    """Type a line and wait for the question that it leads to."""
    mark = terminal.mark
    terminal.line(line)
    terminal.wait_for(question, after=mark)


def python(terminal: Terminal) -> None:
    """Open a console, and begin a line there."""
    asks(terminal, "py", r">>>")


def leaving(terminal: Terminal) -> None:
    """Ask for the end."""
    asks(terminal, "quit", r"Quit anyway\?")


def waiting(terminal: Terminal) -> None:
    """Name what is not there."""
    asks(terminal, "break symbol nobody_has_this", r"Wait for one that is to come\?")


def searching(terminal: Terminal) -> None:
    """Look for something in the history."""
    mark = terminal.mark
    terminal.control("r")
    terminal.wait_for(r"search", after=mark)


@pytest.mark.parametrize("key", ["Ctrl-C", "Ctrl-D", "SIGINT"])
@pytest.mark.parametrize("question", [possibilities, more, python, leaving, waiting, searching])
def test_no_question_loses_the_session(
    guest: Terminal, question: Callable[[Terminal], None], key: str
) -> None:
    question(guest)
    mark = guest.mark
    press(guest, key)
    if question is python and key != "Ctrl-D":
        guest.wait_for(r"KeyboardInterrupt[\s\S]*>>>", after=mark)
        press(guest, "Ctrl-D")
    if question is searching and key == "Ctrl-D":
        press(guest, "Ctrl-C")
    guest.wait_for(PROMPT, after=mark)
    guest.control("u")  # forget what the line had
    told(guest, "info breaks", r"no breaks")
    mark = guest.mark
    guest.line("py while True: pass")
    guest.wait_for(r"pass *\n", after=mark)
    press(guest, "SIGINT" if key == "SIGINT" else "Ctrl-C")
    guest.wait_for(rf"interrupted[\s\S]*\n{PROMPT}", after=mark)


def test_an_end_is_an_end_in_a_question(tmp_path: Path) -> None:
    with session(tmp_path, columns=100, rows=24) as terminal:
        more(terminal)
        os.kill(terminal.pid, signal.SIGTERM)
        assert terminal.wait() == 128 + signal.SIGTERM


def test_what_asks_the_guest_in_its_text_is_answered(guest: Terminal) -> None:
    told(guest, "break nvme.CC", r"break \d+")
    told(guest, "py breaks", r"\d+ +nvme\.CC")
    told(guest, "py registers.rip", r"\d{15}")
    told(guest, "delete")


def test_ctrl_c_ends_a_call_that_sleeps(guest: Terminal) -> None:
    mark = guest.mark
    guest.line("py import time; time.sleep(600)")
    guest.wait_for(r"600\) *\n", after=mark)
    guest.control("c")
    guest.wait_for(rf"interrupted, and goes on by itself[\s\S]*\n{PROMPT}", after=mark)
    told(guest, "info breaks", r"no breaks")


def test_lines_that_are_pasted_are_lines_that_are_typed(guest: Terminal) -> None:
    mark = guest.mark
    guest.type(f"{PASTE}tbreak nvme.CAP\rtbreak nvme.VS\r\ninfo breaks\ntbreak nvm{PASTED}e.CC\r")
    guest.wait_for(r"nvme\.CC\r?\n[\s\S]*: nvme\.CC", after=mark)
    shown = re.findall(r"\d+ +0 hits +(nvme\.\w+)", guest.text)
    assert shown == ["nvme.CAP", "nvme.VS"]
    told(guest, "info breaks", r"nvme\.CAP[\s\S]*nvme\.VS[\s\S]*nvme\.CC")
    told(guest, "delete")


def test_control_characters_are_quoted_escaped(guest: Terminal) -> None:
    mark = guest.mark
    guest.type(f"{PASTE}nonsense\x1b[31mowned\x07 \x9b31m\u202e{PASTED}\r")
    guest.wait_for(r"there is no command nonsense", after=mark)
    told(guest, f"display regs rax {PASTE}\x1b[31mowned\x07{PASTED}", r"display \d+: ")
    told(guest, "info display", r"\\x1b\[31mowned")
    told(guest, "undisplay")
    told(guest, "history 5", r"undisplay")
    assert b"\x1b[31mowned" not in guest.raw[mark:]


def test_ctrl_c_drops_the_rest_of_a_line(tmp_path: Path) -> None:
    trace = tmp_path / "run.vtrace"
    with session(tmp_path, "-o", str(trace), "--quiet") as terminal:
        for key in ("Ctrl-C", "SIGINT"):
            mark = terminal.mark
            terminal.line("until 3000s; mark not this; mark nor this")
            terminal.wait_for(r"nor this *\n", after=mark)
            time.sleep(1)  # the guest runs, or has not begun to: either is to be interrupted
            press(terminal, key)
            terminal.wait_for(
                rf"interrupted, and not carried out: mark not this; mark nor this\n{PROMPT}",
                after=mark,
            )
        told(terminal, "step; mark this; step", r"noted[\s\S]*step\n")
        terminal.line("q")
        terminal.wait_for(r"Quit anyway")
        terminal.line("y")
        assert terminal.wait() == 0
    noted = [r.text for r in read_trace(trace).records if isinstance(r, UserRecord)]
    assert noted == ["mark this"]


def test_ctrl_z_suspends_and_comes_back(tmp_path: Path) -> None:
    shell = Terminal(
        ["bash", "--norc", "--noprofile", "-i"],
        environment=environment(tmp_path) | {"PS1": "shell> "}, folder=str(tmp_path),
    )  # fmt: skip
    with shell as terminal:
        terminal.wait_for(r"shell> ")
        terminal.line(" ".join(COMMAND))
        terminal.wait_for(PROMPT)
        terminal.type("info bre")
        terminal.control("z")
        mark = terminal.wait_for(r"Stopped[\s\S]*shell> ")
        terminal.line("stty -a | tr ' ;' '\\n' | grep -xE -e '-?(icanon|echo|isig)' | sort")
        terminal.wait_for(r"^echo\s+icanon\s+isig\s+shell> ", after=mark)
        mark = terminal.mark
        terminal.line("fg")
        terminal.wait_for(rf"{PROMPT} info bre", after=mark)
        terminal.line("aks")
        terminal.wait_for(r"no breaks", after=mark)
        possibilities(terminal)
        mark = terminal.mark
        terminal.control("z")
        terminal.wait_for(r"Stopped[\s\S]*shell> ", after=mark)
        mark = terminal.mark
        terminal.line("fg")
        terminal.wait_for(r"possibilities", after=mark)
        mark = terminal.mark
        terminal.type("n")
        terminal.wait_for(rf"{PROMPT} sym", after=mark)
        terminal.control("u")
        told(terminal, "info breaks", r"no breaks")
        mark = terminal.mark
        terminal.line("quit")
        terminal.wait_for(r"Quit anyway")
        terminal.line("y")
        terminal.wait_for(r"shell> ", after=mark)
