"""`vetrace open` as the person at it has it: a real terminal, of several sizes and kinds."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from prompt_terminal import PROMPT, environment, told
from vetrace_run import CHECKOUT

from scripts.terminal import Terminal

TRACE = CHECKOUT / "tests" / "golden" / "6.1.0-56-cloud-amd64" / "nvme.vtrace.zst"


def opened(folder: Path, columns: int = 120, rows: int = 40, **variables: str) -> Terminal:
    """Open the trace of a driver that resets its controller."""
    shutil.copy(TRACE, folder / "nvme.vtrace.zst")
    return Terminal(
        [sys.executable, "-m", "tracer", "open", "nvme.vtrace.zst"], columns=columns, rows=rows,
        environment={**environment(folder), **variables}, folder=str(folder),
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
        # No line is parted where the screen ends, and nothing but colours steers it.
        shown = terminal.text.splitlines()
        assert all(len(line.rstrip()) <= columns for line in shown)
        if "NO_COLOR" in variables or variables.get("TERM") == "dumb":
            assert b"\x1b[3" not in terminal.raw and b"\x1b[1;3" not in terminal.raw
        terminal.line("quit")
        assert terminal.wait() == 0


def test_the_line_at_the_bottom_tells_where_it_stands(tmp_path: Path) -> None:
    with opened(tmp_path, 100, 24) as terminal:
        terminal.wait_for(r"access 1 of \?")
        terminal.line("goto end")
        terminal.wait_for(r"the end of 321 accesses")
        terminal.line("rc")
        terminal.wait_for(r"access 1 of 321")


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


def test_a_prompt_begins_with_what_the_person_wants(tmp_path: Path) -> None:
    own = tmp_path / "config" / "vetrace"
    own.mkdir(parents=True)
    (own / "rc").write_text("alias on step 2\n\nnonsense\nbreak write nvme.CC\n")
    with opened(tmp_path, 120, 40, XDG_CONFIG_HOME=str(tmp_path / "config")) as terminal:
        terminal.wait_for(rf"rc:3: there is no command\s+nonsense[\s\S]*{PROMPT}")
        told(terminal, "on", r"step[\s\S]*vcpu0")
        told(terminal, "continue", r"break 1: write nvme\.CC")
