"""Commands that say what becomes of accesses: of those to come by rules, of the one that waits."""

from __future__ import annotations

from tracer.access.decision import Delay
from tracer.query.rule import ON, delay_time
from tracer.repl.command import command
from tracer.repl.context import Context
from tracer.repl.parser import Statement
from tracer.repl.result import Result, said

_WHERE = ("read", "write", "access", "place", "if", "do")
_CLAUSES = ("if", "once", "times", "after", "do")


@command(
    "rule",
    group="change",
    usage=(
        "rule on [read|write] [PLACE] [if CONDITION] [once|times N] [after N] [pending] do ACTION",
        "rule off [NUMBER...]",
        "rule",
    ),
    brief="say what becomes of accesses, without a stop",
    text="""\
ACTION is `give VALUE`, for the guest when it reads, for the device when it writes, or `delay TIME`,
which the guest waits for the answer; what stands before `do` is as for `break`. A read's device is
asked in any case. The first rule that fits decides, and what a person says of an access that waits
goes before all of them. Without an argument: all rules, with how often they were applied.
docs/rules.md has more of them.""",
    examples=(
        "rule on read nvme.CSTS once do give 0xffffffff",
        "rule on read nvme after 3 times 2 do delay 1ms",
        "rule on write nvme.CC if value & 1 do give 0",
        "rule off 1",
    ),
    expects=(("on", "off"), (*_WHERE, "rule"), _CLAUSES),
)
async def rule(context: Context, statement: Statement) -> Result:
    host = context.control.host
    match statement.words:
        case []:
            return listed(context)
        case ["off", *_]:
            numbers = host.rules.numbers(statement.rest.removeprefix("off"))
            host.remove(numbers)
            shown = ", ".join(map(str, numbers))
            text = f"deleted rule{'s' * (len(numbers) > 1)} {shown}"
            return said(text if numbers else "there are no rules", numbers=list(numbers))
        case [first, *_] if first != ON:
            raise rule.misused(f"a rule begins with {ON}")
    made = await context.checked(lambda text: host.add(text, context.known), statement.rest)
    note = " (pending)" if made.trigger.pending else ""
    return said(f"{made.name}: {made.text}{note}", number=made.number)


def listed(context: Context) -> Result:
    """Return the rules and the host of one's own, in the order in which they are asked."""
    host = context.control.host
    value = [
        {"number": rule.number, "text": rule.text, "applied": rule.applied, "live": rule.live}
        for rule in host.rules.items
    ]
    lines = [
        f"{rule.number:<3} {rule.applied:,} applied  {rule.text}"
        f"{'' if rule.live else '  (used up)'}"
        for rule in host.rules.items
    ]
    if host.own is not None:
        lines.append(f"then {host.own.path}")
    return Result(value, lines or ["there are no rules; `help rule` tells how to make one"])


@command(
    "delay",
    group="change",
    usage=("delay TIME",),
    brief="let the guest's time pass before it has the answer",
    text="It takes effect when the guest goes on, in place of what rules say.",
    examples=("delay 1ms", "delay 20us"),
)
async def delay(context: Context, statement: Statement) -> Result:
    time_ns = delay_time(statement.rest)
    context.control.rule(Delay(time_ns))
    return said(f"the guest will wait {time_ns / 1e9:.9g} s for the answer", time_ns=time_ns)


COMMANDS = (rule, delay)
