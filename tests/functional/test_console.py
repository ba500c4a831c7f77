"""Somebody at the guest's console: by a socket, a pseudo-terminal, or from the prompt."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prompt_terminal import PROMPT, session, told
from vetrace_run import DEADLINE, Run, agreed, read_trace, run, vetrace

from scripts.terminal import Terminal

pytestmark = pytest.mark.qemu

ASKING = """\
#!/bin/sh
until [ -b /dev/nvme0n1 ]; do sleep 0.1; done
echo 'own: who?'
read -r name
disk=$(dd if=/dev/nvme0n1 bs=64k iflag=direct 2>/dev/null | sha256sum | cut -c -8)
echo "own: $name, disk $disk"
echo "own: $(dmesg | grep -cE 'WARNING|BUG:|Oops|stall|lockup|Call Trace') warnings"
"""
"""It asks, and reads a disk by DMA once it was answered."""


def saying(path: Path) -> list[str]:
    text = path.read_text(errors="replace").replace("\r", "")
    return [line for line in text.splitlines() if line.startswith("own: ")]


def until(said: bytes, read: Callable[[], bytes], got: bytes = b"") -> bytes:
    deadline = time.monotonic() + DEADLINE
    while said not in got:
        assert time.monotonic() < deadline, got
        got += read()
    return got


def listens(person: socket.socket, place: Path) -> bool:
    """Connect, unless the socket is there and nobody listens at it yet."""
    try:
        person.connect(str(place))
    except ConnectionRefusedError:
        return False
    return True


def asked(folder: Path, *words: str | Path) -> Run:
    """Boot a guest that asks, come to its socket, and answer."""
    folder.mkdir()
    (folder / "ask").write_text(ASKING)
    place = folder / "console"
    with vetrace(
        folder, "boot", "--init", folder / "ask", "--console", place,
        "--serial", folder / "serial", "--quiet", *words,
    ) as running:  # fmt: skip
        running.until(place.is_socket, "a console")
        assert place.stat().st_mode & 0o777 == 0o700
        with socket.socket(socket.AF_UNIX) as person:
            running.until(lambda: listens(person, place), "who listens there")
            got = until(b"own: who?", lambda: person.recv(4096))
            with socket.socket(socket.AF_UNIX) as other:
                other.connect(str(place))
                refused = until(b"\n", lambda: other.recv(4096))
                assert b"has the guest's console: leave it there first" in refused
                assert other.recv(4096) == b""
            person.sendall(b"Ada\r")
            until(b"warnings", lambda: person.recv(4096), got)
        done = running.finish()
    assert not place.exists()
    told = [line for line in done.err.splitlines() if "console is at" in line]
    assert len(told) == 1 and str(place) in told[0]
    return done


def test_one_at_a_socket_types_and_the_guest_does_what_it_does_untraced(tmp_path: Path) -> None:
    traced = asked(tmp_path / "traced", "--check", "-o", tmp_path / "trace.vtrace")
    assert agreed(traced) > 1000
    assert read_trace(tmp_path / "trace.vtrace").end.outcome == "poweroff"
    untraced = asked(tmp_path / "untraced", "--untraced")
    assert untraced.status == 0, untraced.err
    said = saying(tmp_path / "traced" / "serial")
    assert said == saying(tmp_path / "untraced" / "serial")
    assert said[0] == "own: who?" and said[1].startswith("own: Ada, disk ") and len(said) == 3


def come(terminal: Terminal) -> int:
    """Come to the console once it is free, which is noticed in a moment; return the mark before."""
    while True:
        mark = terminal.mark
        terminal.line("console")
        refused = rf"has the guest's console: leave it there first\n{PROMPT}"
        terminal.wait_for(rf"At the guest's console|{refused}", after=mark)
        if b"At the guest's console" in terminal.raw[mark:]:
            return mark


def test_one_at_the_prompt_goes_to_the_console_and_comes_back(tmp_path: Path) -> None:
    (tmp_path / "ask").write_text(ASKING)
    with session(tmp_path, "--init", str(tmp_path / "ask"), "--console", "pty") as terminal:
        (name,) = re.findall(r"console is at (/dev/pts/\d+)", terminal.text)
        told(terminal, "watch off")
        told(terminal, "tbreak read nvme.CSTS")
        # A stop comes back by itself.
        terminal.line("console")
        terminal.wait_for(rf"At the guest's console[\s\S]*break 1[\s\S]*{PROMPT}")
        told(terminal, "console now", "takes no argument")
        told(terminal, "monitor info version", r"\d+\.\d+\.\d+")
        told(terminal, "monitor cont", "cont is vetrace's to do")
        mark = terminal.mark
        terminal.line("console")
        terminal.wait_for(r"own: who\?", after=mark)
        terminal.control("]")
        terminal.wait_for(rf"who\?[\s\S]*{PROMPT}", after=mark)

        # Who has opened the pseudo-terminal has it, until it is closed again.
        guest = os.open(name, os.O_RDWR | os.O_NOCTTY)
        try:
            until(b"own: who?", lambda: os.read(guest, 4096))
            told(terminal, "console", rf"{name} has the guest's console")
            os.write(guest, b"A")
            until(b"A", lambda: os.read(guest, 4096))
        finally:
            os.close(guest)
        mark = come(terminal)
        terminal.type("da\r")
        terminal.wait_for(r"own: Ada, disk [0-9a-f]{8}\s+own: 0 warnings", after=mark)
        terminal.wait_for(rf"powered off[\s\S]*{PROMPT}", after=mark)
        told(terminal, "console", "the guest has ended")
        terminal.line("quit")
        assert terminal.wait() == 0


def test_what_cannot_be_is_told_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for place, why in (
        (file, "Address already in use, by what is no free socket"),
        (tmp_path, "it is a folder: give a path in it"),
        (tmp_path / "none" / "console", "No such file"), (tmp_path / ("long" * 40), "too long"),
    ):  # fmt: skip
        done = run(tmp_path, "boot", "--console", place)
        assert done.status == 2 and done.out == ""
        (line,) = done.err.splitlines()
        assert why in line
    assert file.exists()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "taken"))
        other.listen()
        done = run(tmp_path, "boot", "--console", tmp_path / "taken")
    assert "another program listens there" in done.err
    # One that was killed has left this; a script has nobody at a terminal.
    done = run(tmp_path, "boot", "--console", tmp_path / "taken", "-e", "console")
    assert done.status == 2 and "nobody is at a terminal" in done.err
    assert not (tmp_path / "taken").exists()
