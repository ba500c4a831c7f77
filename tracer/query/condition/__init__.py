"""Conditions on an access: a small typed language, compiled to closures.

From the loosest: ``or`` (``||``); ``and`` (``&&``); ``not`` (``!``); comparisons, chained as in
Python, ``in FIRST..LAST``, ``touches FIRST..LAST`` (any byte of the access is there), ``~`` (fits a
pattern, as file names do) and ``is`` (goes by a name: see :mod:`tracer.query.condition.naming`);
``|``; ``^``; ``&``; ``<< >>``; ``+ -``; ``* // %``; unary ``- ~``. So ``value & 0xff == 3``
compares the low byte.
Numbers are whole and unbounded, with the sign and the rounding of Python's.

What is compared with a name that stands for text needs no quotes: ``region == nvme.msix-table``.
A time is a number of nanoseconds: ``time >= 1.5s``.

A fact may be unknown: the value of a read before the device has answered. What depends on it is
then neither true nor false, and the condition does not hold; ``width == 4 or value == 1`` does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from tracer.errors import ConditionError
from tracer.query.condition.closure import Run, Unknown, all_of
from tracer.query.condition.grammar import Parser
from tracer.query.condition.lexicon import Lexicon
from tracer.query.condition.mention import Mention
from tracer.query.condition.vocabulary import FIXED, Between, Fact, Facts, Since, Type


@dataclass(frozen=True, slots=True)
class Condition:
    """Hold a compiled condition; ``text`` is as typed, ``names`` are the facts it asks for.

    ``mentions`` are the words that facts are held against, ``offsets`` the first of those bytes
    that it asks to be touched, each with its place in ``typed``, which is all that was typed.
    ``stretches`` are the marks from one of which to another it asks for. ``moments`` are the times
    that it holds the guest's time against; None where it asks for that in another way, too.
    """

    text: str
    names: frozenset[str]
    typed: str = field(compare=False)
    mentions: tuple[Mention, ...] = field(repr=False, compare=False)
    offsets: tuple[tuple[int, int], ...] = field(repr=False, compare=False)
    stretches: tuple[Between, ...] = field(repr=False, compare=False)
    _run: Run = field(repr=False, compare=False)
    moments: tuple[int, ...] | None = field(default=None, repr=False, compare=False)

    @property
    def needs_value(self) -> bool:
        """Tell whether it asks for the value, which a read has once the device has answered."""
        return not self.names.isdisjoint(("value", "changes"))

    def test(self, facts: Facts) -> bool | None:
        """Tell whether it holds, None where that depends on what is unknown.

        Raises ConditionError where it has no answer: a division by zero, a shift too far.
        """
        try:
            return self._run(facts) is True
        except Unknown:
            return None

    def can_hold(self, facts: Facts) -> bool:
        """Tell whether it may hold, or may have no answer, once all is known."""
        try:
            return self.test(facts) is not False
        except ConditionError:
            return True

    def holds(self, facts: Facts) -> bool:
        """Tell whether it is known to hold; raises what :meth:`test` raises."""
        try:
            return self._run(facts) is True
        except Unknown:
            return False


@dataclass(frozen=True, slots=True)
class Expression:
    """Hold a compiled expression of any ``type``; all else is as of a :class:`Condition`.

    ``start`` and ``end`` are its place in ``typed``; a ``constant`` needs no facts. ``deltas`` are
    the facts that tell by how much a number differs from what it was before: who asks for them
    remembers that. ``name`` is that of a fact which stands alone.
    """

    text: str
    type: Type
    names: frozenset[str]
    typed: str = field(compare=False)
    start: int = field(compare=False)
    end: int = field(compare=False)
    name: str = field(compare=False)
    constant: bool = field(compare=False)
    mentions: tuple[Mention, ...] = field(repr=False, compare=False)
    offsets: tuple[tuple[int, int], ...] = field(repr=False, compare=False)
    stretches: tuple[Between, ...] = field(repr=False, compare=False)
    deltas: tuple[Since, ...] = field(repr=False, compare=False)
    _run: Run = field(repr=False, compare=False)

    def value(self, facts: Facts) -> Fact:
        """Return its value, None where that depends on what is unknown.

        Raises ConditionError where it has no answer: a division by zero, a shift too far.
        """
        try:
            found: Fact = self._run(facts)
        except Unknown:
            return None
        return found


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
    asked = parser.asked
    shown = text[start:end].strip()
    return (
        Condition(
            shown, frozenset(asked.names), text, tuple(asked.mentions), tuple(asked.offsets),
            tuple(asked.stretches), node.run, asked.moments.told,
        ),
        end,
    )  # fmt: skip


def parse_expression(
    text: str,
    start: int,
    stops: Collection[str] = (),
    known: Mapping[str, Lexicon] | None = None,
) -> tuple[Expression, int]:
    """Compile the expression at ``start`` of a text, and return where it ends.

    That is as for :func:`parse_prefix`; ``stops`` may have a comma and a closing parenthesis.
    """
    parser = Parser(text, start, stops, FIXED | dict(known or {}), deltas=True)
    node, end = parser.expression()
    asked = parser.asked
    return (
        Expression(
            text[start:end].strip(), node.type, frozenset(asked.names), text, node.start, node.end,
            node.name, node.constant, tuple(asked.mentions), tuple(asked.offsets),
            tuple(asked.stretches), tuple(asked.deltas), node.run,
        ),
        end,
    )  # fmt: skip


def joined(conditions: Sequence[Condition]) -> Condition | None:
    """Return what holds where all of some conditions do, asked one after the other."""
    if len(conditions) < 2:
        return conditions[0] if conditions else None
    text = " and ".join(f"({each.text})" for each in conditions)
    return Condition(
        text,
        frozenset(name for each in conditions for name in each.names),
        text,
        (),
        (),
        tuple(stretch for each in conditions for stretch in each.stretches),
        all_of([each._run for each in conditions]),
    )
