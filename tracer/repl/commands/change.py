"""Commands that change what the guest or a device sees. The trace tells of each."""

from __future__ import annotations

import re

from tracer.access.decision import Inject
from tracer.access.region import Choice, left_out
from tracer.errors import UsageError, suggestion
from tracer.repl.command import command
from tracer.repl.context import Context
from tracer.repl.expression import WIDTHS, register_value
from tracer.repl.parser import Statement
from tracer.repl.result import Result, said
from tracer.repl.setting import VALUES
from tracer.text.number import fitting, whole
from tracer.trace.layout import padded
from tracer.x86.state import GPR, PAGE_FAULT_VECTOR, PageFaultCode

_GENERAL_PROTECTION = 13


@command(
    "set",
    group="change",
    needs="guest",
    word_needs=dict.fromkeys(VALUES),
    usage=(
        "set value VALUE...", "set $REGISTER EXPRESSION", "set pager on|off",
        "set editing-mode emacs|vi",
    ),
    brief="settings of the prompt; of a guest also what the access that waits gets, and registers",
    text="""\
`set value` takes effect when the guest goes on: a read gives the guest VALUE instead of what the
device says (the device is still read), a write sends VALUE to the device. At a CPUID up to four
values are EAX, EBX, ECX and EDX; what is not named stays. `set $rax` changes a
register of the interrupted code to a number, or to a sum of numbers, registers and symbols; the
instruction starts over from it. `set pager off` has long answers printed rather than shown by
`$PAGER`, or less; `set editing-mode vi` gives the prompt vi's keys. Both may stand in the script
that each prompt begins with.""",
    examples=(
        "set value 0x10300", "set $rax 0", "set $rax = -1", "set $rip = $rip + 2", "set pager off",
        "set editing-mode vi",
    ),
    expects=(("value", *VALUES, "cpu"), ("symbol", "cpu")),
    words={
        "value": "what the access that waits gets, or sends",
        "pager": "on or off: whether long answers are paged",
        "editing-mode": "emacs or vi: by whose keys a line is edited",
    },
)  # fmt: skip
async def set_(context: Context, statement: Statement) -> Result:
    name, _, text = statement.rest.replace("=", " ", 1).partition(" ")
    text = text.strip()
    if name in VALUES:
        context.settings = context.settings.with_(name, text)
        return said(f"{name} is {text}", setting=name, value=text)
    control = context.control
    if not text:
        raise set_.misused("a name and a value are needed")
    if name == "value":
        width = control.pending().transfer.width
        values = [fitting(word, 8 * width) for word in text.split()]
        value = values[0]
        control.give(*values)
        reader = control.pending().transfer.direction == "read"
        who = "the guest will read" if reader else "the device will get"
        shown = " ".join(padded(each, width) for each in values)
        return said(f"{who} {shown}", value=hex(value))
    if not name.startswith("$"):
        registers = (f"${known}" for known in (*GPR, "rip", "rflags"))
        near = suggestion(name, ("value", *VALUES, *registers))
        raise (
            UsageError(f"{name} cannot be set{near}")
            if near
            else set_.misused(f"{name} cannot be set")
        )
    register = {"pc": "rip", "sp": "rsp", "eflags": "rflags"}.get(
        name[1:].lower(), name[1:].lower()
    )
    value = register_value(text, context.cpu, context.address_of)
    before = (
        None if context.cpu is None or register not in GPR else context.cpu.gpr[GPR.index(register)]
    )
    await control.set_register(register, value)
    was = "" if before is None else f" (was {before:#x})"
    return said(f"${register} is {value:#x}{was}", register=register, value=hex(value))


@command(
    "skip",
    group="change",
    needs="guest",
    usage=("skip", "skip VALUE"),
    brief="complete the instruction without touching the device",
    text="What it reads is VALUE, or 0. The guest stands behind the instruction then.",
    examples=("skip", "skip 0xffffffff"),
)
async def skip(context: Context, statement: Statement) -> Result:
    width = context.control.pending().transfer.width
    value = fitting(statement.rest, 8 * width) if statement.rest else 0
    return context.stood(await context.control.skip(value))


