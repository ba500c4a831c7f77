"""The command `info`: what there is, by topics. No device is touched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import islice

from tracer.compiled.flagging import ALL_OF
from tracer.errors import UsageError
from tracer.look.region import (
    devices_lines,
    mapping_lines,
    mapping_objects,
    region_lines,
    region_objects,
)
from tracer.repl.command import command
from tracer.repl.commands.register import described
from tracer.repl.context import Context
from tracer.repl.parser import Statement
from tracer.repl.playback import Playback
from tracer.repl.recording_view import info_lines, info_object
from tracer.repl.result import Result, Screen
from tracer.text.amount import counted
from tracer.trace.waiting_words import poll_line, poll_object


async def _breaks(context: Context, rest: str) -> Result:
    rows = context.run.breaks.describe()
    value = [
        {"number": row.number, "kind": row.kind, "enabled": row.enabled, "hits": row.hits,
         "text": row.text, "note": row.note,
         "commands": list(context.orders.get(row.number, ()))}
        for row in rows
    ]  # fmt: skip
    lines = [
        line
        for row in rows
        for line in (
            f"{row.number:<3} {'' if row.enabled else 'disabled, '}{counted(row.hits, 'hit')}"
            f"  {row.text}{f'  ({row.note})' if row.note else ''}",
            *(f"      {order}" for order in context.orders.get(row.number, ())),
        )
    ]
    return Result(value, lines or ["there are no breaks; `help break` tells how to make one"])


async def _accesses(context: Context) -> dict[str, int]:
    summary = await context.counted()
    return {name: count.accesses for name, count in summary.regions.items()}


async def _regions(context: Context, rest: str) -> Result:
    regions = context.regions
    name = rest.strip()
    found = regions.named(name or "*")
    if not found:
        raise context.misses("region", name, context.region_names())
    registers = _described(context, name)
    accesses = await _accesses(context)

    def lines(screen: Screen) -> list[str]:
        if not name:
            return devices_lines(regions, accesses, screen.width, screen.colour)
        return [
            *region_lines(found, regions, accesses, screen.width, screen.colour),
            *registers,
        ]

    return Result(region_objects(found, regions, accesses), lines)


def _described(context: Context, name: str) -> list[str]:
    # The names of a region's registers, where there is a map of them.
    found = context.names.map_of(name) if name else None
    if found is None:
        return []
    names = ", ".join(islice(found.names(), 200))
    return [f"registers ({found.specification}):", f"  {names}"]


async def _devices(context: Context, rest: str) -> Result:
    regions, accesses = context.regions, await _accesses(context)
    return Result(
        region_objects(regions.regions, regions, accesses),
        lambda p: devices_lines(regions, accesses, p.width, p.colour),
    )


async def _inputs(context: Context, rest: str) -> Result:
    if context.recorded is not None:
        return await _recorded_inputs(context)
    regions = context.regions
    now_ns = context.run.time_ns
    spaces = [space for space in ALL_OF if space in regions.inputs]
    breaks = [
        (f"break {item.number}", item.leeway(regions, now_ns).inputs)
        for item in context.run.breaks.items
        if item.enabled
    ] + [
        (rule.name, rule.trigger.pattern.inputs(regions))
        for rule in context.control.host.rules.items
        if rule.live
    ]
    value = [
        {"space": space, "accesses": context.inputs[space], "changed": context.answered[space],
         "asked": [name for name, flags in breaks if flags & ALL_OF[space]]}
        for space in spaces
    ]  # fmt: skip
    lines = [
        f"{space:<6} {context.inputs[space]:>9,} accesses"
        + (f", {context.answered[space]:,} with another value" if context.answered[space] else "")
        + "".join(f"; {name}" for name, flags in breaks if flags & ALL_OF[space])
        for space in spaces
    ]
    return Result(value, lines or ["no inputs are recorded; `vetrace boot --inputs` does"])


async def _recorded_inputs(context: Context) -> Result:
    counts: Counter[str] = Counter()
    for count in (await context.counted()).regions.values():
        if count.space != "memory":
            counts[count.space] += count.accesses
    value = [{"space": space, "accesses": number} for space, number in counts.items()]
    lines = [f"{space:<6} {number:>9,} accesses" for space, number in counts.items()]
    return Result(value, lines or ["no inputs are recorded; `vetrace boot --inputs` does"])


async def _trace(context: Context, rest: str) -> Result:
    assert context.recorded is not None  # the command says that it needs one
    await context.recorded.read_on()
    return Result(info_object(context.recorded), info_lines(context.recorded))


async def _mappings(context: Context, rest: str) -> Result:
    wanted = {region.name for region in context.regions.named(rest or "*")}
    if context.recorded is None and context.control.session.view.nested is not None:
        raise UsageError("devices fault by their physical addresses: nobody follows what is mapped")
    found = [item for item in context.run.maps if not rest or not wanted.isdisjoint(item.regions)]
    return Result(mapping_objects(found), lambda p: mapping_lines(found, p.width, p.colour))


async def _register(context: Context, rest: str) -> Result:
    return await (described(context, rest) if rest else _registers(context, rest))


async def _registers(context: Context, rest: str) -> Result:
    return await context.commands.find("regs").action(context, Statement("regs", rest))


async def _display(context: Context, rest: str) -> Result:
    lines = [f"{number}  {text}" for number, text in context.displays.items()]
    return Result(
        {str(number): text for number, text in context.displays.items()},
        lines or ["nothing is displayed at stops; `display plan` would be"],
    )


async def _waiting(context: Context, rest: str) -> Result:
    if context.recorded is not None:
        return await _recorded_waits(context.recorded)
    lines = context.run.waiting_lines()
    return Result(
        context.run.waiting_objects(), lines or ["the guest reads nothing again and again"]
    )


async def _recorded_waits(recording: Playback) -> Result:
    halt = recording.halt
    at = None if halt is None or halt.made is None else halt.made.seq
    value, lines = [], []
    for poll in await recording.reads(recording.scene.waits()):
        goes_on = at is not None and poll.first <= at <= poll.seq
        value.append(poll_object(poll) | {"goes_on": goes_on})
        begins = "waiting for" if goes_on else "waited for"
        lines.append(f"#{poll.first}  {poll_line(poll, begins=begins)}")
    return Result(value, lines or ["nothing that the trace has was waited for"])


def _listed_by(name: str) -> Callable[[Context, str], Awaitable[Result]]:
    # The topic of a command that lists by itself where it is given no words.
    async def tell(context: Context, rest: str) -> Result:
        return await context.commands.find(name).action(context, Statement(name, ""))

    return tell


@dataclass(frozen=True, slots=True)
class _Topic:
    # A subject: how it is told, and what it is.
    tell: Callable[[Context, str], Awaitable[Result]]
    brief: str


_TOPICS = {
    "breaks": _Topic(_breaks, "the breaks, and how often each was hit"),
    "region": _Topic(_regions, "a region: place, accesses, registers"),
    "regions": _Topic(_regions, "all regions, by their devices"),
    "devices": _Topic(_devices, "the devices, and how often each was accessed"),
    "inputs": _Topic(_inputs, "what is recorded beside memory"),
    "mappings": _Topic(_mappings, "where the kernel has mapped devices"),
    "register": _Topic(_register, "a device's register, or the CPU's, told whole"),
    "registers": _Topic(_registers, "the CPU's registers, as `regs`"),
    "display": _Topic(_display, "what is displayed at stops"),
    "filters": _Topic(_listed_by("filter"), "what is shown of accesses, as `filter`"),
    "rules": _Topic(_listed_by("rule"), "what becomes of accesses, as `rule`"),
    "waiting": _Topic(_waiting, "what the guest reads again and again, and why"),
    "trace": _Topic(_trace, "a recording: what it is of, and how it ends"),
}

_OF_GDB = {"breakpoints": "breaks", "reg": "registers", "r": "registers"}
"""Words of gdb's for topics."""


