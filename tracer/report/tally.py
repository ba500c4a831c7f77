"""Tallies as a table, as histograms, and as an object for programs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from tracer.query.aggregate import Aggregate, Buckets, Held
from tracer.query.condition import Expression
from tracer.query.condition.vocabulary import Fact
from tracer.query.tally import Counted, Key, is_bits
from tracer.report.tables import made_table
from tracer.text import amount
from tracer.text.printable import printable

_BAR = 52  # characters of the longest bar, as bpftrace has it
_LEAST_BAR = 8
_INSIDE = 1 << 53  # numbers below are exact in every reader of JSON
_DELTA_OF_TIME = re.compile(r"delta\s*\(\s*time\s*\)")
_BINARY = ((1 << 60, "E"), (1 << 50, "P"), (1 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"),
           (1 << 10, "K"))  # fmt: skip
_SCALE = ((10**9, "s"), (10**6, "ms"), (10**3, "us"))


def tally_table(counted: Counted, limit: int | None = None) -> Table | None:
    """Return the groups with their numbers, the highest first; None where all are histograms."""
    tally = counted.tally
    columns = [(n, column) for n, each in enumerate(tally.aggregates) for column in _columns(each)]
    if not columns:
        return None
    keys = [each.text for each in tally.keys]
    alone = len(tally.aggregates) == 1
    headings = [
        column if alone and len(columns) > 1 else _heading(tally.aggregates[n], column)
        for n, column in columns
    ]
    table = made_table(*map(printable, keys), *headings, texts=len(keys))
    groups = list(counted.groups())
    for key, held in groups[:limit]:
        cells = [_cell(tally.aggregates[n], held[n], column) for n, column in columns]
        table.add_row(*(Text(printable(text)) for text in (*_texts(counted, key), *cells)))
    left = [] if limit is None else groups[limit:]
    if left and keys:
        first = (f"… {len(left):,} more", *[""] * (len(keys) - 1))
        sums = [
            f"{sum(held[n].count for _, held in left):,}" if column == "count" else ""
            for n, column in columns
        ]
        table.add_row(*(Text(text) for text in (*first, *sums)))
    return table


def histogram_lines(counted: Counted, width: int, limit: int | None = None) -> Iterator[str]:
    """Yield the histograms of each group as lines of ``width`` characters, as bpftrace does."""
    tally = counted.tally
    histograms = [(n, each) for n, each in enumerate(tally.aggregates) if each.buckets is not None]
    if not histograms:
        return
    groups = list(counted.groups())
    for key, held in groups[:limit]:
        told = ", ".join(
            f"{each.text} {text}"
            for each, text in zip(tally.keys, _texts(counted, key), strict=True)
        )
        for index, aggregate in histograms:
            yield ""
            yield printable(": ".join(filter(None, (told, aggregate.text))))
            yield from _bars(aggregate, held[index], width)
    if limit is not None and len(groups) > limit:
        yield ""
        yield f"… {len(groups) - limit:,} more"


def closing_line(counted: Counted) -> str:
    """Return in words how many accesses were counted, and what of them could not be."""
    count = counted.accesses
    told = amount.counted(count, "access")
    if counted.tally.keys:
        told += f" in {amount.counted(len(counted), 'group')}"
    if counted.unknown:
        why = "of them without a number: not known, or nothing before them"
        told += f"; {counted.unknown:,} {why}"
    return told


def tally_object(counted: Counted) -> dict[str, Any]:
    """Return a tally ready for JSON.

    Values and addresses are hex strings, and so are all whole numbers of more than 53 bits.
    """
    tally = counted.tally
    names, told = [each.text for each in tally.keys], [each.text for each in tally.aggregates]
    return {
        "tally": tally.text,
        "accesses": counted.accesses,
        "unknown": counted.unknown,
        "groups": [
            {
                "key": dict(zip(names, map(_plain, key, tally.keys), strict=True)),
                **dict(zip(told, map(_plain_held, tally.aggregates, held), strict=True)),
            }
            for key, held in counted.groups()
        ],
    }


def _columns(aggregate: Aggregate) -> Sequence[str]:
    match aggregate.kind:
        case "hist" | "lhist":
            return ()
        case "stats":
            return "count", "min", "avg", "max", "sum"
    return (aggregate.kind,)


def _heading(aggregate: Aggregate, column: str) -> str:
    if aggregate.kind != "stats" or aggregate.expression is None:
        return aggregate.text
    return f"{column}({aggregate.expression.text})"


def _texts(counted: Counted, key: Key) -> list[str]:
    return [_told(fact, each) for fact, each in zip(key, counted.tally.keys, strict=True)]


# A fact for a reader: what is not known is ?, what has no name is -.
def _told(fact: Fact, expression: Expression) -> str:
    if fact is None:
        return "?"
    if isinstance(fact, bool):
        return "true" if fact else "false"
    if isinstance(fact, int):
        return _number(fact, expression)
    return str(fact) or "-"


def _number(number: int, expression: Expression | None) -> str:
    if expression is not None and is_time(expression):
        return time_text(number)
    if expression is not None and expression.type == "number" and is_bits(expression):
        return hex(number)
    return f"{number:,}"


def is_time(expression: Expression) -> bool:
    """Tell whether a number is nanoseconds."""
    return expression.name == "time" or _DELTA_OF_TIME.fullmatch(expression.text) is not None


def time_text(time_ns: float) -> str:
    """Return nanoseconds with the unit that they are read in: ``1.5us``."""
    for scale, unit in _SCALE:
        if abs(time_ns) >= scale:
            return f"{time_ns / scale:,.3f}".rstrip("0").rstrip(".") + unit
    return f"{time_ns:.4g}ns"


def _cell(aggregate: Aggregate, held: Held, column: str) -> str:
    expression = aggregate.expression
    match column:
        case "count":
            return f"{held.count:,}"
        case "avg":
            average = held.average
            if average is None:
                return "-"
            if expression is not None and is_time(expression):
                return time_text(average)
            return f"{average:,.2f}"
        case "sum":
            times = expression is not None and is_time(expression)
            return time_text(held.total) if times else f"{held.total:,}"
    number = held.least if column == "min" else held.most
    return "-" if number is None else _number(number, expression)


def _bars(aggregate: Aggregate, held: Held, width: int) -> Iterator[str]:
    buckets = aggregate.buckets
    assert buckets is not None
    if not held.counts:
        yield "  no number of them is known"
        return
    present = range(min(held.counts), max(held.counts) + 1)
    rows = [(_interval(buckets, n, aggregate.expression), held.counts[n]) for n in present]
    labels = max(len(label) for label, _ in rows)
    numbers = max(len(f"{count:,}") for _, count in rows)
    room = max(min(_BAR, width - labels - numbers - 8), _LEAST_BAR)
    most = max(count for _, count in rows)
    for label, count in rows:
        bar = "@" * (room * count // most)
        yield f"  {label:<{labels}}  {count:>{numbers},} |{bar:<{room}}|"


def _interval(buckets: Buckets, index: int, expression: Expression | None) -> str:
    first, end = buckets.ends(index)
    if first is None:
        return f"(..., {_bound(end or 0, buckets, expression)})"
    shown = _bound(first, buckets, expression)
    if end is None:
        return f"[{shown}, ...)"
    return f"[{shown}]" if end == first + 1 else f"[{shown}, {_bound(end, buckets, expression)})"


def _bound(number: int, buckets: Buckets, expression: Expression | None) -> str:
    if expression is not None and (is_time(expression) or is_bits(expression)):
        return _number(number, expression)
    if buckets.step is None:
        for scale, unit in _BINARY:
            if number >= scale:
                return f"{number // scale}{unit}"
    return str(number)


def _plain(fact: Fact, expression: Expression | None) -> Any:
    if isinstance(fact, bool) or not isinstance(fact, int):
        return fact
    bits = expression is not None and expression.type == "number" and is_bits(expression)
    return hex(fact) if bits or abs(fact) >= _INSIDE else fact


def _plain_held(aggregate: Aggregate, held: Held) -> Any:
    expression, buckets = aggregate.expression, aggregate.buckets
    average = held.average
    if average is not None and abs(average) == float("inf"):
        average = None  # JSON has no such number
    match aggregate.kind:
        case "count":
            return held.count
        case "sum":
            return _plain(held.total, None)
        case "min":
            return _plain(held.least, expression)
        case "max":
            return _plain(held.most, expression)
        case "avg":
            return average
        case "stats":
            return {
                "count": held.count, "min": _plain(held.least, expression), "avg": average,
                "max": _plain(held.most, expression), "sum": _plain(held.total, None),
            }  # fmt: skip
    assert buckets is not None
    rows = []
    for index in sorted(held.counts):
        first, end = buckets.ends(index)
        last = None if end is None else end - 1
        rows.append(
            {
                "first": _plain(first, expression), "last": _plain(last, expression),
                "count": held.counts[index],
            }
        )  # fmt: skip
    return rows
