"""Transcripts: the sessions that pages show, as values; played, and held to what they show.

A fenced block of the language ``console`` is one. Lines that begin with ``$`` are commands of a
shell, lines that begin with ``(vetrace)`` are typed at the prompt that the command before them
opened, which may be in an earlier block of the page. All others are what is shown then; ``...``
stands for any number of lines. Runs of blanks and of rules are alike, whatever their length.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vetrace_run import CHECKOUT, DEADLINE

from scripts.terminal import Terminal

SHELL, PROMPT = "$ ", "(vetrace) "
REST = "..."
COLUMNS, ROWS = 120, 120

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_RELEASE = re.compile(r"\b\d+\.\d+\.\d+[-+][\w.+-]*amd64\b")

_ALWAYS = (
    (r"\b\d+\.\d{6}\b", "TIME"),
    # Linux counts in an NVMe command's identifier how often it was used (nvme_cid).
    (r"\bCID=0x[0-9a-f]+\b", "CID"),
    # Numbers of accesses, which the host's speed decides; none at all is always none.
    (r"(?<![\w.+])#?[1-9]\d*(?:,\d{3})+\b|#[1-9]\d*\b|(?<![\w.+])[1-9]\d{2,}\b(?![.-])", "COUNT"),
)
_IN_A_SHELL = (
    (r"\b\d+ only in\b", "COUNT only in"),
    (r"(?<![\w.+-])[1-9]\d*\b(?![.-]\w)", "COUNT"),
)
_TICK = re.compile(r"  lapic\+0x")  # what the timer's interrupt accesses, which comes anywhere
_OTHERWISE = (
    (r"(?<![\w.])[\w.]*[_…][\w.…]*\+0x[0-9a-f]+(?: \[\w+\])?", "SITE"),
    (r"\b0x[0-9a-f]{5,}\b", "NUMBER"),
    (r"\b\d+\.\d+[\w.+-]*", "VERSION"),
    (r"\birq\+0x[0-9a-f]+\b", "irq+VECTOR"),
    (r"\b0x[0-9a-f]+ from\b", "VECTOR from"),
)
_ACCESS = re.compile(r"TIME  vcpu\d+  ")
_SITE, _INSTRUCTION = 2, 3  # cells of a line that tells an access


@dataclass(frozen=True, slots=True)
class Step:
    """Hold a command as typed, in a shell or at the prompt, and what is shown of what it says."""

    typed: str
    shown: tuple[str, ...]

    @property
    def at_prompt(self) -> bool:
        return self.typed.startswith(PROMPT)

    @property
    def command(self) -> str:
        return self.typed.removeprefix(SHELL).removeprefix(PROMPT)


@dataclass(frozen=True, slots=True)
class Transcript:
    """Hold the steps of a page; ``release`` is that of the kernel that it names, or empty."""

    steps: tuple[Step, ...]
    release: str


def transcript(page: str) -> Transcript:
    """Read the transcript of a page's text."""
    steps: list[Step] = []
    for block in _BLOCK.findall(page):
        for line in block.splitlines():
            if line.startswith((SHELL, PROMPT)):
                steps.append(Step(line, ()))
            else:
                assert steps, f"nothing was typed before {line!r}"
                steps[-1] = Step(steps[-1].typed, (*steps[-1].shown, line))
    named = _RELEASE.search(page)
    return Transcript(tuple(steps), named[0] if named else "")


def masked(line: str, *, exact: bool, at_prompt: bool = True) -> str:
    """Return a line without what another run shows otherwise; unless ``exact``, another release."""
    line = re.sub(r"─+", "─", re.sub(r"\s{2,}", "  ", line.strip()))
    masks = (*_ALWAYS, *(() if at_prompt else _IN_A_SHELL), *(() if exact else _OTHERWISE))
    for pattern, name in masks:
        line = re.sub(pattern, name, line)
    if not exact and _ACCESS.match(line):
        # Another compiler makes another instruction.
        cells = line.split("  ")
        cells[_SITE : _INSTRUCTION + 1] = ["SITE", "INSTRUCTION"]
        line = "  ".join(cells)
    return line


def misses(shown: Sequence[str], seen: Sequence[str]) -> list[str] | None:
    """Return the first lines that should have been seen and were not, None where all are.

    Both are masked. Lines between two ``...`` stand together.
    """
    chunks: list[list[str]] = [[]]
    for line in shown:
        if line == REST:
            chunks.append([])
        elif line:
            chunks[-1].append(line)
    lines = [line for line in seen if line]
    *others, last = chunks
    if not others:
        return None if lines == last else last
    at = len(others[0])
    if lines[:at] != others[0]:
        return others[0]
    for chunk in others[1:]:
        starts = range(at, len(lines) - len(chunk) + 1)
        found = next((n for n in starts if lines[n : n + len(chunk)] == chunk), None)
        if found is None:
            return chunk
        at = found + len(chunk)
    return (
        None if len(lines) - len(last) >= at and lines[len(lines) - len(last) :] == last else last
    )


