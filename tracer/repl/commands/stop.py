"""Commands that say where the guest stops."""

from __future__ import annotations

from tracer.errors import TracerError, UsageError
from tracer.host.named_file import at_home, file_named, replacing
from tracer.query.breakpoint import CALLS, Break, parse_break, parse_condition
from tracer.repl.clause import ACCESSES, CONDITION, COUNTS, PENDING
from tracer.repl.command import command
from tracer.repl.context import Context
from tracer.repl.order import Taking, order_lines
from tracer.repl.parser import Statement
from tracer.repl.result import Result, said
from tracer.text.amount import counted
from tracer.text.number import whole

_KINDS = {
    **ACCESSES,
    "symbol": "what a function does, itself or through what it calls",
    "unhandled": "what the emulator does not know",
    "verdict": "what a confidential guest's handler would not survive",
    "tdcall": "a TDX guest's calls of the TDX module",
    "hypercall": "a TDX guest's calls of its host",
    **CONDITION,
}
_CLAUSES = {**CONDITION, **COUNTS, **PENDING}


@command(
    "break", "b",
    group="stop",
    usage=(
        "break [read|write|access] [PLACE] [if CONDITION] [once|times N|after N] [pending]",
        "break symbol NAME [if CONDITION] [pending]",
        "break unhandled",
        "break verdict [PROFILE]",
        "break tdcall [NAME|NUMBER] [if CONDITION]",
        "break hypercall [NAME|NUMBER] [if CONDITION]",
    ),
    brief="stop before an access",
    text="""\
PLACE is a region, a device, a region with offsets or a register's name, or a physical address; *
and ? fit anything. Where inputs are recorded (`boot --inputs`) it can be `port 0x64`, `port
0x60-0x6f`, `port i8042-data`, `msr EFER`, `cpuid 7.1` (a leaf, and a subleaf), `irq 0x30` or `msi
0x4023` (the data of the message that an interrupt came of), too: before an interrupt the guest can
be looked at, nothing of it changed. `symbol` fits what a function
does, itself or through what it calls, `unhandled` what the emulator does not know, `verdict` what
the MMIO handler of a confidential guest would not survive: a confidential guest's own, unless a
profile is named. `tdcall` and `hypercall` stop a TDX guest at its calls of the TDX module and of
its host: `plan` tells what it asks, `refuse` and `retry` answer a hypercall, and a condition knows
registers, the address that is asked about, and where in the code it is. CONDITION is an expression
over value, offset, width, extent, address, linear, region, device, register, symbol, function,
module, callers, direction, vcpu, cpl, seq, time, count, mnemonic, via, phase, mark, changes, and
registers: $rax. `value & 0xff == 3` compares the low byte; `region is nvme` is the device's too, ~
fits a pattern: docs/conditions.md has the language, which is also that of `vetrace show --if`. A
break on the value of a read stops once the device has answered. A name that nothing has is refused,
unless `pending` says to wait for it: a device or a module may still come.""",
    examples=(
        "break write nvme+0x1000 if value & 0xff == 3",
        "break read hpet",
        "break nvme.CC",
        "break write port 0x70-0x71 if value == 0xb",
        "break msr 0xc0000080",
        "break cpuid 0x80000002 once",
        "break symbol nvme_reset_work",
        "break symbol e1000_probe pending",
        "break write lapic if function ~ \"*eoi*\" after 100",
        "break unhandled",
        "break verdict linux-tdx",
        "break tdcall TDG.VP.VEINFO.GET once",
        "break hypercall MapGPA if $r13 > 0x1000",
        "break hypercall 0x10001",
        "break nvme.CSTS if changes and callers is nvme_reset_work",
    ),
    expects=((*_KINDS, "place"), tuple(_CLAUSES)),
    words=_KINDS | _CLAUSES,
)  # fmt: skip
async def break_(context: Context, statement: Statement) -> Result:
    return _added(
        context,
        await context.checked(lambda text: parse_break(text, context.known), statement.rest),
    )


@command(
    "tbreak", "tb",
    group="stop",
    usage=("tbreak ...", ),
    brief="the same as break, for one stop",
    examples=("tbreak write nvme.CC",),
    expects=((*_KINDS, "place"), tuple(_CLAUSES)),
    words=_KINDS | _CLAUSES,
)  # fmt: skip
async def tbreak(context: Context, statement: Statement) -> Result:
    return _added(
        context,
        await context.checked(
            lambda text: parse_break(text, context.known, temporary=True), statement.rest
        ),
    )


def _added(context: Context, item: Break) -> Result:
    if context.recorded is not None and item.kind in CALLS:
        raise UsageError(
            f"a recording stands at accesses, and {item.kind} is none: `vetrace show` tells calls"
        )
    context.run.breaks = context.run.breaks.added(item)
    made = context.run.breaks.items[-1]
    note = f" ({made.note})" if made.note else ""
    told = [f"break {made.number}: {made.text}{note}", *_left_alone(context, made)]
    return Result({"text": "\n".join(told), "number": made.number}, told)


# A device that is not traced stops nothing; another command may yet have it traced.
def _left_alone(context: Context, made: Break) -> list[str]:
    if context.recorded is not None:
        return []
    regions = context.regions
    places = made.pattern.places(regions) if made.kind == "access" else None
    if not places or any(regions.touches_traced(at.start, at.stop - 1) for at in places):
        return []
    names = dict.fromkeys(
        region.name
        for region in regions.regions
        if any(region.start < at.stop and at.start <= region.end for at in places)
    )
    if not names:
        return []
    told = " ".join(names)
    return [f"{told} is not traced, so this stops nothing before `trace {told}`"]


