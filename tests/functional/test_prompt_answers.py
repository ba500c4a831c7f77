"""What is shown at the prompt: answers while the guest runs, lists on narrow terminals, hints."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from prompt_terminal import PROMPT, session, told

from scripts.patience import patience
from scripts.terminal import Terminal

pytestmark = pytest.mark.qemu


def shows(terminal: Terminal, text: str) -> None:
    """Wait until the line above the prompt has a text: the screen is drawn again and again."""
    deadline = time.monotonic() + patience(60)
    while True:
        shown = [line for line in terminal.text.splitlines() if line.strip()]
        prompts = [n for n, line in enumerate(shown) if line.startswith("(vetrace)")]
        if prompts and text in shown[prompts[-1] - 1]:
            return
        assert time.monotonic() < deadline, terminal.text
        time.sleep(0.02)


def goes_by(terminal: Terminal, count: int) -> None:
    """Wait until accesses have been shown."""
    mark = terminal.mark
    for _ in range(count // 10):
        mark = terminal.wait_for(r"^ *\d+\.\d+ .*[RW]\d ", after=mark)
    terminal.wait_for(r"^ *\d+\.\d+ .*[RW]\d ", after=mark)


def test_an_answer_stays_at_the_prompt_while_the_guest_runs(tmp_path: Path) -> None:
    with session(tmp_path, "--every-stop", columns=100, rows=30) as terminal:
        # The guest comes there late in its boot, when all is said and done below.
        told(terminal, "tbreak virtio-net.notify", r"break 1")
        terminal.line("c")
        mark = terminal.wait_for(r"^ *\d+\.\d+ .*[RW]\d ")
        terminal.line("info breaks")
        terminal.wait_for(r"0 hits  virtio-net\.notify", after=mark)
        # More goes by than the screen holds.
        goes_by(terminal, 40)
        shows(terminal, "0 hits  virtio-net.notify")
        terminal.line("nonsense; info breaks")
        goes_by(terminal, 40)
        shows(terminal, "there is no command nonsense")
        # A stop comes below it, apart from what went by. The prompt may be drawn between the two
        # for a moment, so that the screen is held to it, and not what was written.
        terminal.wait_for(rf"^break 1: virtio-net\.notify[\s\S]*{PROMPT}", after=mark)
        screen = terminal.screen
        lines = [line.rstrip() for line in screen.display]
        row = next(n for n, line in enumerate(lines) if line.startswith("break 1: "))
        assert lines[row - 2 : row] == ["there is no command nonsense; `help` lists all", ""]
        assert lines[row] == "break 1: virtio-net.notify"
        assert screen.buffer[row][0].reverse and screen.buffer[row][0].bold


LOOKING = (
    "help",
    "help break",
    "info devices",
    "info region nvme",
    "regs all",
    "trace",
    "bt",
    "page",
)


def answers(terminal: Terminal) -> set[str]:
    """Return the words of what is answered, as the screen shows them."""
    words: set[str] = set()
    for line in LOOKING:
        mark = terminal.mark
        terminal.control("l")  # clears the screen
        terminal.line(f"{line}; mark seen")
        terminal.wait_for(r"noted at", after=mark)
        *shown, _ = terminal.text.splitlines()  # without the toolbar
        words |= set("\n".join(shown).split())
    return words


def test_no_word_is_parted_on_a_narrow_terminal(tmp_path: Path) -> None:
    with session(tmp_path, columns=200, rows=140) as terminal:
        told(terminal, "watch off")
        told(terminal, "step 3", r"step\n *\d+\.\d+ ")
        wide = answers(terminal)
        terminal.resize(48, 140)
        narrow = answers(terminal)
    # A column that is cut to its width says so, and tables have lines.
    parted = {word for word in narrow - wide if "…" not in word and not set(word) <= set("─ ")}
    assert parted == set()
    assert {"nvme.msix-table", "PMRSWTP,", "0xfebf0000-0xfebf1fff", "backtrace"} <= narrow


def test_hints_are_listed(tmp_path: Path) -> None:
    with session(tmp_path, columns=100, rows=40) as terminal:
        for typed, shown in (
            ("st\t", r"^stats +accesses so far[\s\S]*^step +go on to before the next"),
            (
                "break nvme if register == CMB\t",
                r"^CMBLOC +\+0x38 +Controller Memory Buffer Location",
            ),
            ("regs $r1\t", r"^\$r10 +0x[0-9a-f]+"),
            ("break symbol nvme_pci_\t", r"^nvme_pci_\w+ +nvme_pci_\w+"),
        ):
            mark = terminal.mark
            terminal.type(typed)
            terminal.wait_for(rf"{shown}[\s\S]*{PROMPT}", after=mark)
            terminal.control("u")
        mark = terminal.mark
        terminal.type("sym \t")
        terminal.wait_for(r"[\d,]{5,} begin so, 200 are listed\. Display all 200", after=mark)
        terminal.type("n")
        terminal.control("u")
        told(terminal, "set rax 5", r"did you mean \$rax\?")
        told(terminal, "poke nvme.CSTS 0", r"CSTS.*read-only")
        told(terminal, "poke nvme.INTMS 0", r"INTMS.*written")
