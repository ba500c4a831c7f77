"""Where the guest stands, and how it ended, as lines and as objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tracer.devices.map import Named
from tracer.look.call import call_lines, call_object
from tracer.query.pending import event_of
from tracer.repl.result import Screen
from tracer.repl.run import Run
from tracer.report.objects import access_object
from tracer.session.course import Halt
from tracer.text.colour import paint
from tracer.text.printable import printable
from tracer.trace.layout import layout
from tracer.trace.lines import access_line

if TYPE_CHECKING:
    from tracer.look.plan import Plan


def halt_lines(
    halt: Halt,
    screen: Screen,
    symbol: str | None,
    given: int | None = None,
    named: Named | None = None,
) -> list[str]:
    """Return why the guest stands, and the access that waits or the place it stands at.

    ``symbol`` is that of RIP, ``given`` the value that the access is to have instead of its own,
    ``named`` the register that it reaches.
    """
    lines = [paint(printable(halt.text), "stop", screen.colour)]
    if halt.call is not None:
        return [*lines, *call_lines(halt.call, screen.width, screen.colour)]
    if halt.pending is None:
        where = f"{printable(symbol)}  " if symbol else ""
        seconds = f"{halt.time_ns / 1e9:10.6f}"
        return [*lines, f"{seconds}  vcpu{halt.vcpu}  {where}at {halt.cpu.rip:#x}"]
    shape = layout(screen.columns, screen.colour)
    lines.append(access_line(halt.made or event_of(halt.pending, named), shape))
    if given is not None:
        lines.append(f"{'':10}  the value is to be {given:#x}")
    return lines


def brief_lines(plan: Plan, screen: Screen) -> list[str]:
    """Return in few lines what the instruction at a stop is about to do."""
    told = [
        f"{change.name} ← {change.how or f'{change.after:#x}'}"
        for change in plan.registers
        if change.name != "rip"
        and (change.how is not None or change.after not in (None, change.before))
    ]
    fatal = [name for name, verdict in plan.verdicts.items() if verdict.outcome == "oops"]
    if fatal:
        told.append(f"would end a guest under {', '.join(fatal)}")
    return [f"{'':12}{printable(text)}" for text in told[:4]]


def halt_object(halt: Halt, given: int | None = None, named: Named | None = None) -> dict[str, Any]:
    """Return a stop ready for JSON; ``rip`` is linear, ``access`` the one that waits."""
    access = None
    if halt.pending is not None:
        access = access_object(halt.made or event_of(halt.pending, named))
    return {
        "state": "stopped",
        "reason": halt.reason,
        "text": halt.text,
        "time_ns": halt.time_ns,
        "vcpu": halt.vcpu,
        "rip": hex(halt.cpu.rip),
        "access": access,
        "call": None if halt.call is None else call_object(halt.call),
        "given": None if given is None else hex(given),
    }


def end_lines(run: Run) -> list[str]:
    """Return in a line how the guest ended."""
    if run.playback is not None:
        return [f"the end of the trace: {printable(run.playback.ending)}"]
    if run.error is not None:
        return [f"the guest has ended: {printable(str(run.error))}"]
    return ["the guest has powered off" if run.outcome == "poweroff" else "the guest has ended"]
