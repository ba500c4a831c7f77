"""The default guest tells of itself: ``qemu/init`` prints a line for each thing done."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from tracer.linux.module_folder import name_of

_MARK = b"vetrace-guest: "
_DEVICES = (b"disk", b"network")
_DEFAULT = {"disk nvme": "nvme", "disk virtio-blk": "virtio-blk", "network": "virtio-net"}
"""What the guest calls the default devices, and what ``qemu/machine.cfg`` does."""
_SHELL = {
    126: "it cannot be run there: is it a program for another machine, or a folder?",
    127: "a program that it calls, or the one in its first line, is not in the guest: --add it",
}
"""A shell ends with these where it could not run a command (POSIX.1-2017, XCU 2.8.2)."""
_LONGEST = 4096  # bytes of a line; a guest may print without end


class GuestReport:
    """Listen to a guest's serial console, bytes cut anywhere, for what went wrong in it.

    ``missing`` are the devices that it went without, ``unloaded`` the modules that the kernel
    refused, and ``status`` is that of the reader's script, None where none has ended.
    """

    def __init__(self) -> None:
        self.missing: list[str] = []
        self.unloaded: list[str] = []
        self.status: int | None = None
        self._rest = b""

    def take(self, data: bytes) -> None:
        """Take note of what the guest printed."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-_LONGEST:]
        for line in lines:
            _, mark, said = line.partition(_MARK)
            if mark:
                self._note(said.split())

    def _note(self, words: list[bytes]) -> None:
        match words:
            case [kind, *_, b"none"] if kind in _DEVICES:
                self.missing.append(b" ".join(words[:-1]).decode("ascii", "replace"))
            case [b"module", name, b"failed"]:
                self.unloaded.append(name.decode("ascii", "replace"))
            case [b"script", b"status", number] if number.isdigit():
                self.status = int(number)

    def unloaded_of(self, wanted: Iterable[str]) -> list[str]:
        """Return the modules among those that the reader wants, by name or file, that failed."""
        names = {name_of(word) for word in wanted}
        return [name for name in self.unloaded if name in names]

    def missing_of(self, devices: Collection[str]) -> list[str]:
        """Return the default devices that it went without and that its machine has.

        ``devices`` are the names of the machine's.
        """
        return [name for name in self.missing if _DEFAULT.get(name) in devices]


def why_missing(missing: list[str], release: str, *, modules: bool) -> str:
    """Return in one line that the default guest went without devices, and what to do."""
    cause = (
        "its drivers did not load: see the guest's console with --serial FILE"
        if modules
        else "there are no modules beside its image, where packages have them: keep the image there"
    )
    return f"the default guest found no {', no '.join(missing)} under Linux {release}: {cause}"


def why_unloaded(unloaded: list[str]) -> str:
    """Return in one line that the guest's kernel refused modules, and what to do."""
    return (
        f"the guest's kernel did not load {', '.join(unloaded)}: its console says why (--serial "
        "FILE keeps it)"
    )


def why_failed(script: Path, status: int) -> str:
    """Return in one line that the reader's script failed in the guest, and what to do."""
    told = _SHELL.get(status, "its console says why (--serial FILE keeps it)")
    return f"the script {script} ended with status {status} in the guest: {told}"
