"""Commands that let the guest go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracer.access.region import RegionMap
from tracer.access.transfer import located
from tracer.errors import UsageError
from tracer.query.breakpoint import parse_until
from tracer.query.condition.vocabulary import OWNERS, Facts
from tracer.repl.command import command
from tracer.repl.context import Context
from tracer.repl.parser import Statement
from tracer.repl.result import Result, said
from tracer.repl.run import Goal
from tracer.text.number import is_whole, whole
from tracer.trace.name import names_region

if TYPE_CHECKING:
    from tracer.repl.playback import Playback


@command(
    "continue", "c", "fg",
    group="go on",
    brief="go on to the next break, or to the end",
    repeats=True,
)  # fmt: skip
async def continue_(context: Context, statement: Statement) -> Result:
    if statement.rest:
        raise continue_.misused("it takes no argument")
    context.run.resume()
    return await context.gone_on()


@command(
    "step", "s",
    group="go on",
    usage=("step [N]",),
    brief="go on to before the next access to a device, or the Nth",
    examples=("step", "step 10"),
    repeats=True,
)  # fmt: skip
async def step(context: Context, statement: Statement) -> Result:
    count = whole(statement.rest or "1", "count")
    if count < 1:
        raise step.misused(f"{count} accesses cannot be stepped over")
    _require_traced(context)
    context.run.step(count)
    return await context.gone_on()


@command(
    "next", "n",
    group="go on",
    usage=("next", "next REGION"),
    brief="go on to before the next access to a region",
    text="Without a name: the region of the access that waits. REGION may be a device or a glob.",
    examples=("next nvme", "next virtio-blk.*"),
    expects=(("region",),),
    repeats=True,
)  # fmt: skip
async def next_(context: Context, statement: Statement) -> Result:
    context.run.go_to(_next(context, "next", statement.rest, "step"))
    return await context.gone_on()


def _next(context: Context, verb: str, text: str, counting: str) -> Goal:
    name = text or _region_here(context)
    if not context.known.named(name):
        if is_whole(name):  # as gdb's takes it
            raise UsageError(f"{verb} takes a region: `{counting} {name}` goes by a count")
        raise context.misses("region", name, context.region_names())
    _require_traced(context, name)

    def wanted(facts: Facts) -> bool:
        region, owners = facts["region"], facts[OWNERS]
        assert isinstance(region, str) and isinstance(owners, tuple)
        return names_region(name, region, owners)

    def places(regions: RegionMap) -> list[range]:
        return [range(region.start, region.end + 1) for region in regions.named(name)]

    return Goal(f"{verb} {name}", wanted, places, may=wanted)


# The guest would run to its end: it stops before accesses that are traced.
def _require_traced(context: Context, name: str = "") -> None:
    why = context.run.untraced(name)
    if why:
        raise UsageError(why)


def _region_here(context: Context) -> str:
    pending = context.halt.pending
    if pending is None or (pending.transfer.region is None and pending.transfer.place is None):
        raise UsageError("no access waits here, so name the region: next nvme")
    return located(pending.transfer)[0]


@command(
    "until", "u",
    group="go on",
    usage=("until TIME", "until SYMBOL [pending]"),
    brief="go on to a guest time, or to an access made under a function",
    text="""\
