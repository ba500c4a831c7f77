"""What the default guest says of its devices: ``qemu/init`` prints a line for each thing done."""

from __future__ import annotations

from collections.abc import Collection

_MARK = b"vetrace-guest: "
_DEVICES = (b"disk", b"network")
_DEFAULT = {"disk nvme": "nvme", "disk virtio-blk": "virtio-blk", "network": "virtio-net"}
"""What the guest calls the default devices, and what ``qemu/machine.cfg`` does."""
_LONGEST = 4096  # bytes of a line; a guest may print without end


class GuestReport:
    """Listen to a guest's serial console, bytes cut anywhere, for the devices it went without."""

    def __init__(self) -> None:
        self.missing: list[str] = []
        self._rest = b""

    def take(self, data: bytes) -> None:
        """Take note of what the guest printed."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-_LONGEST:]
        for line in lines:
            _, mark, said = line.partition(_MARK)
            words = said.split()
            if mark and words and words[0] in _DEVICES and words[-1] == b"none":
                self.missing.append(b" ".join(words[:-1]).decode("ascii", "replace"))

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
