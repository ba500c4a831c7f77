"""tracer.qemu.monitor_door: where a QEMU has its monitor for programs."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracer.errors import UsageError
from tracer.qemu.monitor_door import monitor_at, monitor_of, socket_address


@contextlib.contextmanager
def monitors(folder: Path, *held: bool) -> Iterator[list[Path]]:
    """Have monitors at sockets, of which those that are not held greet whoever comes."""
    with contextlib.ExitStack() as stack:
        paths = []
        for number, silent in enumerate(held):
            path = folder / str(number)
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(str(path))
            server.listen()
            paths.append(path)
            if not silent:
                threading.Thread(target=_greet, args=[server], daemon=True).start()
        yield paths


def _greet(server: socket.socket) -> None:
    with server.accept()[0] as client:
        client.sendall(b'{"QMP": {}}\r\n')


@contextlib.contextmanager
def process(folder: Path, *words: str | Path) -> Iterator[int]:
    """Have a process in a folder that has these words on its command line."""
    code = "import sys; sys.stdout.write('.'); sys.stdout.flush(); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], cwd=folder,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as started:  # fmt: skip
        assert started.stdout is not None and started.stdout.read(1) == b"."
        yield started.pid


def test_of_several_monitors_it_is_the_first_that_nobody_holds(tmp_path: Path) -> None:
    with (
        monitors(tmp_path, True, False, False) as (first, second, _),
        process(tmp_path, "-qmp", f"unix:{first}", "-qmp", "unix:1", "-qmp", "unix:2") as pid,
    ):
        assert monitor_of(pid).samefile(second)


def test_where_all_are_held_it_is_the_last(tmp_path: Path) -> None:
    with monitors(tmp_path, True, True), process(
        tmp_path, "-qmp", "unix:0", "-qmp", "unix:1"
    ) as pid:  # fmt: skip
        assert monitor_of(pid).samefile(tmp_path / "1")


def test_a_monitor_that_is_elsewhere_is_passed_over_or_told(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with monitors(tmp_path, True) as (there,):
        with process(elsewhere, "-qmp", "unix:0", "-qmp", f"unix:{there}") as pid:
            assert monitor_of(pid).samefile(there)
        # As of a QEMU with -daemonize, which leaves the folder that it was started in.
        with (
            process(elsewhere, "-qmp", "unix:0") as pid,
            pytest.raises(UsageError, match="0, is not there, seen from its folder: name it with"),
        ):
            monitor_of(pid)


def test_a_process_without_a_monitor_is_told() -> None:
    with pytest.raises(UsageError, match="has no monitor for programs at a socket in a folder"):
        monitor_of(os.getpid())


def test_a_socket_is_named_by_its_path_or_as_qemu_has_it(tmp_path: Path) -> None:
    assert monitor_at("/run/a") == Path("/run/a")
    assert monitor_at("unix:/run/a,server=on,wait=off") == Path("/run/a")
    odd = tmp_path / "host:1"
    odd.touch()
    assert monitor_at(str(odd)) == odd


@pytest.mark.parametrize("place", ["localhost:4444", ":4444", "tcp:h:4444,server=on", "::1:4444"])
def test_a_monitor_over_a_network_is_told_with_what_to_do(place: str) -> None:
    with pytest.raises(UsageError, match=r"a monitor over TCP .* give QEMU one more -qmp"):
        monitor_at(place)


def test_a_socket_far_down_is_reached_as_well(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 60) / ("b" * 60)
    folder.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        with socket_address(folder / "qmp") as address:
            server.bind(address)
        server.listen()
        with socket_address(folder / "qmp") as address:
            client.connect(address)
    with socket_address(Path("/run/short")) as address:
        assert address == "/run/short"