TIME is 1.2s, 350ms or a number of seconds, or +50ms from now. The guest stops before the first
access from then on, or where it is once it has made none for 0.1 s of its time. SYMBOL may be a
glob; a function that called the one at the access counts. `pending` waits for one that a module
may bring.""",
    examples=("until 1.2s", "until +50ms", "until nvme_reset_work"),
    expects=(("symbol",),),
)  # fmt: skip
async def until(context: Context, statement: Statement) -> Result:
    now_ns = context.halt.time_ns
    target = await context.checked(
        lambda text: parse_until(text, now_ns, context.known), statement.rest
    )
    _require_traced(context)
    context.run.go_to(Goal(f"until {statement.rest}", target.reached, time_ns=target.time_ns))
    return await context.gone_on()


def _recording(context: Context) -> Playback:
    assert context.recorded is not None  # the command needs one
    return context.recorded


@command(
    "back", "rs", "reverse-step",
    group="go on",
    needs="recording",
    usage=("back [N]",),
    brief="go back to the access before, or by N",
    text="A break on the way stops it.",
    examples=("back", "back 10"),
    repeats=True,
)  # fmt: skip
async def back(context: Context, statement: Statement) -> Result:
    count = whole(statement.rest or "1", "count")
    if count < 1:
        raise back.misused(f"{count} accesses cannot be gone back over")
    _recording(context).back(count)
    return await context.gone_on()


@command(
    "reverse-continue", "rc",
    group="go on",
    needs="recording",
    brief="go back to the last break before, or to the beginning",
    repeats=True,
)  # fmt: skip
async def reverse_continue(context: Context, statement: Statement) -> Result:
    if statement.rest:
        raise reverse_continue.misused("it takes no argument")
    _recording(context).go_back_to(None)
    return await context.gone_on()


@command(
    "reverse-next", "rn",
    group="go on",
    needs="recording",
    usage=("reverse-next", "reverse-next REGION"),
    brief="go back to the access before to a region",
    text="Without a name: the region of the access that it stands at.",
    examples=("reverse-next nvme",),
    expects=(("region",),),
    repeats=True,
)  # fmt: skip
async def reverse_next(context: Context, statement: Statement) -> Result:
    recording = _recording(context)
    recording.go_back_to(_next(context, "reverse-next", statement.rest, "back"))
    return await context.gone_on()


@command(
    "goto", "g",
    group="go on",
    needs="recording",
    usage=("goto NUMBER", "goto start", "goto end"),
    brief="go to an access by its number, to the first, or behind the last",
    text="NUMBER is `seq` of `show --json`, and in the first line of `plan`. No break stops it.",
    examples=("goto 120", "goto start", "goto end"),
    expects=(("start", "end"),),
    words={"start": "before the first access", "end": "behind the last access"},
)  # fmt: skip
async def goto(context: Context, statement: Statement) -> Result:
    recording, word = _recording(context), statement.rest
    if word in ("start", "end"):
        recording.jump(0 if word == "start" else None)
    elif word:
        number = whole(word.removeprefix("#").replace(",", ""), "number of an access")
        recording.jump(recording.place_of(number))
    else:
        raise goto.misused("say where to")
    return await context.gone_on()


@command(
    "restart", "run",
    group="go on",
    brief="begin anew: with the same guest, or where a recording begins",
    text="""\
Breaks, displays, aliases, filters, rules and tallies stay; hits and tallies count from 0, and what
`once`, `times` and `ignore` have used up stays used up. The guest that was is ended, and its trace
is whole: the next one's has a number in its name. At a terminal it asks first while there is a
guest to lose.""",
)  # fmt: skip
async def restart(context: Context, statement: Statement) -> Result:
    if statement.rest:
        raise restart.misused("it takes no argument")
    if context.recorded is not None:
        context.run.breaks = context.run.breaks.anew()
        context.recorded.jump(0)
        return await context.gone_on()
    context.check_restart()
    asks = context.confirm is not None and not context.scripted and context.run.state != "ended"
    if asks and context.confirm is not None:
        question = "The guest has not finished. Start it from the beginning? (y or n) "
        if not await context.confirm(question):
            raise UsageError("the guest is left as it is")
    return context.stood(await context.restart())


@command(
    "console",
    group="go on",
    needs="guest",
    brief="type at the guest's console, its first serial port; Ctrl-] comes back",
    text="A guest that stands goes on. All keys but Ctrl-] are the guest's, Ctrl-C too. A stop, "
    "as at a break, comes back as well.",
)  # fmt: skip
async def console(context: Context, statement: Statement) -> Result:
    if statement.rest:
        raise console.misused("it takes no argument")
    own, control = context.control.session.machine.console, context.control
    if own is None:
        raise UsageError("the guest's console is its owner's: vetrace has joined the guest alone")
    own.check_free()
    if context.sit is None:
        raise UsageError("nobody is at a terminal: `vetrace boot --console SOCKET` leads there")
    if control.state == "ended":
        raise UsageError("the guest has ended, and so has its console")
    if control.state == "stopped":
        control.resume()
    await context.sit(own)
    return Result({"state": control.state})


@command(
    "interrupt",
    group="go on",
    brief="stop where it is what goes on; Ctrl-C does the same",
)
async def interrupt(context: Context, statement: Statement) -> Result:
    if context.run.state != "running":
        what = "the guest is not running" if context.recording is None else "nothing goes on"
        raise UsageError(f"{what}: it is {context.run.state}")
    await context.run.interrupt()
    return await context.gone_on()


@command(
    "detach",
    group="go on",
    needs="guest",
    brief="take every trap out and let the guest run on by itself",
    text="Nothing of it is traced from then on. The session ends when the guest does, and at once "
    "for one that `vetrace attach` has joined.",
)
async def detach(context: Context, statement: Statement) -> Result:
    await context.control.detach()
    return said("the guest runs on without vetrace", state=context.run.state)


@command(
    "quit", "q", "exit",
    group="go on",
    brief="end the session; Ctrl-D does the same",
    text="A guest ends with it: at a terminal it asks first while there is one to lose. One that "
    "`vetrace attach` has joined is left, as by `detach`.",
)  # fmt: skip
async def quit_(context: Context, statement: Statement) -> Result:
    context.leaving = True
    return Result({})


COMMANDS = (
    continue_, step, next_, until, back, reverse_continue, reverse_next, goto, restart, console,
    interrupt, detach, quit_,
)  # fmt: skip