@command(
    "fault",
    group="change",
    needs="guest",
    usage=("fault gp [CODE]", "fault pf [CODE [LINEAR]]"),
    brief="raise #GP or #PF in place of the instruction",
    text="""\
CODE is the error code that is pushed: 0 for #GP, for #PF what a page that is not present gives.
LINEAR is the address in CR2, by default that of the access.""",
    examples=("fault gp", "fault pf", "fault pf 0x2"),
    expects=(("gp", "pf"),),
    words={"gp": "#GP, a general protection fault", "pf": "#PF, a page fault"},
)
async def fault(context: Context, statement: Statement) -> Result:
    words = statement.words
    if not words or words[0].lstrip("#").lower() not in ("gp", "pf"):
        raise fault.misused("gp or pf is needed")
    name = words[0].lstrip("#").lower()
    numbers = [whole(word) for word in words[1:]]
    if len(numbers) > (1 if name == "gp" else 2):
        raise fault.misused(f"too many numbers for #{name.upper()}")
    pending = context.control.pending()
    if name == "gp":
        injected = Inject(_GENERAL_PROTECTION, numbers[0] if numbers else 0)
    else:
        code = PageFaultCode(0)
        if pending.transfer.direction == "write":
            code |= PageFaultCode.W
        if pending.cpu.cpl == 3:
            code |= PageFaultCode.U
        linear = numbers[1] if len(numbers) > 1 else pending.transfer.linear
        injected = Inject(PAGE_FAULT_VECTOR, numbers[0] if numbers else int(code), linear)
    return context.stood(await context.control.inject(name, injected))


@command(
    "peek",
    group="change",
    needs="guest",
    usage=("peek[/WIDTH] PLACE",),
    brief="read a device without the guest",
    text="""\
PLACE is a region with an offset or a register's name, or a physical address. WIDTH is 1, 2, 4 or 8
bytes, or b, h, w, g; without it, a register's own width, else 4. Many devices do something when
they are read: a status register may clear itself.""",
    examples=("peek nvme.CSTS", "peek/8 nvme+0x0", "peek 0xfee00020"),
    expects=(("place",),),
)
async def peek(context: Context, statement: Statement) -> Result:
    width, rest = _width(statement.rest)
    place = context.aim(rest)
    width = width or place.width
    value = await context.control.peek(place.physical, width)
    shown = padded(value, width)
    meaning = place.describe(value, width)
    text = f"{place.text}  {shown}" + (f"  {meaning}" if meaning else "")
    if place.breach("read", width):
        text += "  (write-only: what it reads as need not mean anything)"
    return said(
        text, place=place.text, physical=hex(place.physical), width=width, value=hex(value),
        fields=place.fields(value, width),
    )  # fmt: skip


@command(
    "poke",
    group="change",
    needs="guest",
    usage=("poke[/WIDTH] PLACE VALUE",),
    brief="write a device without the guest",
    text="""\
The write is sent whatever the register is; that it is read-only is told, as far as it is known.""",
    examples=("poke nvme.INTMS 0x1", "poke/4 nvme+0xc = 1"),
    expects=(("place",),),
)
async def poke(context: Context, statement: Statement) -> Result:
    width, rest = _width(statement.rest)
    where, _, text = rest.replace("=", " ").rstrip().rpartition(" ")
    if not where.strip():
        raise poke.misused("a place and a value are needed")
    place = context.aim(where)
    width = width or place.width
    value = fitting(text, 8 * width)
    await context.control.poke(place.physical, width, value)
    shown = padded(value, width)
    read_only = place.breach("write", width) is not None
    what = "sent to a read-only register, which need not take it" if read_only else "written"
    return said(
        f"{place.text}  {shown} {what}",
        place=place.text, physical=hex(place.physical), width=width, value=hex(value),
        read_only=read_only,
    )  # fmt: skip


# A width in front, as GDB's x has it: `/8`, `/w`.
def _width(rest: str) -> tuple[int | None, str]:
    if not rest.startswith("/"):
        return None, rest
    match = re.match(r"/(\w+)\s*", rest)
    if match is None or match[1].lower() not in WIDTHS:
        raise UsageError(f"{rest.split()[0]} is no width: /1 /2 /4 /8, or /b /h /w /g")
    return WIDTHS[match[1].lower()], rest[match.end() :]


