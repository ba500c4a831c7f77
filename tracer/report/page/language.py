"""The language of conditions as data, for the page's own reader of it (``condition.js``).

What can be said in it, and how, comes from the modules that define it: a name, an operator or a
register that is new there is known in a page, too. ``tests/functional/test_page_conditions.py``
holds the two readers against each other.
"""

from __future__ import annotations

import re
from typing import Any

from tracer.query.condition.closure import COMPARISON, MAX_SHIFT
from tracer.query.condition.grammar import (
    DELTA,
    KEYWORDS,
    LEVEL,
    MAX_DEPTH,
    MAX_PARENTHESES,
    RELATIONS,
    RESERVED,
    TOUCHED,
)
from tracer.query.condition.lexeme import BARE, FOREIGN, MAX_LENGTH, PATTERN, PIECE
from tracer.query.condition.node import TYPES
from tracer.query.condition.vocabulary import NAMES, REGISTERS, VALUES
from tracer.text.number import LONGEST, NANOSECONDS, NUMBER, TIME
from tracer.trace.marker import PHASE
from tracer.x86.disassembler import PREDICATED, PRINTED, mnemonics


def language() -> dict[str, Any]:
    """Return the language, ready for JSON."""
    return {
        "names": {name: [kind, told] for name, (kind, told) in NAMES.items()},
        "values": VALUES,
        "instructions": sorted(mnemonics()),
        "printed": sorted(PRINTED),
        "predicated": _pattern(PREDICATED),
        "registers": {
            name: [full, shift, hex(mask)] for name, (full, shift, mask) in REGISTERS.items()
        },
        "types": TYPES,
        "levels": LEVEL,
        "comparisons": list(COMPARISON),
        "keywords": KEYWORDS,
        "delta": DELTA,
        "reserved": sorted(RESERVED),
        "relations": RELATIONS,
        "touched": TOUCHED,
        "foreign": FOREIGN,
        "longest": MAX_LENGTH,
        "longest_number": LONGEST,
        "deepest": MAX_DEPTH,
        "parentheses": MAX_PARENTHESES,
        "shift": MAX_SHIFT,
        "nanoseconds": NANOSECONDS,
        "phase": PHASE,
        "piece": _pattern(PIECE),
        "bare": _pattern(BARE),
        "pattern": _pattern(PATTERN),
        "number": _pattern(NUMBER),
        "time": _pattern(TIME),
    }


# As JavaScript writes it: Python's spaces in a pattern that is VERBOSE are none of it.
def _pattern(expression: re.Pattern[str]) -> str:
    text = expression.pattern
    if expression.flags & re.VERBOSE:
        text = "".join(text.split())
    return text.replace("(?P<", "(?<")
