"""What a QEMU that runs was started with, from its process: monitor, clock, log.

Ref: proc(5), ``/proc/PID/cmdline``; QEMU qemu-options.hx (-qmp, -mon, -chardev, -icount, -D, -d).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from tracer.errors import UsageError

_MONITORS = ("-qmp", "-qmp-pretty")


def read_arguments(pid: int) -> list[str]:
    """Return the words of a process's command line. Raises UsageError where there is none."""
    try:
        data = Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        raise UsageError(f"there is no process {pid}") from None
    except OSError as error:
        raise UsageError(f"process {pid} cannot be looked at: {error.strerror}") from error
    return [word.decode(errors="surrogateescape") for word in data.split(b"\0")[:-1]]


def monitor_sockets(words: Sequence[str]) -> list[Path]:
    """Return the sockets of the monitors for programs (QMP) in QEMU's words, as these name them.

    A path that is relative begins in the folder that QEMU was started in.
    """
    sockets, all_found = dict(_chardevs(words)), []
    for option, value in _options(words):
        found = None
        if option in _MONITORS:
            found = _unix(value) or sockets.get(value.removeprefix("chardev:"))
        elif option == "-mon":
            fields = _fields(value, "chardev")
            if fields.get("mode") == "control":
                found = sockets.get(fields.get("chardev", ""))
        if found is not None:
            all_found.append(Path(found))
    return all_found


def counts_instructions(words: Sequence[str]) -> bool:
    """Tell whether virtual time counts instructions."""
    return any(option == "-icount" for option, _ in _options(words))


def log_of(words: Sequence[str]) -> tuple[str, str]:
    """Return the file that QEMU logs to, empty for standard error, and the items that it logs."""
    file, items = "", "none"
    for option, value in _options(words):
        if option == "-D":
            file = value
        elif option == "-d":
            items = value
    return file, items


def _options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    for option, value in pairwise([*words, ""]):
        if option.startswith("-"):
            yield option.replace("--", "-", 1), value


def _chardevs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    # Names of those that are sockets in a folder, with their paths.
    for option, value in _options(words):
        if option == "-chardev" and value.startswith("socket,"):
            fields = _fields(value, "backend")
            if "id" in fields and "path" in fields:
                yield fields["id"], fields["path"]


def _unix(value: str) -> str | None:
    if not value.startswith("unix:"):
        return None
    return _split(value.removeprefix("unix:"))[0] or None


def _fields(value: str, first: str) -> dict[str, str]:
    # The first field may go without its name.
    found: dict[str, str] = {}
    for number, part in enumerate(_split(value)):
        name, there, content = part.partition("=")
        if there:
            found[name] = content
        elif number == 0:
            found[first] = name
    return found


def _split(value: str) -> list[str]:
    # A comma in a value is doubled.
    return [part.replace("\0", ",") for part in value.replace(",,", "\0").split(",")]
