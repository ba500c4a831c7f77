"""Conditions on an access: a small typed language, compiled to closures.

From the loosest: ``or`` (``||``); ``and`` (``&&``); ``not`` (``!``); comparisons, chained as in
Python, ``in FIRST..LAST`` and ``~`` (fits a pattern, as file names do); ``|``; ``^``; ``&``;
``<< >>``; ``+ -``; ``* // %``; unary ``- ~``. So ``value & 0xff == 3`` compares the low byte.
Numbers are whole and unbounded, with the sign and the rounding of Python's.

What is compared with a name that stands for text needs no quotes: ``region == nvme.msix-table``.
A time is a number of nanoseconds: ``time >= 1.5s``.

A fact may be unknown: the value of a read before the device has answered. What depends on it is
then neither true nor false, and the condition does not hold; ``width == 4 or value == 1`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from tracer.query.condition.closure import Unknown
from tracer.query.condition.grammar import Parser
from tracer.query.condition.lexicon import Lexicon
from tracer.query.condition.vocabulary import FIXED, Facts


@dataclass(frozen=True, slots=True)
class Condition:
    """Hold a compiled condition; ``text`` is as typed, ``names`` are the facts it asks for."""

    text: str
    names: frozenset[str]
    _run: Callable[[Facts], bool] = field(repr=False, compare=False)

    @property
    def needs_value(self) -> bool:
        """Tell whether it asks for ``value``, which a read has once the device has answered."""
        return "value" in self.names

    def test(self, facts: Facts) -> bool | None:
        """Tell whether it holds, None where that depends on what is unknown.

        Raises ConditionError where it has no answer: a division by zero, a shift too far.
        """
        try:
            return self._run(facts)
        except Unknown:
            return None

    def holds(self, facts: Facts) -> bool:
        """Tell whether it is known to hold; raises what :meth:`test` raises."""
        return self.test(facts) is True


def parse(text: str, known: Mapping[str, Lexicon] | None = None) -> Condition:
    """Compile a condition.

    ``known`` has, by name, the words that a name can equal: comparing ``region`` with one that
    ``known["region"]`` lacks is an error then. Raises ConditionError.
    """
    condition, end = parse_prefix(text, 0, known=known)
    assert end == len(text)
    return condition


def parse_prefix(
    text: str,
    start: int,
    stops: Collection[str] = (),
    known: Mapping[str, Lexicon] | None = None,
) -> tuple[Condition, int]:
    """Compile the condition at ``start`` of a text, and return where it ends.

    That is the end of the text, or the first word of ``stops`` that stands where an operator
    would. Columns in errors count from the start of the text.
    """
    parser = Parser(text, start, stops, FIXED | dict(known or {}))
    node, end = parser.condition()
    return Condition(text[start:end].strip(), frozenset(parser.names), node.run), end
