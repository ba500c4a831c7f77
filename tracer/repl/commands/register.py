"""Tell of a register of a device, or of the CPU, as `info register` does. No device is read."""

from __future__ import annotations

from tracer.devices.directory import look_up
from tracer.look.cpu_register import cpu_register
from tracer.look.register_sheet import (
    cpu_lines,
    cpu_object,
    list_lines,
    sheet_lines,
    sheet_object,
)
from tracer.look.registers import register_object
from tracer.repl.context import Context
from tracer.repl.result import Result, Screen


async def described(context: Context, name: str) -> Result:
    """Return what is known of the registers that a person names. Raises UsageError."""
    known = cpu_register(name)
    if known is not None:
        value = await _value(context, known.name)
        return Result(
            [cpu_object(known, value)], lambda p: cpu_lines(known, value, p.width, p.colour)
        )
    maps = {region: context.names.map_of(region) for region in context.region_names()}
    found = look_up(name, {region: each for region, each in maps.items() if each is not None})

    def lines(screen: Screen) -> list[str]:
        if len(found) == 1:
            return sheet_lines(found[0], screen.width, screen.colour)
        return list_lines(found, screen.width, screen.colour)

    return Result([sheet_object(each) for each in found], lines)


# The value of a CPU's register, None where the guest does not stand or it is not known.
async def _value(context: Context, name: str) -> int | None:
    if context.cpu is None:
        return None
    others = await context.run.registers()
    told = register_object(context.cpu, others).get(name)
    return others.get(name) if told is None else int(told, 16)
