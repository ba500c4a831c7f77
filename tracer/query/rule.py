"""Rules: what becomes of accesses that nobody stands before, as values.

``on read nvme.CSTS once do give 0xffffffff``: what stands before ``do`` chooses accesses as a break
does, what stands behind it is what becomes of them. Of the rules that fit an access the first
decides. Each change returns a new value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from tracer.access.decision import LONGEST_DELAY, Delay, Give, Leeway, Postpone, Refuse, Ruling
from tracer.access.region import RegionMap
from tracer.errors import ConditionError, MarkedError, UsageError, suggestion
from tracer.query.breakpoint import (
    CLAUSES,
    Break,
    Pattern,
    Words,
    clauses,
    counted,
    perhaps_pending,
    where,
)
from tracer.query.input_place import InputSpot
from tracer.query.pending import PendingFacts
from tracer.query.place import Known, Place
from tracer.text.number import ends, fitting, nanoseconds, whole

ON, DO = "on", "do"
"""The words that a rule begins with, and that stand before what becomes of an access."""

_BLANK = re.compile(r"\s")
_TIMES = "1ms, 20us and 0.5s are"
_EXAMPLE = "on read nvme.CSTS once do give 0xffffffff"


@dataclass(frozen=True, slots=True)
class Rule:
    """Hold one rule: ``trigger`` chooses and counts accesses, ``ruling`` is what becomes of them.

    ``text`` is as typed. ``number`` is 0 until it is one of :class:`Rules`. ``applied`` counts the
    accesses of which it decided. The value of a ruling has a sign, as typed.
    """

    text: str
    trigger: Break
    ruling: Ruling
    number: int = 0
    applied: int = 0

    @property
    def name(self) -> str:
        """Return what it is called in a trace."""
        return f"rule {self.number}"

    @property
    def live(self) -> bool:
        """Tell whether it may still decide."""
        return self.trigger.remaining != 0

    def to(self, width: int) -> Ruling:
        """Return what becomes of an access of so many bytes, of which a value has the low ones."""
        if isinstance(self.ruling, Give):
            low = (1 << 8 * width) - 1
            rest = tuple(value & low for value in self.ruling.rest)
            return Give(self.ruling.value & low, self.name, rest)
        return replace(self.ruling, by=self.name)

    def cuts(self, width: int) -> bool:
        """Tell whether its value is wider than so many bytes."""
        if not isinstance(self.ruling, Give):
            return False
        values = self.ruling.value, *self.ruling.rest
        return not all(-(1 << 8 * width - 1) <= value < 1 << 8 * width for value in values)

    @property
    def why_idle(self) -> str:
        """Return why it has never decided."""
        trigger = self.trigger
        if trigger.hits:
            return f"of the accesses that it is for only {trigger.hits:,} came"
        if trigger.fitted:
            return f"its condition held for none of the {trigger.fitted:,} accesses that came to it"
        return "no access that it is for came to it"


@dataclass(frozen=True, slots=True)
class Decided:
    """Hold what an access did to the rules, and the one that decided, counted up, if any did."""

    rules: Rules
    rule: Rule | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """Hold all rules in the order in which they are asked; ``last`` is the highest number given."""

    items: tuple[Rule, ...] = ()
    last: int = 0

    def added(self, rule: Rule) -> Rules:
        """Return them with one more, at the end, under a number of its own."""
        number = self.last + 1
        return Rules((*self.items, replace(rule, number=number)), number)

    def numbers(self, text: str) -> tuple[int, ...]:
        """Return the numbers in ``1 3-5``, each of a rule there is; of all for no text.

        Raises UsageError.
        """
        there = [rule.number for rule in self.items]
        found: list[int] = []
        for word in text.split():
            first, last = ends(word, _rule_number)
            inside = [number for number in there if first <= number <= last]
            if not inside:
                told = ", ".join(map(str, there)) or "none at all"
                raise UsageError(f"there is no rule {word}; there are: {told}")
            found += inside
        return tuple(dict.fromkeys(found if text.strip() else there))

    def without(self, numbers: Iterable[int]) -> Rules:
        """Return them without some."""
        gone = set(numbers)
        return replace(self, items=tuple(rule for rule in self.items if rule.number not in gone))

    def decide(self, facts: PendingFacts) -> Decided:
        """Judge one access, and count it: each rule counts those of which none before it decided.

        Raises ConditionError, naming the rule, where its condition has no answer.
        """
        items = list(self.items)
        decided: Rule | None = None
        changed = False
        for index, rule in enumerate(items):
            if not rule.live or not rule.trigger.fits(facts):
                continue
            try:
                trigger, acts = counted(rule.trigger, facts)
            except ConditionError as error:
                raise error.of(rule.name) from None
            items[index] = rule = replace(rule, trigger=trigger, applied=rule.applied + acts)
            changed = True
            if acts:
                decided = rule
                break
        return Decided(replace(self, items=tuple(items)) if changed else self, decided)

    def leeway(self, regions: RegionMap, now_ns: int) -> Leeway:
        """Return which accesses none may decide about, from the guest's time ``now_ns`` on."""
        found = Leeway()
        for rule in self.items:
            if rule.live:
                found = found.within(rule.trigger.pattern.leeway(regions, now_ns))
        return found

    def asks(self, names: Collection[str]) -> bool:
        """Tell whether a condition asks for any of these facts, or a place does."""
        return any(not rule.trigger.pattern.facts.isdisjoint(names) for rule in self.items)


