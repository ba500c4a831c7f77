"""The words that a person types for breaks, filters and times, read into values."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import TypeVar

from tracer.confidential.call_name import hypercall_number, leaf_number
from tracer.confidential.handler import PROFILES
from tracer.confidential.kind import Kind as GuestKind
from tracer.errors import UnknownName, UsageError, advice, suggestion
from tracer.query.breakpoint.pattern import Pattern
from tracer.query.breakpoint.state import CALLS, Break, Kind, Until
from tracer.query.called import check_of_call
from tracer.query.condition import Condition, parse, parse_prefix
from tracer.query.condition.vocabulary import NAMES
from tracer.query.input_place import INPUT_WORDS, InputSpot, parse_input_place
from tracer.query.place import Known, Place, parse_place
from tracer.text.number import nanoseconds, whole
from tracer.x86.bus import Direction

_DIRECTIONS: Mapping[str, Direction | None] = {"read": "read", "write": "write", "access": None}
CLAUSES = ("if", "once", "times", "after")
"""The words that follow a place, each at most once."""

PENDING = "pending"
"""The word that lets a name pass which nothing has yet."""

_OTHERS = "symbol", "unhandled", "verdict", "tdcall", "hypercall"
"""A break that is for no place begins with one of these."""

KEYWORDS = (*_DIRECTIONS, *INPUT_WORDS, *_OTHERS, *CLAUSES, PENDING)
"""The words of a break that are no names: for completion."""

MAX_TIME = (1 << 63) - 1
"""Latest guest time in nanoseconds."""

_TIMES = "1.2s, 350ms and +50ms are"
_WORD = re.compile(r"\S+")
_COMPARED = ("==", "!=", "~", "!~")

_T = TypeVar("_T")


def parse_break(text: str, known: Known | None = None, *, temporary: bool = False) -> Break:
    """Return the break that the words after ``break`` tell; ``temporary`` is that of ``tbreak``.

    They are ``[read|write|access] [PLACE]``, of which a place may be ``port 0x64``, ``msr EFER``,
    ``cpuid 0x21`` or ``irq 0x30``, ``symbol NAME``, ``unhandled``, ``verdict [PROFILE]``,
    ``tdcall [NAME|NUMBER]`` or ``hypercall [NAME|NUMBER]``, then any of ``if CONDITION``, ``once``,
    ``times N`` and ``after N``, each at most once. Raises UsageError, and ConditionError for what
    follows ``if``; UnknownName for a name that nothing has, unless the word ``pending`` is there:
    so in all of these.
    """
    item, pending = perhaps_pending(text, known or Known(), _break)
    if temporary and item.remaining is not None and item.remaining > 1:
        raise UsageError(f"a temporary break stops once, not {item.remaining} times")
    return replace(item, pending=pending, remaining=1 if temporary else item.remaining)


def perhaps_pending(text: str, known: Known, parse: Callable[[str, Known], _T]) -> tuple[_T, bool]:
    """Return what a text without the word `pending` means, and whether a name is waited for.

    The word may be said in vain. Columns in errors count in the text as it is.
    """
    words = list(_WORD.finditer(text))
    said = [
        match
        for before, match in zip([None, *words], words, strict=False)
        if match[0] == PENDING
        and (before is None or before[0] not in _COMPARED)
        and text[: match.start()].count('"') % 2 == text[: match.start()].count("'") % 2 == 0
    ]
    if not said:
        return parse(text, known), False
    for match in said:
        text = text[: match.start()] + " " * len(PENDING) + text[match.end() :]
    try:
        return parse(text, known), False
    except UsageError as error:
        if not error.may_come:
            raise
    return parse(text, replace(known, pending=True)), True


def _break(text: str, known: Known) -> Break:
    words = Words(text, known)
    if not words.left:
        raise UsageError("break needs a place or a condition: nvme+0x1000, or if value == 3")
    item = _head(words)
    if not item.head:
        item = replace(item, head=words.before)
    condition, ignore, remaining = clauses(words)
    if item.kind in CALLS:
        check_of_call(condition)
    pattern = replace(item.pattern, condition=condition)
    return replace(item, pattern=pattern, ignore=ignore, remaining=remaining)


def parse_condition(text: str, known: Known | None = None) -> Condition:
    """Return a condition for ``condition N``. Raises ConditionError."""
    condition, _ = perhaps_pending(
        text, known or Known(), lambda text, known: parse(text, known.vocabulary())
    )
    return condition


def parse_pattern(text: str, known: Known | None = None) -> Pattern:
    """Return what ``[read|write|access] [PLACE] [if CONDITION]`` wants; no text wants all.

    Raises UsageError, and ConditionError for what follows ``if``.
    """
    return perhaps_pending(text, known or Known(), _pattern)[0]


def _pattern(text: str, known: Known) -> Pattern:
    words = Words(text, known)
    direction, place = where(words)
    condition = None
    if words.left:
        word = words.take()
        if word != "if":
            raise UsageError(f"{word} belongs to breaks: here a place and a condition can be given")
        condition = words.condition()
        if "count" in condition.names:
            raise UsageError("count is of breaks: nothing else counts what has fitted")
    return Pattern(direction, place, condition)


def parse_until(text: str, now_ns: int, known: Known | None = None) -> Until:
    """Return what ``1.2s``, ``350ms``, ``1.2`` (seconds), ``+50ms`` or a symbol's name tells.

    ``now_ns`` is the guest's time, which ``+`` counts from. Raises UsageError for a time that is
    past, for what is neither, and as :func:`parse_break` does for the name.
    """
    return perhaps_pending(text, known or Known(), lambda text, known: _until(text, now_ns, known))[
        0
    ]


def _until(text: str, now_ns: int, known: Known) -> Until:
    words = text.split()
    if len(words) != 1:
        raise UsageError("until needs a time or a function: 1.2s, +50ms, nvme_reset_work")
    word = words[0]
    relative = word.startswith("+")
    if not relative and not word[0].isdigit() and word[0] not in "-.":
        return Until(symbol=_function(word, known))
    amount = word[1:] if relative else word
    time_ns = nanoseconds(amount, like=_TIMES)
    if time_ns > MAX_TIME:
        raise UsageError(f"{word[:40]} is no time: {_TIMES}")
    time_ns += now_ns if relative else 0
    if time_ns <= now_ns:
        raise UsageError(f"{word} is past: it is {now_ns / 1e9:.6f} s in the guest")
    return Until(time_ns=time_ns)


class Words:
    """Take the text of a break, or of ``what`` else, word by word; a condition is taken whole.

    ``ends`` are the words that end a place or a condition. ``mark`` is where in the text the last
    thing that was taken begins.
    """

    def __init__(
        self, text: str, known: Known, ends: Collection[str] = CLAUSES, what: str = "break"
    ) -> None:
        self.text = text
        self.known = known
        self.ends = ends
        self.what = what
        self.mark = 0
        self._at = 0

    def _next(self) -> re.Match[str] | None:
        return _WORD.search(self.text, self._at)

    @property
    def left(self) -> bool:
        """Tell whether there is another word."""
        return self._next() is not None

    @property
    def before(self) -> str:
        """Return what has been taken."""
        return " ".join(self.text[: self._at].split())

    def peek(self) -> str:
        """Return the next word, which is empty at the end, without taking it."""
        match = self._next()
        return match[0] if match else ""

    def take(self) -> str:
        """Return the next word, which is empty at the end."""
        match = self._next()
        if match is None:
            self.mark = len(self.text)
            return ""
        self.mark, self._at = match.start(), match.end()
        return match[0]

    def until_end(self) -> list[str]:
        """Return all words before one that ends a place."""
        words, mark = [], self.mark
        while self.left and self.peek() not in self.ends:
            words.append(self.take())
            mark = mark if len(words) > 1 else self.mark
        self.mark = mark
        return words

    def condition(self) -> Condition:
        """Return the condition that begins here. Raises ConditionError."""
        vocabulary, stops = self.known.vocabulary(), [end for end in self.ends if end != "if"]
        condition, self._at = parse_prefix(self.text, self._at, stops, vocabulary)
        return condition


def _function(name: str, known: Known) -> str:
    functions = known.vocabulary().get("function")
    wrong = functions.lacks_like(name.partition("+")[0]) if functions is not None else ""
    if wrong:
        raise UnknownName(wrong)
    return name


# A break without its clauses; the head is what was typed, where it is empty.
def _head(words: Words) -> Break:
    match words.peek():
        case "symbol":
            words.take()
            name = _one(words, "symbol needs a function: symbol nvme_*")
            return Break("", "symbol", Pattern(), target=_function(name, words.known))
        case "unhandled":
            words.take()
            _none(words, "unhandled")
            return Break("", "unhandled", Pattern())
        case "verdict":
            words.take()
            profile = _one(words, "") or words.known.profile
            if profile not in PROFILES:
                raise UsageError(f"no profile is called {profile}{advice(profile, PROFILES)}")
            return Break(f"verdict {profile}", "verdict", Pattern(), target=profile)
        case "tdcall":
            return _call(words, "tdcall", leaf_number)
        case "hypercall":
            return _call(words, "hypercall", hypercall_number)
    return Break("", "access", Pattern(*where(words)))


def _call(words: Words, kind: Kind, number: Callable[[str], int]) -> Break:
    words.take()
    if words.known.kind not in (None, GuestKind.TDX):
        raise UsageError(f"{kind} stops at calls of a TDX guest: it takes --guest tdx")
    name = _one(words, "")
    return Break("", kind, Pattern(), call=number(name) if name else None)


# The one word before the clauses; `missing` says what to do about none, or is empty.
def _one(words: Words, missing: str) -> str:
    found = words.until_end()
    if not found and missing:
        raise UsageError(missing)
    if len(found) > 1:
        raise UsageError(_unexpected(found[1], found[0], words))
    return found[0] if found else ""


def _none(words: Words, before: str) -> None:
    found = words.until_end()
    if found:
        raise UsageError(_unexpected(found[0], before, words))


def _unexpected(word: str, before: str, words: Words) -> str:
    hint = suggestion(word, words.ends) or f"; {', '.join(words.ends)} can"
    return f"{word} cannot follow {before}{hint}"


def where(words: Words) -> tuple[Direction | None, Place | InputSpot | None]:
    """Return what ``[read|write|access] [PLACE]`` tells. Raises UsageError."""
    direction: Direction | None = None
    if words.peek() in _DIRECTIONS:
        direction = _DIRECTIONS[words.take()]
    found = words.until_end()
    if not found:
        return direction, None
    if found[0] in _OTHERS:
        raise UsageError(f"{found[0]} begins a break of its own: here an access has to be told")
    if found[0] in INPUT_WORDS and not (found[1:] and found[1][:1] in "=!<>&~"):
        return direction, parse_input_place(found, words.known)
    name = re.match(r"\$?\w*", found[0])
    if name and (name[0] in NAMES or name[0].startswith("$")):
        raise UsageError(f"a condition follows if: if {' '.join(found)}")
    return direction, parse_place(" ".join(found), words.known, KEYWORDS)


def clauses(words: Words) -> tuple[Condition | None, int, int | None]:
    """Return what any of ``if CONDITION``, ``once``, ``times N`` and ``after N`` tell.

    That is the condition, how many hits are passed over, and how many count, None for any number.
    They end with the text, or at a word that is none of them and ends a place. Raises UsageError.
    """
    condition: Condition | None = None
    ignore, remaining = 0, None
    seen: set[str] = set()
    while words.left and not (words.peek() in words.ends and words.peek() not in CLAUSES):
        word = words.take()
        if word not in CLAUSES:
            raise UsageError(_unexpected(word, words.before[: -len(word)].strip(), words))
        same = "times" if word == "once" else word
        if same in seen:
            raise UsageError(f"{word} comes too late: the {words.what} has such a clause already")
        seen.add(same)
        match word:
            case "if":
                condition = words.condition()
            case "once":
                remaining = 1
            case "times":
                remaining = _count(words, word)
            case "after":
                ignore = _count(words, word)
    return condition, ignore, remaining


def _count(words: Words, clause: str) -> int:
    word = words.take()
    return whole(word, f"number for {clause}", least=1, bits=60)
