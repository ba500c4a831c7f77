"""Commands about what is shown while the guest runs."""

from __future__ import annotations

from itertools import islice
from time import monotonic

from tracer.errors import UsageError
from tracer.repl.clause import CONDITION, DIRECTIONS, PENDING
from tracer.repl.command import command
from tracer.repl.context import KEPT, Context
from tracer.repl.feed import Rule, Seen
from tracer.repl.feed_lines import item_lines
from tracer.repl.parser import Statement
from tracer.repl.result import Result, Screen, said
from tracer.report.objects import access_object
from tracer.text.number import whole

_WHERE = {**DIRECTIONS, **CONDITION}
_CLAUSES = {**CONDITION, **PENDING}


@command(
    "watch", "w",
    group="watch",
    usage=("watch on", "watch off", "watch LINES", "watch [no] clocks"),
    brief="show accesses as they come, or not, or so many lines a second",
    text="""\
What is not shown is counted, and is in the trace all the same. LINES may be `all`. Clocks are
registers that tell the time, count it, or go with its ticks, as register maps say: those of timers,
and the end of an interrupt, that a kernel accesses all the time. At the prompt they are shown with
`watch clocks`, or where a filter wants them.""",
    examples=("watch off", "watch on", "watch 100", "watch clocks"),
    expects=(("on", "off", "all", "clocks", "no"), ("clocks",)),
    words={
        "on": "show accesses as they come", "off": "show none, but count them",
        "all": "show every access, however many", "clocks": "show accesses to clocks as well",
        "no": "no clocks: do not show accesses to clocks",
    },
)  # fmt: skip
async def watch(context: Context, statement: Statement) -> Result:
    word = statement.rest
    feed = context.feed
    if word in ("on", "off"):
        feed.on = word == "on"
    elif word.split() in (["clocks"], ["no", "clocks"]):
        feed.clocks = word == "clocks"
    elif word:
        feed.limit = None if word == "all" else whole(word, "number of lines")
        if feed.limit is not None and feed.limit < 1:
            raise watch.misused(f"{word} lines a second show nothing: `watch off`")
        feed.on = True
    rate = "all of them" if feed.limit is None else f"{feed.limit} lines a second at most"
    text = f"accesses are shown, {rate}" if feed.on else "accesses are not shown"
    if feed.on and not feed.clocks:
        text += (
            f"; {feed.ticks:,} to clocks were not" if feed.ticks else "; those to clocks are not"
        )
    return said(text, on=feed.on, limit=feed.limit, clocks=feed.clocks)


@command(
    "pause",
    group="watch",
    brief="hold back what is shown of accesses as they come",
    text="`unpause` tells how many accesses came meanwhile, and shows the last of them.",
)
async def pause(context: Context, statement: Statement) -> Result:
    context.feed.paused = True
    return said("paused: the guest runs on, `unpause` shows accesses again")


@command(
    "unpause", "resume-output",
    group="watch",
    brief="show accesses again after pause",
)  # fmt: skip
async def unpause(context: Context, statement: Statement) -> Result:
    if not context.feed.paused:
        raise UsageError("the output is not paused")
    context.on_shown(context.feed.resume(monotonic()))
    return Result({"paused": False})


@command(
    "filter",
    group="watch",
    usage=(
        "filter [read|write] [PLACE] [if CONDITION] [pending]",
        "filter NAME",
        "filter off [NUMBER]",
    ),
    brief="show only accesses that fit; more than one filter shows what fits any",
    text="""\
PLACE and CONDITION are as for `break`. NAME is a filter of your own file (`help source`). Without
an argument: what is filtered and hidden. The trace has everything in any case.""",
    examples=("filter nvme", "filter write if value > 0xff", "filter off"),
    expects=((*_WHERE, "off", "place", "filter"), ("place", *_CLAUSES), tuple(_CLAUSES)),
    words=_WHERE | _CLAUSES | {"off": "show every access again, or forget one filter"},
)
async def filter_(context: Context, statement: Statement) -> Result:
    context.feed.filters = await _changed(context, context.feed.filters, statement.rest)
    return _rules(context)