@command(
    "delete", "d",
    group="stop",
    usage=("delete [NUMBER...]",),
    brief="delete breaks, or all of them",
    examples=("delete 2", "delete 1 3-5", "delete"),
    expects=(("break",),),
)  # fmt: skip
async def delete(context: Context, statement: Statement) -> Result:
    numbers = context.run.breaks.numbers(statement.rest)
    context.run.breaks = context.run.breaks.deleted(numbers)
    return _told("deleted", numbers)


@command(
    "enable",
    group="stop",
    usage=("enable [NUMBER...]",),
    brief="let breaks stop again",
    examples=("enable 2", "enable"),
    expects=(("break",),),
)
async def enable(context: Context, statement: Statement) -> Result:
    numbers = context.run.breaks.numbers(statement.rest)
    context.run.breaks = context.run.breaks.enabled(numbers)
    return _told("enabled", numbers)


@command(
    "disable",
    group="stop",
    usage=("disable [NUMBER...]",),
    brief="keep breaks without stopping at them",
    examples=("disable 2", "disable"),
    expects=(("break",),),
)
async def disable(context: Context, statement: Statement) -> Result:
    numbers = context.run.breaks.numbers(statement.rest)
    context.run.breaks = context.run.breaks.enabled(numbers, enabled=False)
    return _told("disabled", numbers)


def _told(what: str, numbers: tuple[int, ...]) -> Result:
    shown = ", ".join(map(str, numbers))
    text = f"{what} break{'s' * (len(numbers) > 1)} {shown}" if numbers else "there are no breaks"
    return said(text, numbers=list(numbers))


@command(
    "ignore",
    group="stop",
    usage=("ignore NUMBER COUNT",),
    brief="do not stop at the next hits of a break",
    examples=("ignore 1 10",),
    expects=(("break",),),
)
async def ignore(context: Context, statement: Statement) -> Result:
    words = statement.words
    if len(words) != 2:
        raise ignore.misused("a break's number and a count are needed")
    which, count = whole(words[0], "break's number"), whole(words[1], "count")
    context.run.breaks = context.run.breaks.ignoring(which, count)
    return said(f"break {which} ignores its next {count:,} hits", number=which, count=count)


@command(
    "condition",
    group="stop",
    usage=("condition NUMBER [EXPRESSION]",),
    brief="give a break another condition, or none",
    examples=("condition 1 value & 0xff == 3", "condition 1"),
    expects=(("break",), ("fact",)),
)
async def condition(context: Context, statement: Statement) -> Result:
    first, _, text = statement.rest.partition(" ")
    which = whole(first, "break's number")
    wanted = None
    if text.strip():
        wanted = await context.checked(
            lambda text: parse_condition(text, context.known), text.strip()
        )
    context.run.breaks = context.run.breaks.conditioned(which, wanted)
    return said(f"break {which}: {context.run.breaks.find(which).text}", number=which)


@command(
    "commands",
    group="stop",
    usage=("commands [NUMBER...]", ),
    brief="what is to be done where a break stops: commands up to `end`",
    text="""\
Without a number: at the break that was made last. What follows, up to `end`, is carried out each
time the break stops, after the stop has been told and what `display` shows; where the first of it
is `silent`, neither is. A command that lets the guest go on is the last that is carried out.
Nothing before `end` takes the commands away. On one line: `commands 1; silent; regs rax; continue;
end`.""",
    examples=("commands 1", "commands"),
    expects=(("break",),),
)  # fmt: skip
async def commands(context: Context, statement: Statement) -> Result:
    known = context.run.breaks
    numbers = known.numbers(statement.rest or str(known.last)) if known.items else ()
    if not numbers:
        raise UsageError("there are no breaks: `break` makes one")
    context.taking = Taking(numbers)
    which = ", ".join(map(str, numbers))
    return Result({"numbers": list(numbers)}, [f"commands of break {which}, up to `end`:"])


@command(
    "save",
    group="stop",
    usage=("save breaks FILE",),
    brief="write the breaks to a file that `source` reads",
    text="""\
With their commands. A break that is disabled is kept as a comment. A file that is there is not
overwritten.""",
    examples=("save breaks nvme.breaks",),
    expects=(("breaks",), ("file",)),
    words={"breaks": "with their conditions and commands"},
)
async def save(context: Context, statement: Statement) -> Result:
    what, _, name = statement.rest.partition(" ")
    if what != "breaks" or not name.strip():
        raise save.misused("say what, and where to")
    path = at_home(file_named(name.strip()))
    items = context.run.breaks.items
    lines = [
        f"{'' if item.enabled else '# disabled: '}{line}\n"
        for item in items
        for line in (_typed(item), *order_lines(context.orders.get(item.number, ())))
    ]
    try:
        with replacing(path, over=False) as file:
            file.write("".join(lines).encode("utf-8", "backslashreplace"))
    except TracerError as error:
        raise UsageError(str(error)) from None
    count = len(items)
    return said(f"{counted(count, 'break')} in {path}", file=str(path), breaks=count)


# A break as it can be typed again, with what is left of its counts.
def _typed(item: Break) -> str:
    words = ["break", item.text]
    if item.remaining is not None:
        words.append(f"times {item.remaining}")
    if item.ignore:
        words.append(f"after {item.ignore}")
    return " ".join([*words, *(["pending"] if item.pending else [])])


COMMANDS = (break_, tbreak, delete, enable, disable, ignore, condition, commands, save)