@command(
    "info", "i",
    group="look",
    usage=(
        "info breaks|regions|devices|inputs|mappings|registers|display|filters|rules|waiting",
        "info trace",
        "info region [NAME]",
        "info register NAME",
    ),
    brief="what there is: breaks, regions, devices, mappings; what a register is",
    text="""\
`info register` tells what is known of a device's register (`nvme.CC`, `CC`, `nvme+0x14`, a glob, or
a region for all of them), or of the CPU's (`rax`, `$cr4`): place, access right, what its bits mean,
where it is specified; of a device's also its last value, how often it was read and written, and
when and by whom last. In a recording that is before the access that it stands at, but for how
often. `info inputs` tells what is recorded beside memory, how many of each, which
breaks and rules are about them, and how many had another value than the device's. `info waiting`
tells what the guest reads again and again: for which bits, how often, how long, and where its loop
gives up; of a recording all that was waited for, the longest first, with the number of the first
read, for `goto`. No device is read. `info registers` is `regs`, `info filters` `filter`, and, as in
gdb, `info breakpoints` `info breaks`. `info trace` is of a recording: what it is of, how far it has
been read, and how it ends.""",
    examples=("info breaks", "info region nvme", "info register nvme.CC", "info mappings"),
    expects=(tuple(_TOPICS), ("place",)),
    words={name: topic.brief for name, topic in _TOPICS.items()},
    word_needs={"rules": "guest", "trace": "recording"},
)  # fmt: skip
async def info(context: Context, statement: Statement) -> Result:
    word, _, rest = statement.rest.partition(" ")
    word = "register" if rest and word in ("r", "reg") else _OF_GDB.get(word, word)
    found = [name for name in _TOPICS if word and name.startswith(word)]
    if found and all(name.startswith(found[0]) for name in found):
        del found[1:]  # `regio` is `region`, though there is `regions`
    if word not in _TOPICS and len(found) != 1:
        if found:
            raise info.misused(f"{word} is ambiguous: {', '.join(found)}")
        if not word:
            raise info.misused("say what about")
        raise context.misses("info", word, list(_TOPICS))
    name = word if word in _TOPICS else found[0]
    info.check(Statement("info", name), context.recording)
    return await _TOPICS[name].tell(context, rest.strip())


COMMANDS = (info,)
