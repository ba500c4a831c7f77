"""What `info register` tells: a register of a device, or of the CPU. No device is read."""

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
from tracer.repl.desk import Desk
from tracer.repl.result import Paper, Result


async def described(desk: Desk, name: str) -> Result:
    """Return what is known of the registers that a person names. Raises UsageError."""
    known = cpu_register(name)
    if known is not None:
        value = await _value(desk, known.name)
        return Result(
            [cpu_object(known, value)], lambda p: cpu_lines(known, value, p.width, p.colour)
        )
    maps = {region: desk.names.map_of(region) for region in desk.region_names()}
    found = look_up(name, {region: each for region, each in maps.items() if each is not None})

    def lines(paper: Paper) -> list[str]:
        if len(found) == 1:
            return sheet_lines(found[0], paper.width, paper.colour)
        return list_lines(found, paper.width, paper.colour)

    return Result([sheet_object(each) for each in found], lines)


# The value of a CPU's register, None where the guest does not stand or it is not known.
async def _value(desk: Desk, name: str) -> int | None:
    if desk.cpu is None:
        return None
    others = await desk.control.registers()
    told = register_object(desk.cpu, others).get(name)
    return others.get(name) if told is None else int(told, 16)