@command(
    "hide",
    group="watch",
    usage=(
        "hide [read|write] [PLACE] [if CONDITION] [pending]",
        "hide NAME",
        "hide off [NUMBER]",
    ),
    brief="do not show accesses that fit",
    examples=("hide lapic", "hide read hpet", "hide off 1"),
    expects=((*_WHERE, "off", "place", "filter"), ("place", *_CLAUSES), tuple(_CLAUSES)),
    words=_WHERE | _CLAUSES | {"off": "hide nothing, or forget one of these"},
)
async def hide(context: Context, statement: Statement) -> Result:
    context.feed.hidden = await _changed(context, context.feed.hidden, statement.rest)
    return _rules(context)


async def _changed(context: Context, rules: list[Rule], text: str) -> list[Rule]:
    words = text.split()
    if not words:
        return rules
    if words[0] == "off":
        if len(words) == 1:
            return []
        index = whole(words[1], "number")
        if not 1 <= index <= len(rules):
            raise UsageError(f"there is no number {index}; `filter` lists them")
        return [*rules[: index - 1], *rules[index:]]
    rule = await context.rule(text)
    return [*(other for other in rules if other.text != rule.text), rule]


def _rules(context: Context) -> Result:
    feed = context.feed
    lines = [f"{n}  filter {rule.text}" for n, rule in enumerate(feed.filters, 1)]
    lines += [f"{n}  hide {rule.text}" for n, rule in enumerate(feed.hidden, 1)]
    value = {
        "filters": [rule.text for rule in feed.filters],
        "hidden": [rule.text for rule in feed.hidden],
    }
    return Result(value, lines or ["every access is shown"])


@command(
    "show", "l",
    group="watch",
    usage=("show last [N] [FILTER]", "show next [N] [FILTER]"),
    brief="show the last accesses again; in a recording, the next as well",
    text=f"""\
N is 10 when not given. The last {KEPT:,} accesses can be reached, filtered or not, all of a
recording; FILTER is what `filter` takes, and chooses among them. `show next` begins with the access
that a recording stands at.""",
    examples=("show last", "show last 50", "show last 20 nvme", "show next 5"),
    expects=(("last", "next"), ("place", *_WHERE), ("place", *_CLAUSES)),
    words={"last": "those that were made last", "next": "those that come, in a recording"}
    | _WHERE
    | _CLAUSES,
)  # fmt: skip
async def show(context: Context, statement: Statement) -> Result:
    words = statement.rest.split(maxsplit=2)
    verb = words[0] if words else "last"
    if verb not in ("last", "next"):
        raise show.misused(f"there is no show {verb}")
    if verb == "next" and context.recorded is None:
        raise UsageError("a guest has no next accesses yet: `step` goes to them")
    count = 10
    rest = " ".join(words[1:])
    if len(words) > 1 and words[1][0].isdigit() and not words[1].startswith("0x"):
        count, rest = whole(words[1], "count"), " ".join(words[2:])
    rule = await context.rule(rest) if rest else None
    fits = _any if rule is None else rule.fits
    if context.recorded is None:
        last = list(islice(filter(fits, reversed(context.recent)), count))[::-1]
    elif verb == "last":
        last = await context.recorded.before(count, fits)
    else:
        last = await context.recorded.ahead(count, fits)
    if not last:
        return Result([], ["there is no such access" if rest else "no access yet"])

    def lines(screen: Screen) -> list[str]:
        return [line for seen in last for line in item_lines(seen, screen, context.kept)]

    return Result([access_object(seen) for seen in last], lines)


def _any(seen: Seen) -> bool:
    return True


COMMANDS = (watch, pause, unpause, filter_, hide, show)
