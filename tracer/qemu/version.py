"""QEMU's version, by which arguments are chosen that go round its faults."""

from __future__ import annotations

import re


def is_before(version: tuple[int, int], about: str) -> bool:
    """Tell whether a QEMU is older than a version; ``about`` is what its ``-version`` prints.

    One that does not tell is none of those.
    """
    found = re.search(r"version (\d+)\.(\d+)", about)
    return found is not None and (int(found[1]), int(found[2])) < version
