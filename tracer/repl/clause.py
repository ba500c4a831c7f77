"""The words between a command and its condition, and what each says; for completion and help."""

from __future__ import annotations

from collections.abc import Mapping

DIRECTIONS: Mapping[str, str] = {"read": "reads alone", "write": "writes alone"}
"""Without either, an access is one of both."""

ACCESSES: Mapping[str, str] = {**DIRECTIONS, "access": "reads and writes"}
"""The same, where both have a word."""

CONDITION: Mapping[str, str] = {"if": "a condition follows, up to the end or to the next of these"}

PENDING: Mapping[str, str] = {"pending": "what nothing has the name of may still come"}

COUNTS: Mapping[str, str] = {
    "once": "for one hit",
    "times": "for so many hits",
    "after": "so many hits are passed over first",
}
"""Clauses that say which of the hits count."""