@dataclass(frozen=True, slots=True)
class Booted:
    """Hold what a boot said and the files that it left, for pages that make the same one."""

    output: str
    files: tuple[Path, ...]


@dataclass(slots=True)
class Player:
    """Play transcripts in a folder; ``kernel`` is that of all boots where it is not the default.

    ``release`` is the kernel's. ``boots`` are those that other pages have made.
    """

    folder: Path
    release: str
    kernel: Path | None = None
    boots: dict[str, Booted] = field(default_factory=dict)

    def play(self, session: Transcript) -> None:
        """Play all steps; each must succeed, and show what the page shows."""
        exact = session.release == self.release
        steps = list(session.steps)
        while steps:
            step = steps.pop(0)
            if steps and steps[0].at_prompt:
                typed = [step]
                while steps and steps[0].at_prompt:
                    typed.append(steps.pop(0))
                self._talk(typed, exact)
            else:
                self._hold(step, self._run(step.command).splitlines(), exact)

    def _hold(self, step: Step, seen: Sequence[str], exact: bool) -> None:
        missed = self._missed(step, seen, exact)
        assert missed is None, (
            f"{step.typed}: not seen:\n" + "\n".join(missed) + "\nbut:\n" + "\n".join(seen)
        )

    def _missed(self, step: Step, seen: Sequence[str], exact: bool) -> list[str] | None:
        def mask(line: str) -> str:
            return masked(line, exact=exact, at_prompt=step.at_prompt)

        told = [line for line in seen if not _TICK.search(line)]
        return misses([*map(mask, step.shown)], [*map(mask, told)])

    # ---- in a shell

    def _run(self, command: str) -> str:
        known = self.boots.get(command)
        if known is None:
            known = self._carried_out(command)
        for file in known.files:
            if file.parent != self.folder:
                shutil.copy(file, self.folder)
        return known.output

    def _carried_out(self, command: str) -> Booted:
        before = set(self.folder.iterdir())
        done = subprocess.run(
            ["bash", "-euc", self._words(command)], cwd=self.folder, env=self._environment(),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=DEADLINE,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: status {done.returncode}\n{done.stdout}"
        made = Booted(done.stdout, tuple(sorted(set(self.folder.iterdir()) - before)))
        if command.startswith("vetrace boot"):
            # A later boot of the page may write a file of the same name.
            kept = self.folder.with_name(f"{self.folder.name}.kept{len(self.boots)}")
            kept.mkdir()
            files = [Path(shutil.copy(file, kept)) for file in made.files if file.is_file()]
            self.boots[command] = Booted(made.output, tuple(files))
        return made

    def _words(self, command: str) -> str:
        chosen = "" if self.kernel is None else f" --kernel {self.kernel}"
        return command.replace("vetrace boot", f"vetrace boot{chosen}")

    def _environment(self) -> dict[str, str]:
        programs = self.folder.with_name(f"{self.folder.name}.bin")
        if not programs.exists():
            programs.mkdir()
            program = programs / "vetrace"
            program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tracer "$@"\n')
            program.chmod(0o755)
        return os.environ | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(CHECKOUT),
            "XDG_STATE_HOME": str(programs),
        }

    # ---- at the prompt

    def _talk(self, typed: Sequence[Step], exact: bool) -> None:
        opening, *steps = typed
        command = ["bash", "-euc", f"exec {self._words(opening.command)}"]
        with Terminal(
            command,
            columns=COLUMNS,
            rows=ROWS,
            environment=self._environment(),
            folder=str(self.folder),
        ) as terminal:
            self._await(terminal, opening, 0, exact)
            for number, step in enumerate(steps, 1):
                terminal.line(step.command)
                if step.command == "quit":
                    assert terminal.wait(DEADLINE) == 0
                    return
                self._await(terminal, step, number, exact)

    # Output comes when it comes: the guest's stop, long after the prompt.
    def _await(self, terminal: Terminal, step: Step, number: int, exact: bool) -> None:
        deadline = time.monotonic() + DEADLINE
        while True:
            parts = _parts(terminal.text)
            answered = len(parts) == number + 2 and not parts[-1][0].strip()
            seen = parts[number][1:] if answered else []
            if answered and self._missed(step, seen, exact) is None:
                return
            if time.monotonic() > deadline:
                self._hold(step, seen, exact)
                raise TimeoutError(f"{step.typed} is not answered:\n{terminal.text}")
            time.sleep(0.05)


# What a screen shows, parted at its prompts, each part with what was typed before its lines.
def _parts(screen: str) -> list[list[str]]:
    parts: list[list[str]] = [[""]]
    for line in screen.splitlines():
        if f"{line} ".startswith(PROMPT):
            parts.append([line[len(PROMPT) :]])
        else:
            parts[-1].append(line)
    return parts
