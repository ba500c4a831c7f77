"""The grammar of conditions: from pieces of text to typed, compiled expressions."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any

from tracer.query.condition.asked import Asked
from tracer.query.condition.closure import (
    ARITHMETIC,
    COMPARISON,
    Run,
    all_of,
    among,
    any_of,
    applied,
    between,
    binary,
    careful,
    chain,
    constantly,
    lookup,
    touching,
)
from tracer.query.condition.cursor import Cursor
from tracer.query.condition.lexeme import Lexeme
from tracer.query.condition.lexicon import Lexicon
from tracer.query.condition.mention import Mention
from tracer.query.condition.naming import fitting, named
from tracer.query.condition.node import Ends, Node, run_of
from tracer.query.condition.term import difference, fact, literal, register
from tracer.query.condition.vocabulary import Between, Type

MAX_DEPTH = 100
"""How deep an expression may nest, a chain of operators counted as nesting."""

DELTA = "delta"
"""The word for how much a number differs from what it was before."""

MAX_PARENTHESES = 30
"""How many parentheses may be open at a time."""

LEVEL = {
    "|": 1, "^": 2, "&": 3, "<<": 4, ">>": 4, "+": 5, "-": 5, "*": 6, "//": 6, "%": 6,
}  # fmt: skip
"""Binary operators between numbers, the loosest first."""

KEYWORDS = {"or": "or", "||": "or", "and": "and", "&&": "and", "not": "not", "!": "not"}
"""Words that join and deny, with what they mean."""

RESERVED = frozenset({"or", "and", "not", "in", "is", "touches", "true", "false"})
"""Words that are no names."""

RELATIONS = ("~", "!~", "in", "is", "touches")
"""Relations that stand alone: no chain of comparisons ends with one."""

TOUCHED = ("offset", "address", "linear")
"""Facts that a range can touch."""


class Parser:
    """Turn the pieces of one text into nodes, a method for each level of precedence."""

    def __init__(
        self,
        text: str,
        start: int,
        stops: Collection[str],
        known: Mapping[str, Lexicon],
        *,
        deltas: bool = False,
    ) -> None:
        self._at = Cursor(text, start, stops)
        self._deltas = deltas
        self.asked = Asked()
        self._known = known
        self._parentheses = 0

    def _made(
        self, type_: Type, run: Run, parts: list[Node], start: int, end: int | None = None
    ) -> Node:
        depth = 1 + max(part.depth for part in parts)
        if depth > MAX_DEPTH:
            self._at.fail(start, f"too deep for one condition: more than {MAX_DEPTH} levels")
        constant = all(part.constant for part in parts)
        if constant:
            run = constantly(run({}))
        return Node(
            type_, run, start, parts[-1].end if end is None else end, depth, constant=constant
        )

    def condition(self) -> tuple[Node, int]:
        """Return a whole condition, and the position in the text where it ends."""
        node, end = self.expression()
        return self._truth(node, "a condition is true or false"), end

    def expression(self) -> tuple[Node, int]:
        """Return a whole expression of any type, and the position in the text where it ends."""
        node = self._disjunction()
        last = self._at.piece
        if not self._at.stops_at(last):
            self._at.fail_operator(last)
        return node, last.start

    def _disjunction(self) -> Node:
        return self._joined("or", self._conjunction, any_of)

    def _conjunction(self) -> Node:
        return self._joined("and", self._negation, all_of)

    def _joined(
        self, word: str, inner: Callable[[], Node], join: Callable[[list[Run]], Run]
    ) -> Node:
        parts = [inner()]
        signs = [sign for sign, meaning in KEYWORDS.items() if meaning == word]
        while self._at.take(*signs):
            parts.append(inner())
        if len(parts) == 1:
            return parts[0]
        parts = [self._truth(part, f"{word} joins what is true or false") for part in parts]
        return self._made("truth", join([part.run for part in parts]), parts, parts[0].start)

    def _truth(self, node: Node, wants: str) -> Node:
        # A number is true where it is not 0, so that a bit can be asked for: value & 1.
        if node.type == "number":
            run = node.run
            return self._made("truth", lambda facts: run(facts) != 0, [node], node.start)
        if node.type != "truth":
            shown = self._at.shown(node)
            self._at.fail(node.start, f"{wants}, {self._at.told(node)}: write {shown} == WORD")
        return node

    def _negation(self) -> Node:
        start, denials = self._at.piece.start, 0
        while self._at.take("not", "!"):
            denials += 1
        node = self._comparison()
        if not denials:
            return node
        node = self._truth(node, "not denies what is true or false")
        run = node.run
        if denials % 2:
            return self._made("truth", lambda facts: not run(facts), [node], start)
        return node

    def _comparison(self) -> Node:
        first = self._arithmetic(1)
        nodes, signs, compare = [first], [], []
        while True:
            if sign := self._at.take(*COMPARISON):
                nodes.append(self._arithmetic(1))
                signs.append(str(sign.value))
                compare.append(self._compare(nodes[-2], sign, nodes[-1]))
                continue
            sign = self._at.take(*RELATIONS) or self._at.take_not_in()
            if sign is None:
                break
            if signs:
                self._at.fail(
                    sign.start,
                    f"{sign.value} at column {sign.start + 1} ends no chain of"
                    " comparisons: join them with `and`",
                )
            node = self._related(first, sign)
            if self._at.piece.value in (*COMPARISON, *RELATIONS):
                self._at.fail_operator(self._at.piece)
            return node
        if not signs:
            return first
        runs = [node.run for node in nodes]
        if len(signs) > 1:
            run = chain(compare, runs)
        else:
            run = binary(compare[0], nodes[0].run, nodes[1].run, nodes[1].constant)
        return self._made("truth", run, nodes, first.start)

    def _related(self, left: Node, sign: Lexeme) -> Node:
        match sign.value:
            case "is":
                return self._named(left, sign)
            case "touches":
                return self._touching(left, sign)
            case "~" | "!~":
                return self._fitted(left, sign)
        if left.name == "mark":
            return self._between_marks(left, sign)
        return self._within(left, sign)

    def _compare(self, left: Node, sign: Lexeme, right: Node) -> Callable[[Any, Any], bool]:
        where, word = f"{sign.value} at column {sign.start + 1}", str(sign.value)
        several = {left.type, right.type} == {"text", "texts"}
        if left.type != right.type and not several:
            told = f"{self._at.told(left)} and {self._at.told(right)}"
            self._at.fail(sign.start, f"{where} compares like with like: {told}")
        if left.type != "number" and word not in ("==", "!="):
            hint = "; ~ fits it to a pattern" if left.type == "text" else ""
            self._at.fail(sign.start, f"{where} orders numbers: {self._at.told(left)}{hint}")
        for name, other in ((left, right), (right, left)):
            if other.constant and name.type in ("text", "texts"):
                self._mention(name.name, "==", str(other.run({})), other.start)
            if name.type == other.type == "number":
                self.asked.moments.hold(name, other)
        return among(word, left.type == "text") if several else COMPARISON[word]

    def _mention(self, name: str, sign: str, word: str, start: int) -> None:
        if name:
            mention = Mention(name, sign, word, start)
            self.asked.mentions.append(mention)
            wrong = mention.wrong(self._known)
            if wrong:
                growing = self._known[name].growing
                self._at.fail(start, wrong, may_come=growing)

    def _pattern(self, where: str, needs: str) -> Node:
        # Returns the text that an operator needs on its right.
        piece = self._at.piece
        if piece.kind != "text":
            self._at.fail(piece.start, f"{where} needs {needs}")
        return literal("text", self._at.advance())

    def _fitted(self, left: Node, sign: Lexeme) -> Node:
        where = f"{sign.value} at column {sign.start + 1}"
        if left.type not in ("text", "texts"):
            self._at.fail(sign.start, f"{where} fits text to a pattern: {self._at.told(left)}")
        node = self._pattern(where, "a pattern: symbol ~ nvme_*")
        pattern = str(node.run({}))
        self._mention(left.name, "~", pattern, node.start)
        run = fitting(left.run, pattern, several=left.type == "texts", wanted=sign.value == "~")
        return self._made("truth", run, [left, node], left.start)

    def _named(self, left: Node, sign: Lexeme) -> Node:
        where = f"is at column {sign.start + 1}"
        if not left.name or left.type not in ("text", "texts"):
            self._at.fail(
                sign.start,
                f"{where} follows the name of a fact that is text: {self._at.told(left)}",
            )
        wanted = self._at.take("not") is None
        node = self._pattern(where, "a name: region is nvme")
        self._mention(left.name, "is", str(node.run({})), node.start)
        self.asked.names.add(left.name)
        run = named(left.name, str(node.run({})))
        if not wanted:
            return self._made("truth", lambda facts: not run(facts), [left, node], left.start)
        return self._made("truth", run, [left, node], left.start)

    def _range(self, sign: Lexeme, end: Callable[[], Node], like: str) -> Ends:
        # Returns the ends of `FIRST..LAST`; one of them may be left out.
        word, first = str(sign.value), None
        if self._at.piece.value != "..":
            first = end()
            if not self._at.take(".."):
                if word == "touches":
                    return first, first
                column = sign.start + 1
                self._at.fail(
                    self._at.piece.start, f"{word} at column {column} needs a range: {like}"
                )
        else:
            self._at.advance()
        piece = self._at.piece
        ended = self._at.stops_at(piece) or piece.value in (*KEYWORDS, ")")
        return first, None if first is not None and ended else end()

    def _numbers(self, left: Node, sign: Lexeme) -> Ends:
        first, last = self._range(sign, lambda: self._arithmetic(1), "offset in 0x0..0xff")
        for node in (left, first, last):
            if node is not None:
                self._want_number(node, str(sign.value))
        if first and last and first.constant and last.constant and last.run({}) < first.run({}):
            self._at.fail(
                first.start, f"the range at column {first.start + 1} ends before it begins"
            )
        return first, last

    def _within(self, left: Node, sign: Lexeme) -> Node:
        first, last = self._numbers(left, sign)
        run = between(left.run, run_of(first), run_of(last), sign.value == "in")
        self.asked.moments.hold(left, first, last)
        parts = [node for node in (left, first, last) if node is not None]
        return self._made("truth", run, parts, left.start)

    def _touching(self, left: Node, sign: Lexeme) -> Node:
        if left.name not in TOUCHED:
            self._at.fail(
                sign.start,
                f"touches at column {sign.start + 1} follows"
                f" {', '.join(TOUCHED[:-1])} or {TOUCHED[-1]}",
            )
        first, last = self._numbers(left, sign)
        if left.name == "offset" and first is not None and first.constant:
            self.asked.offsets.append((first.run({}), first.start))
        size = lookup("extent")
        run = touching(left.run, size, run_of(first), run_of(last))
        parts = [node for node in (left, first, last) if node is not None]
        return self._made("truth", run, parts, left.start)

    def _between_marks(self, left: Node, sign: Lexeme) -> Node:
        like = 'mark in "before".."after"'
        where = f"{sign.value} at column {sign.start + 1}"
        ends = self._range(sign, lambda: self._pattern(where, f"texts in quotes: {like}"), like)
        between = Between(*(None if node is None else str(node.run({})) for node in ends))
        self.asked.stretches.append(between)
        look, wanted = lookup(between), sign.value == "in"
        parts = [node for node in (left, *ends) if node is not None]
        return self._made("truth", lambda facts: bool(look(facts)) is wanted, parts, left.start)

    def _want_number(self, node: Node, sign: str) -> None:
        if node.type != "number":
            hint = "; parentheses group comparisons" if node.type == "truth" else ""
            self._at.fail(node.start, f"{sign} takes numbers: {self._at.told(node)}{hint}")

    def _arithmetic(self, lowest: int) -> Node:
        left = self._unary()
        while (
            self._at.piece.kind == "operator" and LEVEL.get(str(self._at.piece.value), 0) >= lowest
        ):
            sign = self._at.advance()
            word = str(sign.value)
            right = self._arithmetic(LEVEL[word] + 1)
            for node in (left, right):
                self._want_number(node, word)
            combine = ARITHMETIC.get(word) or self._careful(sign)
            run = binary(combine, left.run, right.run, right.constant)
            left = self._made("number", run, [left, right], left.start)
        return left

    def _careful(self, sign: Lexeme) -> Callable[[int, int], int]:
        where = f"at column {sign.start + 1}"
        return careful(str(sign.value), lambda why: self._at.fail(sign.start, f"{why} {where}"))

    def _unary(self) -> Node:
        signs = []
        while sign := self._at.take("-", "~"):
            signs.append(sign)
        node = self._primary()
        for sign in reversed(signs):
            self._want_number(node, str(sign.value))
            change: Callable[[int], int]
            change = operator.neg if sign.value == "-" else operator.invert
            node = self._made("number", applied(change, node.run), [node], sign.start)
        return node

    def _primary(self) -> Node:
        piece = self._at.advance()
        match piece.kind:
            case "number" | "text":
                return literal("number" if piece.kind == "number" else "text", piece)
            case "register":
                return register(self._at, self.asked, piece)
            case "word" if piece.value == DELTA and self._at.piece.value == "(":
                return self._delta(piece)
            case "word" if piece.value in ("true", "false"):
                return literal("truth", piece)
            case "word" if piece.value not in RESERVED and not self._at.stops_at(piece):
                return fact(self._at, self.asked, piece)
            case "operator" if piece.value == "(":
                return self._group(piece)
        return self._at.fail_value(piece)

    def _group(self, opening: Lexeme) -> Node:
        self._parentheses += 1
        if self._parentheses > MAX_PARENTHESES:
            self._at.fail(opening.start, f"more than {MAX_PARENTHESES} parentheses in each other")
        node = self._disjunction()
        closing = self._at.take(")")
        if closing is None:
            if self._at.piece.kind != "end":
                self._at.fail_operator(self._at.piece)
            self._at.fail(opening.start, f"( at column {opening.start + 1} is never closed")
        self._parentheses -= 1
        return Node(
            node.type, node.run, opening.start, closing.end, node.depth, node.name, node.constant
        )

    def _delta(self, piece: Lexeme) -> Node:
        if not self._deltas:
            self._at.fail(piece.start, f"{DELTA} is of a tally: tally {DELTA}(time) by function")
        node = self._group(self._at.advance())
        self._want_number(node, DELTA)
        return difference(self.asked, piece, node)
