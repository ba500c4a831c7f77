"""Tell of a register of a device, or of the CPU, as `info register` does. No device is read."""

from __future__ import annotations

from tracer.devices.directory import look_up
from tracer.look.cpu_register import cpu_register
from tracer.look.register_sheet import (
    Used,
    cpu_lines,
    cpu_object,
    list_lines,
    sheet_lines,
    sheet_object,
)
from tracer.look.registers import register_object
from tracer.repl.context import Context
from tracer.repl.result import Result, Screen
from tracer.trace.configuration import REGION as CONFIGURATION
from tracer.trace.naming import PORTS


async def described(context: Context, name: str) -> Result:
    """Return what is known of the registers that a person names. Raises UsageError."""
    known = cpu_register(name)
    if known is not None:
        value = await _value(context, known.name)
        return Result(
            [cpu_object(known, value)], lambda p: cpu_lines(known, value, p.width, p.colour)
        )
    maps = {region: context.names.map_of(region) for region in _regions(context)}
    found = look_up(name, {region: each for region, each in maps.items() if each is not None})

    if len(found) > 1:
        counts = await context.run.counts()
        uses = [counts.of(each.region, each.entry) for each in found]
        return Result(
            [
                sheet_object(each) | {"reads": used.reads, "writes": used.writes}
                for each, used in zip(found, uses, strict=True)
            ],
            lambda screen: list_lines(found, screen.width, screen.colour, uses),
        )
    (only,) = found
    used = Used(
        await context.run.uses(only.region, only.entry),
        context.recorded is not None or context.run.state == "ended",
        lambda event: context.run.stacks.of(event.record.stack) or (),
        before=context.recorded is not None and context.run.state != "ended",
    )

    def lines(screen: Screen) -> list[str]:
        return sheet_lines(only, screen.width, screen.colour, used)

    return Result([sheet_object(only, used)], lines)


# Memory and ports, and what has registers of its own: MSRs, leaves of CPUID, configuration space.
def _regions(context: Context) -> list[str]:
    regions = context.regions
    ports = [region.name for region in regions.ports]
    further = [PORTS, *(space for space in regions.inputs if space != "port"), CONFIGURATION]
    return list(
        dict.fromkeys([*context.region_names(), *ports, *(further if regions.inputs else ())])
    )


# The value of a CPU's register, None where the guest does not stand or it is not known.
async def _value(context: Context, name: str) -> int | None:
    if context.cpu is None:
        return None
    others = await context.run.registers()
    told = register_object(context.cpu, others).get(name)
    return others.get(name) if told is None else int(told, 16)
