"""`vetrace open` as the person at it has it: a real terminal, of several sizes and kinds."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trace_sample as sample
from prompt_terminal import PROMPT, environment, told
from vetrace_run import CHECKOUT

from scripts.patience import patience
from scripts.terminal import Terminal
from tracer.trace import codec
from tracer.trace.writer import TraceWriter

TRACE = CHECKOUT / "tests" / "golden" / "6.1.0-56-cloud-amd64" / "nvme.vtrace.zst"

# Select graphic rendition (ECMA-48, 8.3.117), with a colour among what is selected.
COLOURS = re.compile(rb"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;\d+)*m")


def opened(
    folder: Path, columns: int = 120, rows: int = 40, *arguments: str,
    trace: str = "nvme.vtrace.zst", **variables: str,
) -> Terminal:  # fmt: skip
    """Open a trace, by default that of a driver that resets its controller."""
    shutil.copy(TRACE, folder / "nvme.vtrace.zst")
    return Terminal(
        [sys.executable, "-m", "tracer", "open", trace, *arguments],
        columns=columns, rows=rows, folder=str(folder),
        environment={**environment(folder), **variables},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "rows", "variables"),
    [
        (120, 40, {}), (80, 24, {}), (60, 20, {}), (80, 24, {"TERM": "dumb"}),
        (80, 24, {"NO_COLOR": "1"}), (60, 20, {"TERM": "dumb"}),
    ],
    ids=["120x40", "80x24", "60x20", "dumb", "no-color", "dumb-60"],
)  # fmt: skip
def test_one_walks_to_and_fro(
    tmp_path: Path, columns: int, rows: int, variables: dict[str, str]
) -> None:
    with opened(tmp_path, columns, rows, **variables) as terminal:
        terminal.wait_for(rf"at the first access[\s\S]*{PROMPT}")
        told(terminal, "break write nvme.CC if value & 1", r"break 1: write nvme\.CC")
        told(terminal, "c", r"break 1: [\s\S]*1\.125140 .*CC")
        told(terminal, "back", r"back[\s\S]*1\.125120 .*CAP")
        told(terminal, "", r"back[\s\S]*1\.125100 .*CAP")
        told(terminal, "plan", r"accesses[\s\S]*now[\s\S]*CAP")
        told(terminal, "regs", r"rip +0xffffffff")
        told(terminal, "goto end", r"the end of the trace")
        told(terminal, "rc", r"break 1: [\s\S]*4\.670082 .*CC")
        told(terminal, "peek nvme.CC", r"peek needs a guest")
        told(terminal, "rs", r"back[\s\S]*4\.670060")
        told(terminal, "set pager off")
        told(
            terminal,
            "tally count by register, function if register is CC",
            r"CC +nvme_pci_reg_write32 +4\b[\s\S]*5 accesses in 2 groups",
        )
        told(terminal, "tally hist(value & 0xffff)", r"\[0x1\] +146 \|@+[\s\S]*321 accesses")
        told(terminal, "info register nvme.CC", r"Controller Configuration[\s\S]*\n0 +EN +\d")
        told(terminal, "stats 3", r"\n +nvme +15 +110 [\s\S]*… 26 more")
        told(terminal, "show last 2", r"4\.670000 [\s\S]*4\.670025 ")
        told(terminal, "save breaks kept", r"1 break in kept")
        told(terminal, "alias shown info breaks")
        told(terminal, "shown", r"1 +\d+ hits? +write nvme\.CC if value & 1")
        told(terminal, "restart", r"access 0\b")
        # No line is parted where the screen ends, and nothing but colours steers it.
        shown = terminal.text.splitlines()
        assert all(len(line.rstrip()) <= columns for line in shown)
        if "NO_COLOR" in variables or variables.get("TERM") == "dumb":
            assert not COLOURS.search(terminal.raw)
        terminal.line("quit")
        assert terminal.wait() == 0


def test_a_pipe_gets_the_same_in_plain_lines() -> None:
    typed = (
        "break write nvme.CC if value & 1", "c", "plan",
        "tally count by register if register is CC", "info register nvme.CC",
        "stats 3", "show last 2", "restart", "quit",
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "tracer", "open", TRACE], check=False, text=True, cwd=CHECKOUT,
        input="\n".join(typed), capture_output=True, timeout=patience(60),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = (
        "break 1: write nvme.CC", "now  W4", "5 accesses in 1 group", "Controller Configuration",
        "26 more", "1.125100", "access 0",
    )  # fmt: skip
    at = [done.stdout.find(each) for each in told]
    assert at == sorted(at) and at[0] >= 0, done.stdout
    assert "\x1b" not in done.stdout + done.stderr and "\r" not in done.stdout


def test_the_line_at_the_bottom_tells_where_it_stands(tmp_path: Path) -> None:
    with opened(tmp_path, 100, 24) as terminal:
        # By the number that `goto` takes.
        terminal.wait_for(r"access #0  1\.123")
        terminal.line("goto end")
        terminal.wait_for(r"the end of 321 accesses")
        terminal.line("rc")
        terminal.wait_for(r"access #0, 1 of 321")


def test_keys_complete_and_interrupt(tmp_path: Path) -> None:
    with opened(tmp_path) as terminal:
        terminal.wait_for(PROMPT)
        told(terminal, "reverse-c\t", r"the beginning of the trace")
        told(terminal, "break nvme.CS\t", r"break 1: nvme\.CSTS")
        terminal.type("del")
        terminal.control("c")
        os.kill(terminal.pid, signal.SIGINT)
        told(terminal, "step", r"vcpu0")
        terminal.control("d")
        assert terminal.wait() == 0


def test_ctrl_c_ends_a_search_where_it_is(tmp_path: Path) -> None:
    # So much to look at, one by one, that nobody sees the end of it.
    path, count = tmp_path / "long.vtrace", 200_000
    many(path, count)
    with opened(tmp_path, 100, 24, trace=path.name) as terminal:
        terminal.wait_for(PROMPT)
        told(terminal, "break if value == 0x12345", r"break 1: ")
        told(terminal, "goto 1000", r"access 1000")
        for line in ("continue", "stats", "show next nvme if value == 0x12345", "goto end",
                     "break if function == nobody", "until nobody", "info trace"):  # fmt: skip
            mark = terminal.mark
            terminal.line(line)
            terminal.wait_for(re.escape(line), after=mark)
            time.sleep(0.2)  # so that it is under way
            terminal.control("c")
            terminal.wait_for(rf"interrupted[\s\S]*\n{PROMPT}", after=mark)
            told(terminal, "info breaks", r"1 +0 hits")
            told(terminal, "plan", r"accesses[\s\S]*now")
        told(terminal, "goto start", r"access 0")
        told(terminal, "break if seq == 2000", r"break \d: ")
        told(terminal, "continue", r"break \d: if seq == 2000")
        terminal.line("quit")
        assert terminal.wait() == 0


def many(path: Path, count: int) -> None:
    """Write a trace of so many accesses."""
    first = sample.intercept(0, sample.device("nvme", 0x1C, 4, "read", 1))
    with TraceWriter(path, sample.HEADER) as trace:
        trace.append(sample.region("nvme"))
        line = codec.encode(first).replace(b'"seq":0,', b'"seq":%d,')
        for seq in range(count):
            trace.copy(line % seq)
        trace.append(sample.end(count))


def test_a_prompt_begins_with_what_the_person_wants(tmp_path: Path) -> None:
    own = tmp_path / "config" / "vetrace"
    own.mkdir(parents=True)
    (own / "rc").write_text("alias on step 2\n\nnonsense\nbreak write nvme.CC\n")
    with opened(tmp_path, 120, 40, XDG_CONFIG_HOME=str(tmp_path / "config")) as terminal:
        terminal.wait_for(rf"rc:3: there is no command\s+nonsense[\s\S]*{PROMPT}")
        told(terminal, "on", r"step[\s\S]*vcpu0")
        told(terminal, "continue", r"break 1: write nvme\.CC")


def shows(terminal: Terminal, pattern: str, typed: str | None = None) -> None:
    """Wait until the screen shows a pattern, of which only what differs is written anew.

    With ``typed`` the cursor is to be behind this, at the prompt's beginning of a line.
    """
    deadline = time.monotonic() + patience(90)
    while not re.search(pattern, terminal.text, re.MULTILINE) or (
        typed is not None and terminal.screen.cursor.x != len(typed)
    ):
        assert time.monotonic() < deadline, f"{pattern!r} is not shown:\n{terminal.text}"
        time.sleep(0.05)


@pytest.mark.parametrize(("columns", "rows"), [(120, 40), (80, 24), (60, 20)])
def test_a_menu_tells_what_a_word_can_become(tmp_path: Path, columns: int, rows: int) -> None:
    with opened(tmp_path, columns, rows) as terminal:
        terminal.wait_for(PROMPT)
        terminal.type("rev")
        shows(terminal, r"^ +reverse-continue +\w+")
        terminal.control("u")
        # Letters of a register, in their order: what fits best comes first.
        terminal.type("tbreak CSTS")
        shows(terminal, r"tbreak CSTS\n +nvme\.CSTS +\+0x1c  Con")
        terminal.type("\x1b[B")  # down
        mark = terminal.mark
        terminal.line("")
        terminal.wait_for(rf"break 1: nvme\.CSTS \(once\)\s*\n{PROMPT}", after=mark)
        terminal.type("until nvme_reset_w")
        shows(terminal, r"^ +nvme_reset_work +0xffffffff")


def test_what_is_typed_has_colours_and_an_end(tmp_path: Path) -> None:
    with opened(tmp_path, 100, 24) as terminal:
        terminal.wait_for(PROMPT)
        told(terminal, "break write nvme.CC if value & 1", r"break 1: ")
        mark = terminal.mark
        terminal.type("nonsense 0x10")
        terminal.wait_for(r"0x10", after=mark)
        (line,) = [
            row for row in range(24)
            if terminal.text.splitlines()[row : row + 1] == ["(vetrace) nonsense 0x10"]
        ]  # fmt: skip
        colours = [terminal.screen.buffer[line][column].fg for column in (10, 17, 19)]
        assert colours == ["red", "red", "cyan"]
        terminal.control("u")
        terminal.type("break w")
        # It is suggested before the last letter has come, too, and then anew.
        shows(terminal, r"^\(vetrace\) break write nvme\.CC if value & 1", "(vetrace) break w")
        mark = terminal.mark
        terminal.type("\x1b[C\r")  # right: as it was suggested
        terminal.wait_for(rf"break 2: write nvme\.CC if value & 1\s*\n{PROMPT}", after=mark)
    kept = tmp_path / "state" / "vetrace" / "history"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_a_long_answer_has_a_pager(tmp_path: Path) -> None:
    with opened(tmp_path, 80, 24, PAGER="sed 's/^/| /'") as terminal:
        terminal.wait_for(PROMPT)
        told(terminal, "help", r"\n\| go on:[\s\S]*\n\|   back, rs")
        told(terminal, "info breaks", r"\nthere are no breaks")
        told(terminal, "set pager off", r"pager is off")
        told(terminal, "help", r"\ngo on:[\s\S]*\n  back, rs")
    with opened(tmp_path, 80, 24, PAGER="/no/such/pager") as terminal:
        terminal.wait_for(PROMPT)
        told(terminal, "help", r"\ngo on:[\s\S]*\n  back, rs")


def test_the_keys_are_those_of_vi(tmp_path: Path) -> None:
    own = tmp_path / "config" / "vetrace"
    own.mkdir(parents=True)
    (own / "rc").write_text("set editing-mode vi\n")
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nprintf 'tbreak nvme.VS\\ntbreak nvme.CC\\n' > \"$1\"\n")
    editor.chmod(0o755)
    variables = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "EDITOR": str(editor), "VISUAL": ""}
    with opened(tmp_path, 100, 24, **variables) as terminal:
        terminal.wait_for(PROMPT)
        terminal.type("xinfo breaks\x1b")
        time.sleep(patience(1))  # else what follows would belong to Escape
        mark = terminal.mark
        terminal.type("0x\r")
        terminal.wait_for(rf"there are no breaks[\s\S]*\n{PROMPT}", after=mark)
        told(terminal, "set editing-mode emacs", r"editing-mode is emacs")
        mark = terminal.mark
        terminal.type("\x18\x05")  # Ctrl-X Ctrl-E
        terminal.wait_for(rf"nvme\.VS[\s\S]*: nvme\.CC \(once\)\s*\n{PROMPT}", after=mark)


def test_orders_are_typed_line_by_line(tmp_path: Path) -> None:
    with opened(tmp_path, 80, 24) as terminal:
        terminal.wait_for(PROMPT)
        told(terminal, "break write nvme.CC", r"break 1")
        for line in ("commands", "silent"):
            mark = terminal.mark
            terminal.line(line)
            terminal.wait_for(r"\n>", after=mark)
        terminal.control("c")  # they are forgotten
        told(terminal, "info breaks", r"1 +0 hits")
        for line in ("commands", "silent", "regs rip", "c"):
            mark = terminal.mark
            terminal.line(line)
            terminal.wait_for(r"\n>", after=mark)
        told(terminal, "end")
        mark = terminal.mark
        told(terminal, "c", r"rip +0xffffffff\w+\s+rip[\s\S]*the end of the trace")
        assert b"break 1: " not in terminal.raw[mark:]


def test_plain_is_only_written(tmp_path: Path) -> None:
    with opened(tmp_path, 80, 24, "--plain") as terminal:
        terminal.wait_for(PROMPT)
        told(terminal, "break write nvme.CC", r"break 1: write nvme\.CC")
        told(terminal, "c", r"\n +1\.\d+  vcpu0  nvme_pci_reg_write32\+0xb .* CC .*W4 +0x00000000")
        told(terminal, "stats", r"by call site|call site")
        terminal.line("quit")
        assert terminal.wait() == 0
    # Neither moves a cursor nor draws anything.
    assert not re.search(rb"\x1b\[[0-9;]*[A-HJKST`defm]", terminal.raw)
    assert not re.search("[\u2500-\u259f]", terminal.raw.decode())
