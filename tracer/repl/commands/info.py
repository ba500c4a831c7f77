"""The command `info`: what there is, by topics. No device is touched."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
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
from tracer.repl.result import Result, Screen


@command(
    "info", "i",
    group="look",
    usage=(
        "info breaks|regions|devices|inputs|mappings|registers|display|filters|rules|waiting",
        "info region [NAME]",
        "info register NAME",
    ),
    brief="what there is: breaks, regions, devices, mappings; what a register is",
    text="""\
`info register` tells what is known of a device's register (`nvme.CC`, `CC`, `nvme+0x14`, a glob, or
a region for all of them), or of the CPU's (`rax`, `$cr4`): place, access right, what its bits mean,
where it is specified. `info inputs` tells what is recorded beside memory, how many of each, which
breaks and rules are about them, and how many had another value than the device's. `info waiting`
tells what the guest reads again and again: for which bits, how often, how long, and where its loop
gives up. No device is read. `info registers` is `regs`, `info filters` `filter`.""",
    examples=("info breaks", "info region nvme", "info register nvme.CC", "info mappings"),
    expects=(
        (
            "breaks", "region", "regions", "devices", "inputs", "mappings", "register", "registers",
            "display", "filters", "rules", "waiting",
        ),
        ("place",),
    ),
)  # fmt: skip
async def info(context: Context, statement: Statement) -> Result:
    word, _, rest = statement.rest.partition(" ")
    found = [name for name in _TOPICS if word and name.startswith(word)]
    if found and all(name.startswith(found[0]) for name in found):
        del found[1:]  # `regio` is `region`, though there is `regions`
    if word not in _TOPICS and len(found) != 1:
        if found:
            raise info.misused(f"{word} is ambiguous: {', '.join(found)}")
        if not word:
            raise info.misused("say what about")
        raise context.misses("info", word, list(_TOPICS))
    return await _TOPICS[word if word in _TOPICS else found[0]](context, rest.strip())


async def _breaks(context: Context, rest: str) -> Result:
    rows = context.watch.breaks.describe()
    value = [
        {"number": row.number, "kind": row.kind, "enabled": row.enabled, "hits": row.hits,
         "text": row.text, "note": row.note}
        for row in rows
    ]  # fmt: skip
    lines = [
        f"{row.number:<3} {'' if row.enabled else 'disabled, '}{row.hits:,} hit"
        f"{'' if row.hits == 1 else 's'}  {row.text}{f'  ({row.note})' if row.note else ''}"
        for row in rows
    ]
    return Result(value, lines or ["there are no breaks; `help break` tells how to make one"])


def _accesses(context: Context) -> dict[str, int]:
    return {name: count.accesses for name, count in context.summary.regions.items()}


async def _regions(context: Context, rest: str) -> Result:
    regions = context.control.session.view.regions
    name = rest.strip()
    found = regions.named(name or "*")
    if not found:
        raise context.misses("region", name, context.region_names())
    registers = _described(context, name)

    def lines(screen: Screen) -> list[str]:
        if not name:
            return devices_lines(regions, _accesses(context), screen.width, screen.colour)
        return [
            *region_lines(found, regions, _accesses(context), screen.width, screen.colour),
            *registers,
        ]

    return Result(region_objects(found, regions, _accesses(context)), lines)


def _described(context: Context, name: str) -> list[str]:
    # The names of a region's registers, where there is a map of them.
    found = context.names.map_of(name) if name else None
    if found is None:
        return []
    names = ", ".join(islice(found.names(), 200))
    return [f"registers ({found.specification}):", f"  {names}"]


async def _devices(context: Context, rest: str) -> Result:
    regions = context.control.session.view.regions
    return Result(
        region_objects(regions.regions, regions, _accesses(context)),
        lambda p: devices_lines(regions, _accesses(context), p.width, p.colour),
    )


async def _inputs(context: Context, rest: str) -> Result:
    regions = context.control.session.view.regions
    now_ns = context.control.session.view.time_ns
    spaces = [space for space in ALL_OF if space in regions.inputs]
    breaks = [
        (f"break {item.number}", item.leeway(regions, now_ns).inputs)
        for item in context.watch.breaks.items
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


async def _mappings(context: Context, rest: str) -> Result:
    wanted = {region.name for region in context.control.session.view.regions.named(rest or "*")}
    if context.control.session.view.nested is not None:
        raise UsageError("devices fault by their physical addresses: nobody follows what is mapped")
    found = [item for item in context.maps if not rest or not wanted.isdisjoint(item.regions)]
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
    session = context.control.session
    lines = session.waiting_lines()
    return Result(session.waiting_objects(), lines or ["the guest reads nothing again and again"])


def _listed_by(name: str) -> Callable[[Context, str], Awaitable[Result]]:
    # The topic of a command that lists by itself where it is given no words.
    async def tell(context: Context, rest: str) -> Result:
        return await context.commands.find(name).action(context, Statement(name, ""))

    return tell


_TOPICS: dict[str, Callable[[Context, str], Awaitable[Result]]] = {
    "breaks": _breaks,
    "region": _regions,
    "regions": _regions,
    "devices": _devices,
    "inputs": _inputs,
    "mappings": _mappings,
    "register": _register,
    "registers": _registers,
    "display": _display,
    "filters": _listed_by("filter"),
    "rules": _listed_by("rule"),
    "waiting": _waiting,
}

COMMANDS = (info,)
