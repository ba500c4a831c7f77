"""A running QEMU's monitor for programs (QMP), which is reached at a socket in a folder.

Ref: unix(7), sun_path; proc(5), ``/proc/PID/cwd`` and ``/proc/PID/root``; QEMU
docs/interop/qmp-spec, 2.2 (the greeting comes first), qemu-options.hx (-qmp, -daemonize, -chroot).
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from tracer.errors import UsageError
from tracer.qemu.process_arguments import monitor_sockets, read_arguments

_ROOM = 107
"""Bytes that the path of a socket may have."""
_PATIENCE = 2.0
"""Seconds that a monitor is given to greet, where there is another one."""
_NETWORK = re.compile(r"tcp:.*|[^/]*:\d+(,.*)?")


def monitor_at(place: str) -> Path:
    """Return the socket that a person names, by its path or as ``-qmp`` has it.

    Raises UsageError for one that is reached over a network.
    """
    if Path(place).exists():
        return Path(place)
    if _NETWORK.fullmatch(place):
        raise UsageError(
            f"{place}: a monitor over TCP takes none of the files that vetrace hands to QEMU: give "
            "QEMU one more -qmp, such as unix:PATH,server=on,wait=off"
        )
    if place.startswith("unix:"):
        return Path(place.removeprefix("unix:").partition(",")[0])
    return Path(place)


def monitor_of(pid: int) -> Path:
    """Return the monitor's socket of a QEMU by its process: the first that nobody else holds.

    Raises UsageError without one.
    """
    named = monitor_sockets(read_arguments(pid))
    if not named:
        raise UsageError(
            f"process {pid} has no monitor for programs at a socket in a folder (-qmp unix:PATH): "
            "it is no QEMU, or cannot be joined"
        )
    found = [place for path in named if (place := _place(pid, path)) is not None]
    if not found:
        raise UsageError(
            f"the monitor of process {pid}, {named[0]}, is not there, seen from its folder: name "
            "it with --qmp"
        )
    return _free(found)


@contextlib.contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """Give an address for a socket's path, however long that is. Raises OSError."""
    if len(os.fsencode(path)) <= _ROOM:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _place(pid: int, path: Path) -> Path | None:
    # A process in a container has a root of its own; one that was started with -chroot has bound
    # its socket before.
    process = Path(f"/proc/{pid}")
    places = [process / "root" / path.relative_to("/"), path] if path.is_absolute() else []
    for place in places or [process / "cwd" / path]:
        with contextlib.suppress(OSError):
            if place.is_socket():
                return place
    return None


def _free(places: Sequence[Path]) -> Path:
    # QEMU serves one client a monitor, and whoever waits in line is not greeted.
    for place in places[:-1]:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(_PATIENCE)
            with socket_address(place) as address:
                channel.connect(address)
            if channel.recv(1):
                return place
    return places[-1]
