"""Disks that QEMU could not read or write for its guest, by the events of its monitor.

Ref: QEMU qapi/block-core.json (BLOCK_IO_ERROR, BLOCK_IMAGE_CORRUPTED).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

EVENTS = "BLOCK_IO_ERROR", "BLOCK_IMAGE_CORRUPTED"
"""The events that tell of it."""
_KINDS = 20  # of faults that are told apart; a guest may try again without end


class DiskFaults:
    """Count what went wrong with disks, by kind."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def take(self, event: Mapping[str, object]) -> bool:
        """Count an event of :data:`EVENTS`; return that it is not to be kept."""
        words = _words(event)
        if words and (words in self._counts or len(self._counts) < _KINDS):
            self._counts[words] += 1
        return False

    def lines(self) -> list[str]:
        """Return a line for each kind of fault that there was, with how often."""
        return [
            f"{words}{f', {count:,} times' if count > 1 else ''}"
            for words, count in self._counts.items()
        ]


def _words(event: Mapping[str, object]) -> str:
    data = event.get("data")
    if not isinstance(data, Mapping):
        return ""
    name = data.get("device") or data.get("node-name")
    if event.get("event") == EVENTS[0]:
        return f"QEMU could not {data.get('operation')} {name} for the guest: {data.get('reason')}"
    return f"the disk image of {name} is damaged (qemu-img check tells more): {data.get('msg')}"
