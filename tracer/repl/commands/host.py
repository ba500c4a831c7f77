"""Commands that say what becomes of accesses: of those to come by rules, of the one that waits."""

from __future__ import annotations

from tracer.access.decision import Delay, Postpone, Refuse
from tracer.query.rule import ON, delay_time
from tracer.repl.clause import ACCESSES, CONDITION, COUNTS, PENDING
from tracer.repl.command import command
from tracer.repl.context import Context
from tracer.repl.parser import Statement
from tracer.repl.result import Result, said
from tracer.text.number import whole

_DO = {"do": "what becomes of the access follows"}
_WHERE = {**ACCESSES, **CONDITION, **_DO}
_CLAUSES = {**CONDITION, **COUNTS, **PENDING, **_DO}


@command(
    "rule",
    group="change",
    needs="guest",
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
    expects=(("on", "off"), (*_WHERE, "place", "rule"), tuple(_CLAUSES)),
    words={"on": "a rule follows", "off": "forget rules, or all of them"}
    | _WHERE
    | _CLAUSES
    | {
        "give": "a value in place of what is read, or written",
        "delay": "let the guest wait for the answer",
        "refuse": "a confidential guest's access cannot be made",
        "retry": "a confidential guest is to ask again",
    },
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
    needs="guest",
    usage=("delay TIME",),
    brief="let the guest's time pass before it has the answer",
    text="It takes effect when the guest goes on, in place of what rules say.",
    examples=("delay 1ms", "delay 20us"),
)
async def delay(context: Context, statement: Statement) -> Result:
    time_ns = delay_time(statement.rest)
    context.control.rule(Delay(time_ns))
    return said(f"the guest will wait {time_ns / 1e9:.9g} s for the answer", time_ns=time_ns)


@command(
    "refuse",
    group="change",
    needs="guest",
    usage=("refuse",),
    brief="tell a confidential guest that its access cannot be made",
    text="""\
The guest has asked its host for the access, which answers that an operand is invalid. Linux takes
that for an instruction it could not carry out: `Oops: VE fault`. It takes effect when the guest
goes on; a read that its device has answered is refused all the same.""",
    examples=("refuse",),
)
async def refuse(context: Context, statement: Statement) -> Result:
    context.control.rule(Refuse())
    return said("the guest will hear that the access cannot be made")


@command(
    "retry",
    group="change",
    needs="guest",
    usage=("retry [ADDRESS]",),
    brief="tell a confidential guest to ask its host again",
    text="""\
It takes effect when the guest goes on. Linux does not ask again for a device access. At `break
hypercall MapGPA` the guest is to ask from ADDRESS on, a physical one, and what lies before is done;
without one nothing is.""",
    examples=("retry", "retry 0x1f000000"),
)
async def retry(context: Context, statement: Statement) -> Result:
    physical = whole(statement.rest, "physical address", bits=52) if statement.rest else None
    context.control.rule(Postpone(physical=physical))
    where = "" if physical is None else f" from {physical:#x} on"
    return said(f"the guest will hear that it is to ask again{where}")


@command(
    "rewrite",
    group="change",
    needs="guest",
    usage=("rewrite BYTES",),
    brief="put another instruction in the place of the one that waits",
    text="""\
The instruction starts over with these bytes, and they stay: what if the compiler had chosen ADD?
What they leave of the old instruction becomes NOPs; they cannot be more. In a confidential guest
its own handler decodes what is there now.""",
    examples=("rewrite 03 00", "rewrite 8a00"),
)
async def rewrite(context: Context, statement: Statement) -> Result:
    try:
        code = bytes.fromhex(statement.rest)
    except ValueError:
        raise rewrite.misused(f"{statement.rest} is no bytes in hexadecimal") from None
    rest = await context.control.rewrite(code)
    nops = f", and {rest} NOP{'s' * (rest > 1)}" if rest else ""
    return said(f"rewritten as {code.hex(' ')}{nops}", bytes=code.hex(), nops=rest)


COMMANDS = (rule, delay, refuse, retry, rewrite)
