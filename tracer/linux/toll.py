"""What stops at mapping functions cost a run, told before the reader wonders.

The price of a hook is paid at each call, and how often a kernel calls is not bounded.
"""

from __future__ import annotations

from collections import Counter

MANY = 2000
"""Stops after which the reader is told; again at ten times as many, and so on."""


class Toll:
    """Count the calls of mapping functions that stopped one guest."""

    def __init__(self) -> None:
        self._calls: Counter[str] = Counter()
        self._of_ram = 0
        self._next = MANY

    def add(self, name: str, *, ram: bool) -> str | None:
        """Count a call, of a mapping of RAM or not; return what to tell the reader, if anything."""
        self._calls[name] += 1
        self._of_ram += ram
        calls = self._calls.total()
        if calls < self._next:
            return None
        self._next *= 10
        often, _ = self._calls.most_common(1)[0]
        return (
            f"{calls:,} stops for mappings so far, {self._of_ram:,} of them of RAM: each takes "
            f"some milliseconds, and {often} makes most"
        )
