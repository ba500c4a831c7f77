"""Tallies: what is counted of accesses, by what, and of which; and the counts so far.

``count by register, function if region == nvme`` has an aggregate or several, then what parts the
accesses into groups, and then which of them are meant. What is in it of expressions and conditions
is :mod:`tracer.query.condition`'s language, to which ``delta(E)`` is added: by how much a number
differs from what it was for the access before it in the same group.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NoReturn, cast, get_args

from tracer.errors import ConditionError, suggestion
from tracer.query.aggregate import MOST_STEPS, Aggregate, Buckets, Held, Kind
from tracer.query.condition import Condition, Expression, parse_expression, parse_prefix
from tracer.query.condition.grammar import DELTA
from tracer.query.condition.lexicon import Lexicon
from tracer.query.condition.vocabulary import Fact, Facts, Since

LIKE = "count by register, hist(value & 0xff), delta(time) by function"
"""Some tallies, for who has to be told what one is."""

KINDS: tuple[Kind, ...] = get_args(Kind)
_WORD = re.compile(r"\s*([A-Za-z_]\w*)")
_SIGN = re.compile(r"\s*([(),])")
_BITS = frozenset(
    {"value", "offset", "address", "linear", "port", "msr", "leaf", "subleaf", "data"}
)

Key = tuple[Fact, ...]
"""The values that a group of accesses has in common; None for what is not known of them."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Say what is counted; ``text`` is as typed, without a ``condition`` all accesses are meant."""

    text: str
    aggregates: tuple[Aggregate, ...]
    keys: tuple[Expression, ...] = ()
    condition: Condition | None = field(default=None, compare=False)

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """Return all that is asked for beside the condition."""
        of = (each.expression for each in self.aggregates)
        return *(each for each in of if each is not None), *self.keys

    @property
    def names(self) -> frozenset[str]:
        """Return the facts that it asks for."""
        asked = [each.names for each in self.expressions]
        if self.condition is not None:
            asked.append(self.condition.names)
        return frozenset().union(*asked)


def is_bits(expression: Expression) -> bool:
    """Tell whether a number is one that people read by its bits: a value, an address."""
    return any(name in _BITS or name[0] == "$" for name in expression.names)


def parse_tally(text: str, known: Mapping[str, Lexicon] | None = None) -> Tally:
    """Return what ``AGGREGATE, ... by EXPRESSION, ... if CONDITION`` asks for.

    ``known`` is as for :func:`tracer.query.condition.parse`. Raises ConditionError.
    """
    return _Parser(text, known).tally()


class _Parser:
    def __init__(self, text: str, known: Mapping[str, Lexicon] | None) -> None:
        self._text = text
        self._at = 0
        self._known = known

    def tally(self) -> Tally:
        aggregates = [self._aggregate()]
        while self._take_sign(","):
            aggregates.append(self._aggregate())
        keys = []
        if self._take_word("by"):
            keys = [self._key()]
            while self._take_sign(","):
                keys.append(self._key())
        condition = self._condition() if self._take_word("if") else None
        if self._rest():
            self._fail_rest(bool(keys))
        return Tally(self._text.strip(), tuple(aggregates), tuple(keys), condition)

    def _fail_rest(self, grouped: bool) -> NoReturn:
        words = ("if",) if grouped else ("by", "if")
        shown = self._rest().split()[0]
        hint = suggestion(shown, words) or f"; {' and '.join(words)} may follow here"
        self._fail(f"expected no {shown} at column {self._column()}{hint}")

    def _aggregate(self) -> Aggregate:
        match = _WORD.match(self._text, self._at)
        if match is None:
            what = "nothing is tallied" if not self._rest() else "a tally begins with a word"
            self._fail(f"{what}: {LIKE} are tallies")
        word, start = match[1], match.start(1)
        if word not in (*KINDS, DELTA):
            self._at = start
            hint = suggestion(word, (*KINDS, DELTA)) or f"; there are {', '.join((*KINDS, DELTA))}"
            self._fail(f"no tally is called {word} at column {self._column()}{hint}")
        if word == "count":
            self._at = match.end()
            if self._take_sign("(") and not self._take_sign(")"):
                self._fail(f"count at column {start + 1} counts accesses, and takes nothing")
            return Aggregate("count", "count")
        if word == DELTA:
            # A difference alone is told in every way.
            expression, self._at = self._expression(start, ("by", "if", ","))
            return Aggregate("stats", expression.text, self._number(expression, DELTA))
        self._at = match.end()
        if not self._take_sign("("):
            self._at = start
            self._fail(f"{word} at column {start + 1} needs a number: {word}(value)")
        kind = cast(Kind, word)
        expression, self._at = self._expression(self._at, (",", ")"))
        buckets = Buckets() if kind == "hist" else self._steps(start) if kind == "lhist" else None
        if self._text.startswith(",", self._at):
            self._fail(f"{word} at column {start + 1} takes no more than that: close it with )")
        if not self._take_sign(")"):
            self._fail(f"( at column {self._text.index('(', start) + 1} is never closed")
        shown = self._text[start : self._at]
        return Aggregate(kind, shown, self._number(expression, word), buckets)

    def _number(self, expression: Expression, word: str) -> Expression:
        if expression.type not in ("number", "truth"):
            several = "several texts" if expression.type == "texts" else "text"
            at = f"`{expression.text}` at column {expression.start + 1}"
            self._at = expression.start
            self._fail(f"{word} takes numbers: {at} is {several}; `count by {expression.text}`")
        return expression

    def _steps(self, start: int) -> Buckets:
        where = f"lhist at column {start + 1}"
        numbers = []
        for what in ("first number", "number behind the last", "step"):
            if not self._take_sign(","):
                self._fail(f"{where} lacks its {what}: lhist(width, 0, 16, 4)")
            expression, end = self._expression(self._at, (",", ")"))
            if expression.type != "number" or not expression.constant:
                self._at = expression.start
                self._fail(f"the {what} of {where} is a number that needs no access")
            numbers.append(cast(int, expression.value({})))
            self._at = end
        first, last, step = numbers
        if step < 1 or last <= first or (last - first) // step > MOST_STEPS:
            self._at = start
            self._fail(
                f"{where} has no steps from {first} to {last} by {step}:"
                f" a first number below the last, and 1 to {MOST_STEPS:,} steps"
            )
        return Buckets(first, last, step)

    def _key(self) -> Expression:
        expression, self._at = self._expression(self._at, (",", "if"))
        if expression.type == "texts":
            self._at = expression.start
            self._fail(
                f"`{expression.text}` at column {expression.start + 1} is several texts:"
                " `vetrace stats --folded` counts by call chain"
            )
        return expression

    def _expression(self, start: int, stops: tuple[str, ...]) -> tuple[Expression, int]:
        self._at = start
        following = _WORD.match(self._text, start)
        ended = following is not None and following[1] in stops
        if not self._rest() or self._rest()[0] in stops or ended:
            self._fail(f"a value is missing at column {self._column()}: {LIKE} are tallies")
        expression, end = parse_expression(self._text, start, stops, self._known)
        self._refuse_count(expression.names, start)
        return expression, end

    def _condition(self) -> Condition:
        start = self._at
        if not self._rest():
            self._fail(f"a value is missing at column {self._column()}: count if value & 1 is one")
        condition, self._at = parse_prefix(self._text, start, (), self._known)
        self._refuse_count(condition.names, start)
        return condition

    def _refuse_count(self, names: frozenset[str], start: int) -> None:
        if "count" in names:
            self._at = self._text.index("count", start)
            self._fail(f"count at column {self._column()} is of breaks: no access has it here")

    def _take_word(self, word: str) -> bool:
        return self._take(_WORD, word)

    def _take_sign(self, sign: str) -> bool:
        return self._take(_SIGN, sign)

    def _take(self, pattern: re.Pattern[str], wanted: str) -> bool:
        match = pattern.match(self._text, self._at)
        if match is None or match[1] != wanted:
            return False
        self._at = match.end()
        return True

    def _rest(self) -> str:
        return self._text[self._at :].strip()

    def _column(self) -> int:
        rest = self._text[self._at :]
        return self._at + len(rest) - len(rest.lstrip()) + 1

    def _fail(self, message: str) -> NoReturn:
        raise ConditionError(message, self._text.replace("\t", " "), self._column())


