"""Text that a person is shown."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return ``text`` with every character that is not printable escaped as in Python."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