def _rule_number(text: str) -> int:
    return whole(text, "number of a rule", like="2 is, and 2-4 are")


def parse_rule(text: str, known: Known | None = None) -> Rule:
    """Return the rule that a text tells.

    It is ``on [read|write|access] [PLACE] [if CONDITION] [once|times N] [after N] [pending] do``
    and one of ``give VALUE``, ``refuse``, ``retry`` and ``delay TIME``. Raises UsageError, which is
    a MarkedError for all but an empty text.
    """
    text = _BLANK.sub(" ", text)  # an error has a line to point into
    if not text.strip():
        raise UsageError(f"the rule is empty: {_EXAMPLE} is one")
    rule, pending = perhaps_pending(text, known or Known(), _rule)
    return replace(rule, text=text.strip(), trigger=replace(rule.trigger, pending=pending))


AHEAD = Known(span=lambda region, register: None, pending=True)
"""Before there is a guest any name may come."""


def _rule(text: str, known: Known) -> Rule:
    words = Words(text, known, ends=(*CLAUSES, DO), what="rule")
    try:
        return _read(words)
    except MarkedError:
        raise
    except UsageError as error:
        raise MarkedError(str(error), text, words.mark + 1, may_come=error.may_come) from None


def _read(words: Words) -> Rule:
    first = words.take()
    if first != ON:
        raise UsageError(f"a rule begins with {ON}: {_EXAMPLE}")
    direction, place = where(words)
    head = words.before.removeprefix(ON).strip()
    condition, ignore, remaining = clauses(words)
    if words.take() != DO:
        raise UsageError(f"{DO} is missing, and what becomes of the access: {_EXAMPLE}")
    ruling = _ruling(words)
    if isinstance(ruling, Give) and ruling.rest and not _is_of_cpuid(place):
        last = words.text[words.mark :].strip()
        raise UsageError(f"{last} comes behind the end of the rule: CPUID alone gives several")
    if words.left:
        raise UsageError(f"{words.take()} comes behind the end of the rule")
    trigger = Break(head, "access", Pattern(direction, place, condition),
                    ignore=ignore, remaining=remaining)  # fmt: skip
    return Rule(words.text, trigger, ruling)


def _ruling(words: Words) -> Ruling:
    word = words.take()
    if word not in _RULINGS:
        known = ", ".join(_RULINGS)
        if not word:
            raise UsageError(f"what becomes of the access is missing: one of {known}")
        near = suggestion(word, _RULINGS) or f": {known} do"
        raise UsageError(f"nothing can {word} an access{near}")
    return _RULINGS[word](words)


def _give(words: Words) -> Ruling:
    word = words.take()
    if not word:
        raise UsageError("give needs a value: give 0xffffffff, or -1 for all ones")
    values = [_value(word)]
    while words.left and len(values) < _REGISTERS:
        values.append(_value(words.take()))
    return Give(values[0], rest=tuple(values[1:]))


_REGISTERS = 4
"""CPUID gives so many."""


def _is_of_cpuid(place: Place | InputSpot | None) -> bool:
    return isinstance(place, InputSpot) and place.space == "cpuid" and not place.of_register


def _value(word: str) -> int:
    value = fitting(word, 64)
    return value - (1 << 64) if word.startswith("-") and value else value


def _delay(words: Words) -> Ruling:
    word = words.take()
    if not word:
        raise UsageError("delay needs a time: delay 1ms")
    return Delay(delay_time(word))


def delay_time(text: str) -> int:
    """Return the nanoseconds of a delay. Raises UsageError."""
    time_ns = nanoseconds(text, like=_TIMES)
    if not 0 < time_ns <= LONGEST_DELAY:
        raise UsageError(f"a delay is above 0, and {LONGEST_DELAY // 10**9}s at most")
    return time_ns


_RULINGS: Mapping[str, Callable[[Words], Ruling]] = {
    "give": _give,
    "refuse": lambda words: Refuse(),
    "retry": lambda words: Postpone(),
    "delay": _delay,
}

VERBS = tuple(_RULINGS)
"""An access can come to any of these."""
