"""The terms of a condition: literals, and names of facts and of registers."""

from __future__ import annotations

from itertools import count

from tracer.errors import advice, suggestion
from tracer.query.condition.asked import Asked
from tracer.query.condition.closure import Run, constantly, lookup
from tracer.query.condition.cursor import Cursor
from tracer.query.condition.lexeme import Lexeme
from tracer.query.condition.node import Node
from tracer.query.condition.vocabulary import NAMES, REGISTERS, VALUES, Since, Type, memory

# Each place that asks for changes has a memory of its own.
_askers = count()


def literal(type_: Type, piece: Lexeme) -> Node:
    """Return a number, a text, or ``true`` and ``false``, as they are written."""
    value = piece.value == "true" if type_ == "truth" else piece.value
    return Node(type_, constantly(value), piece.start, piece.end, constant=True)


def fact(at: Cursor, asked: Asked, piece: Lexeme) -> Node:
    """Return the fact of a name. Raises ConditionError where there is none."""
    name, column = str(piece.value), piece.start + 1
    if name not in NAMES:
        for owner, words in VALUES.items():
            if name in words:
                at.fail(
                    piece.start,
                    f"{name} at column {column} is no name but a {owner}: {owner} == {name}",
                )
        at.fail(piece.start, f"unknown name {name} at column {column}{advice(name, NAMES)}")
    asked.names.add(name)
    if name == "time":
        asked.moments.mention(piece.start)
    found = memory(next(_askers)) if name == "changes" else name
    return Node(NAMES[name][0], lookup(found), piece.start, piece.end, name=name)


def register(at: Cursor, asked: Asked, piece: Lexeme) -> Node:
    """Return a register, or a part of one. Raises ConditionError where there is none."""
    name = str(piece.value)[1:].lower()
    part = REGISTERS.get(name)
    if part is None:
        hint = suggestion(f"${name}", [f"${known}" for known in REGISTERS])
        shown = f"unknown register {piece.value} at column {piece.start + 1}"
        at.fail(piece.start, shown + (hint or ": $rax, $eax, $ax and $ah are some"))
    full, shift, mask = part
    asked.names.add(f"${full}")
    get = lookup(f"${full}")
    run: Run = get if mask == (1 << 64) - 1 else lambda facts: get(facts) >> shift & mask
    return Node("number", run, piece.start, piece.end)


def difference(asked: Asked, piece: Lexeme, node: Node) -> Node:
    """Return by how much a number, ``node``, differs from what it was before."""
    since = Since(next(_askers), node.run)
    asked.deltas.append(since)
    # A difference is no constant: the first time there is nothing before it.
    return Node("number", lookup(since), piece.start, node.end, node.depth + 1)