@command(
    "trace",
    group="change",
    needs="guest",
    usage=("trace on", "trace off", "trace REGION..."),
    brief="choose what is traced from here on",
    text="""\
`trace on` goes back to what the command line chose, `trace off` leaves the devices alone, with a
region's name that region is traced as well. Without an argument: what is traced.""",
    examples=("trace off", "trace nvme", "trace on"),
    expects=(("on", "off", "region"), ("region",)),
    words={"on": "what the command line chose", "off": "leave the devices alone"},
)
async def trace(context: Context, statement: Statement) -> Result:
    words = statement.words
    if words:
        await context.control.choose(_choice(context, words), f"trace {' '.join(words)}")
    return _traced(context)


@command(
    "bypass",
    group="change",
    needs="guest",
    usage=("bypass REGION...",),
    brief="do not trace a region from here on",
    examples=("bypass lapic", "bypass lapic ioapic"),
    expects=(("region",),),
)
async def bypass(context: Context, statement: Statement) -> Result:
    words = statement.words
    if not words:
        raise bypass.misused("name a region")
    choice = context.control.session.choice
    left_out = tuple(dict.fromkeys((*choice.bypassed, *words)))
    await context.control.choose(Choice(choice.wanted, left_out), f"bypass {' '.join(words)}")
    return _traced(context)


def _choice(context: Context, words: list[str]) -> Choice:
    if words == ["on"]:
        return context.control.opening
    regions = context.control.session.view.regions
    if words == ["off"]:
        return Choice((), tuple(context.region_names()))
    now = [region.name for region in regions.regions if regions.is_traced_region(region)]
    if not (now or context.control.session.choice.wanted):
        return Choice(tuple(words))
    return Choice(tuple(dict.fromkeys((*now, *words))))


def _traced(context: Context) -> Result:
    regions = context.control.session.view.regions

    def names(wanted: bool) -> list[str]:
        found = (r.name for r in regions.regions if regions.is_traced_region(r) is wanted)
        return list(dict.fromkeys(found))

    text = [f"traced: {', '.join(names(True)) or 'nothing'}"]
    if names(False):
        text.append(f"left alone: {', '.join(names(False))}")
    text += left_out(regions.regions, context.control.session.choice)
    return Result({"traced": names(True), "untraced": names(False)}, text)


@command(
    "mark",
    group="change",
    needs="guest",
    usage=("mark TEXT",),
    brief="note something in the trace",
    examples=("mark before the reset",),
)
async def mark(context: Context, statement: Statement) -> Result:
    if not statement.rest:
        raise mark.misused("there is nothing to note")
    context.control.mark(statement.rest)
    return said(f"noted at {context.control.session.view.time_ns / 1e9:.6f} s")


_HELD = {
    "c", "cont", "gdbserver", "loadvm", "log", "logfile", "migrate", "one-insn-per-tb", "q", "quit",
    "s", "savevm", "singlestep", "stop", "system_powerdown", "system_reset", "system_wakeup",
    "trace-event", "trace-file",
}  # fmt: skip
"""Commands of QEMU's monitor for what vetrace does itself, or would not survive."""


@command(
    "monitor", "mon",
    group="change",
    needs="guest",
    usage=("monitor COMMAND",),
    brief="have QEMU's monitor carry out a command, as device_add",
    text="The command is in the words of QEMU's own monitor (HMP), up to a `;`. A "
    "device that is plugged in is traced from then on. What lets the guest go on, stops or ends it "
    "is vetrace's.",
    examples=("monitor info pci", "monitor device_add edu,id=late", "monitor device_del late"),
)  # fmt: skip
async def monitor(context: Context, statement: Statement) -> Result:
    if not statement.words:
        raise monitor.misused("a command of QEMU's monitor is needed")
    if statement.words[0] in _HELD:
        raise UsageError(
            f"{statement.words[0]} is vetrace's to do: `continue`, `interrupt`, `quit` and their "
            "kin; `help` lists all"
        )
    if context.control.state == "ended":
        raise UsageError("the guest has ended, and QEMU with it")
    text = await context.control.monitor(statement.rest)
    return Result({"text": text}, text.replace("\r", "").splitlines())


COMMANDS = (set_, skip, fault, peek, poke, trace, bypass, mark, monitor)