class _Grouped:
    # The facts of an access, and what was before it in its group.

    __slots__ = ("_before", "_facts", "_group")

    def __init__(self, before: dict[tuple[str, Key], int]) -> None:
        self._before = before

    def at(self, facts: Facts, group: Key) -> _Grouped:
        self._facts, self._group = facts, group
        return self

    def __getitem__(self, name: str) -> Fact:
        if not isinstance(name, Since):
            return self._facts[name]
        place, number = (name, self._group), name.run(self)
        before, self._before[place] = self._before.get(place), number
        return None if before is None else number - before


class Counted:
    """Count accesses as a tally says, in memory that grows with the groups alone.

    ``accesses`` is how many were counted. ``unknown`` is how many of them lack a number that was
    asked for: the first of a group has none before it, and a native step hides values.
    """

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.accesses = 0
        self.unknown = 0
        self._groups: dict[Key, tuple[Held, ...]] = {}
        self._numbers = [
            (index, each.expression)
            for index, each in enumerate(tally.aggregates)
            if each.expression is not None
        ]
        self._counts = [n for n, each in enumerate(tally.aggregates) if each.expression is None]
        asks = any(each.deltas for each in tally.expressions)
        self._grouped = _Grouped({}) if asks else None

    def __len__(self) -> int:
        """Return how many groups there are."""
        return len(self._groups)

    def add(self, facts: Facts, times: int = 1) -> None:
        """Count an access that is meant; raises ConditionError where a number has no answer."""
        grouped = self._grouped
        if grouped is not None:
            facts = grouped.at(facts, ())
        key = tuple([each.value(facts) for each in self.tally.keys])
        if grouped is not None:
            facts = grouped.at(grouped._facts, key)
        numbers = [(index, each.value(facts)) for index, each in self._numbers]
        held = self._groups.get(key)
        if held is None:
            held = tuple(Held(each.buckets) for each in self.tally.aggregates)
            self._groups[key] = held
        self.accesses += times
        for index in self._counts:
            held[index].count += times
        lacking = False
        for index, number in numbers:
            if number is None:
                lacking = True
            else:
                held[index].add(cast(int, number), times)
        self.unknown += times if lacking else 0

    def groups(self) -> Iterator[tuple[Key, tuple[Held, ...]]]:
        """Yield the groups, those with the highest first aggregate first."""
        kind = self.tally.aggregates[0].kind

        def order(item: tuple[Key, tuple[Held, ...]]) -> tuple[float, list[tuple[bool, int, str]]]:
            key, held = item
            return -held[0].weight(kind), [_rank(each) for each in key]

        yield from sorted(self._groups.items(), key=order)


# Numbers in their order, then texts in theirs, then what is not known.
def _rank(fact: Fact) -> tuple[bool, int, str]:
    if isinstance(fact, int):
        return False, int(fact), ""
    return fact is None, 0, "" if fact is None else str(fact)
