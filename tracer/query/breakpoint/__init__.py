"""Breaks: where a person wants the guest to stop, as values and as the words that are typed."""

from tracer.query.breakpoint.pattern import Pattern
from tracer.query.breakpoint.state import CALLS, Break, Judged, Until, counted, matches
from tracer.query.breakpoint.table import Breaks, Checked, Row
from tracer.query.breakpoint.words import (
    CLAUSES,
    KEYWORDS,
    PENDING,
    Words,
    clauses,
    parse_break,
    parse_condition,
    parse_pattern,
    parse_until,
    perhaps_pending,
    where,
)

__all__ = (
    "CALLS",
    "CLAUSES",
    "KEYWORDS",
    "PENDING",
    "Break",
    "Breaks",
    "Checked",
    "Judged",
    "Pattern",
    "Row",
    "Until",
    "Words",
    "clauses",
    "counted",
    "matches",
    "parse_break",
    "parse_condition",
    "parse_pattern",
    "parse_until",
    "perhaps_pending",
    "where",
)
