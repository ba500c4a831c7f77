"""The command `tally`: counts of accesses, kept while the guest runs on."""

from __future__ import annotations

from tracer.errors import UsageError
from tracer.query.breakpoint import perhaps_pending
from tracer.query.tally import Counted, Tally, parse_tally
from tracer.repl.clause import CONDITION, PENDING
from tracer.repl.command import command
from tracer.repl.context import KEPT, Context
from tracer.repl.counts import printed
from tracer.repl.parser import Statement
from tracer.repl.playback import Playback
from tracer.repl.result import Result, Screen, said
from tracer.repl.tally import Running
from tracer.text.number import whole

_LIMIT = 20

_AGGREGATES = {
    "count": "how many accesses",
    "sum": "of a number: sum(width)",
    "min": "the least of a number",
    "max": "the greatest of a number",
    "avg": "the mean of a number",
    "stats": "count, mean, least and greatest of a number",
    "hist": "a number by powers of 2: hist(value & 0xffff)",
    "lhist": "a number by steps: lhist(width, 0, 16, 4)",
    "delta": "by how much a number differs from the last: delta(time)",
}

_CLAUSES = {"by": "what groups them follows", **CONDITION, **PENDING}


@command(
    "tally",
    group="watch",
    usage=(
        "tally AGGREGATE[, ...] [by EXPRESSION[, ...]] [if CONDITION] [pending]",
        "tally [NUMBER]",
        "tally off [NUMBER]",
    ),
    brief="count accesses by what you like, as they come",
    text=f"""\
The last {KEPT:,} accesses are counted at once, and each that comes from then on; `tally` tells the
counts so far. Of a recording all are counted, wherever in it one stands. AGGREGATE is count; sum,
min, max, avg, stats or hist (by powers of 2) of a number; lhist(NUMBER, FIRST, LAST, STEP); or
delta(NUMBER), which is how much it differs from the access before in the same group. Expressions
and CONDITION are as for `break`; `vetrace tally` does the same over a trace: docs/tally.md.""",
    examples=(
        "tally count by register, function if region == nvme",
        "tally hist(value & 0xffff) if register == CC",
        "tally delta(time) by function",
        "tally",
        "tally off 1",
    ),
    expects=((*_AGGREGATES, "off"), (*_AGGREGATES, *_CLAUSES, "fact")),
    words=_AGGREGATES | _CLAUSES | {"off": "end a tally, or all of them"},
)
async def tally(context: Context, statement: Statement) -> Result:
    words = statement.words
    if not words:
        return await _told(context, sorted(context.tallies))
    if words[0] == "off":
        return _ended(context, words[1:])
    if len(words) == 1 and words[0].isdigit():
        return await _told(context, [_number(context, words[0])])
    asked = await context.checked(lambda text: _parsed(context, text), statement.rest)
    if "callers" in asked.names and not context.run.has_stacks:
        raise UsageError(
            "callers of accesses that were made are not known: `vetrace boot --stacks` records them"
        )
    number = max(context.tallies, default=0) + 1
    first = context.recent[0].seq if context.recent else 0
    running = Running(asked, context.facts_of_seen(), first)
    if context.recorded is not None:
        running.counted = await _recorded(context.recorded, asked)
        context.tallies[number] = running
        return await _told(context, [number], counted=True)
    for seen in context.recent:
        running.listener(seen)
    if running.failed:
        raise UsageError(f"tally {number}: {running.failed}")
    context.begin_tally(number, running)
    return await _told(context, [number])


async def _recorded(recorded: Playback, asked: Tally) -> Counted:
    return await recorded.reads(recorded.scene.tallied(asked))


def _parsed(context: Context, text: str) -> Tally:
    found, _ = perhaps_pending(
        text, context.known, lambda text, known: parse_tally(text, known.vocabulary())
    )
    return found


async def _told(context: Context, numbers: list[int], *, counted: bool = False) -> Result:
    from tracer.report.tally import tally_object  # rich: see repl.counts

    running = [(number, context.tallies[number]) for number in numbers]
    recorded = context.recorded
    if recorded is not None and not counted and not recorded.tape.whole:
        # More may have been written since.
        for _, each in running:
            each.counted = await _recorded(recorded, each.counted.tally)
    value = [
        {"number": number, "since": each.since, **tally_object(each.counted)}
        for number, each in running
    ]

    def lines(screen: Screen) -> list[str]:
        return [line for number, each in running for line in _lines(number, each, screen)]

    if not running:
        return Result([], ["nothing is tallied; `help tally` tells how"])
    return Result(value, lines)


def _lines(number: int, running: Running, screen: Screen) -> list[str]:
    from tracer.report.tally import closing_line, histogram_lines, tally_table

    counted = running.counted
    lines = [f"tally {number}: {counted.tally.text}"]
    if running.since:
        lines[0] += f" (from access {running.since:,} on)"
    table = tally_table(counted, _LIMIT) if counted.accesses else None
    if table is not None:
        lines += printed([table], screen)
    if counted.accesses:
        lines += histogram_lines(counted, screen.width, _LIMIT)
    failed = [f"tally {number}: {running.failed}"] if running.failed else []
    return [*lines, closing_line(counted), *failed]


def _ended(context: Context, words: list[str]) -> Result:
    numbers = [_number(context, word) for word in words] or sorted(context.tallies)
    for number in numbers:
        context.end_tally(number)
    shown = ", ".join(map(str, numbers))
    return said(f"tally {shown} is over" if numbers else "nothing is tallied", numbers=numbers)


def _number(context: Context, word: str) -> int:
    number = whole(word, "number")
    if number not in context.tallies:
        raise UsageError(f"there is no tally {number}; `tally` lists them")
    return number


COMMANDS = (tally,)
