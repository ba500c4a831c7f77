"""Breaks: where a person wants the guest to stop, as values and as the words that are typed."""

from tracer.query.breakpoint.state import Break, Breaks, Checked, Pattern, Row, Until, matches
from tracer.query.breakpoint.words import (
    KEYWORDS,
    PENDING,
    parse_break,
    parse_condition,
    parse_pattern,
    parse_until,
)

__all__ = (
    "KEYWORDS",
    "PENDING",
    "Break",
    "Breaks",
    "Checked",
    "Pattern",
    "Row",
    "Until",
    "matches",
    "parse_break",
    "parse_condition",
    "parse_pattern",
    "parse_until",
)
