"""Commands that look at the guest where it stands. None of them touches a device."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING

from tracer.access.space import AddressSpace
from tracer.errors import UsageError
from tracer.look.call import call_lines, call_object
from tracer.look.code import code_lines, code_objects
from tracer.look.dump import Part, dump_lines, dump_objects, parse_spec
from tracer.look.page import page_lines, page_object, page_of
from tracer.look.registers import (
    recorded_lines,
    recorded_object,
    register_lines,
    register_object,
)
from tracer.look.sheet import under
from tracer.look.stack import stack_lines, stack_object
from tracer.repl.command import command
from tracer.repl.context import Context
from tracer.repl.counts import stats_lines
from tracer.repl.expression import linear_address
from tracer.repl.parser import Statement
from tracer.repl.result import Result, said
from tracer.session.course import Halt
from tracer.text.number import whole
from tracer.trace.queue import queue_lines, queue_object
from tracer.trace.summary import summary_object
from tracer.x86.state import MAX_INSTRUCTION, PAGE_SIZE

if TYPE_CHECKING:
    from tracer.look.plan import Plan


def plan_at(context: Context) -> Plan:
    """Return what the access that waits is about to do. Raises UsageError when none waits."""
    from tracer.look.plan import as_made, plan_of  # the emulator, for those who ask for a plan

    pending = context.run.pending()
    named = context.named(pending)
    plan = plan_of(pending, named.text if named else None)
    made = context.halt.made
    return plan if made is None else as_made(plan, made.record)


@command(
    "plan", "p",
    group="look",
    brief="what the instruction at the access is about to do",
    text="""\
Operands and how their addresses come about, the accesses in order, the registers that will change
and how, the hypercall that a confidential guest would make, and what its handler would say. Once a
confidential guest has asked, what vetrace decodes and what the guest asks for stand side by side;
where a call of it waits, what it asks and what the usual answer is. Before a doorbell: the entries
of the queue that it is about, in the guest's RAM; at an interrupt: what its device is done with
(docs/registers.md), which a recording also tells where a driver reads that there was one.""",
)  # fmt: skip
async def plan(context: Context, statement: Statement) -> Result:
    called = context.halt.call
    if called is not None:
        return Result(call_object(called), lambda p: call_lines(called, p.width, p.colour))
    from tracer.look.plan_view import plan_lines, plan_object

    found = plan_at(context)
    queues = context.run.queues_at(found.pending)
    if not queues:
        return Result(plan_object(found), lambda p: plan_lines(found, p.width, p.colour))
    told = [queue_object(queue) for queue in queues]
    lines = [line.split("⇒ ", 1)[1] for queue in queues for line in queue_lines(queue)]
    # A doorbell is written; what is done is told at an interrupt, or where one is read.
    is_done = found.pending.transfer.direction == "read"
    label, more = ("done", {"done": told}) if is_done else ("doorbell", {"queue": told[0]})
    return Result(
        plan_object(found) | more,
        lambda p: [*plan_lines(found, p.width, p.colour), *under(label, lines, p.colour)],
    )


@command(
    "regs", "registers",
    group="look",
    usage=("regs", "regs all", "regs NAME..."),
    brief="the registers of the interrupted code",
    text="`regs all` adds the XMM registers.",
    examples=("regs", "regs rax rip", "regs all"),
    expects=(("all", "cpu"),),
    words={"all": "with the XMM registers"},
)  # fmt: skip
async def regs(context: Context, statement: Statement) -> Result:
    halt = context.halt
    others = await context.run.registers()
    words = [word.removeprefix("$").lower() for word in statement.words]
    if words and words != ["all"]:
        return _some(words, others)
    symbol = context.run.symbol(halt.cpu.rip)
    if halt.made is not None:
        after = halt.made.record.after
        return Result(
            recorded_object(others, after, symbol),
            lambda p: recorded_lines(others, after, symbol, p.width, p.colour),
        )
    return Result(
        register_object(halt.cpu, others, symbol),
        lambda p: register_lines(
            halt.cpu, others, symbol, p.width, p.colour, everything=words == ["all"]
        ),
    )


def _some(words: list[str], others: Mapping[str, int]) -> Result:
    found: dict[str, str] = {}
    for word in words:
        name = {"rflags": "eflags", "pc": "rip", "sp": "rsp"}.get(word, word)
        if name not in others:
            raise UsageError(f"there is no register ${word}; `regs all` shows all")
        found[word] = hex(others[name])
    return Result(found, [f"{name:<8} {value}" for name, value in found.items()])


@command(
    "x",
    group="look",
    needs="guest",
    usage=("x[/COUNT FORMAT UNIT] ADDRESS",),
    brief="memory at a linear address, as GDB's x",
    text="""\
FORMAT is x d u o t a c s or i, UNIT b h w g for 1, 2, 4 or 8 bytes. ADDRESS is a sum of numbers,
registers and symbols. RAM alone is read: what a device has, `peek` reads.""",
    examples=("x/8xg $rsp", "x/s linux_banner", "x/4i $rip", "x 0xffffffff81000000"),
    expects=(("symbol", "cpu"),),
    repeats=True,
)
async def x(context: Context, statement: Statement) -> Result:
    letters, rest = "", statement.rest
    if rest.startswith("/"):
        letters, _, rest = rest.partition(" ")
    spec = parse_spec(letters)
    if not rest.strip():
        raise x.misused("an address is needed")
    halt = context.halt
    linear = linear_address(rest, halt.cpu, context.address_of)
    if spec.format == "i":
        return _code(context, halt, linear, spec.count, f"x/{spec.count}i")
    parts = list(_read(halt.space, linear, spec.size))
    lookup = context.run.symbol
    read = spec.count * spec.width
    return Result(
        dump_objects(spec, parts),
        lambda p: dump_lines(spec, parts, lookup, p.width, p.colour),
        again=None if spec.format == "s" else f"x{letters} {linear + read:#x}",
    )


def _read(space: AddressSpace, linear: int, size: int) -> list[Part]:
    # Returns the bytes from an address on, cut where what maps them changes.
    parts: list[Part] = []
    data, start = b"", linear
    end = min(linear + size, 1 << 64)
    at = linear
    while at < end:
        step = min(end - at, PAGE_SIZE - at % PAGE_SIZE)
        why = _unreadable(space, at)
        if why is None:
            data += space.read(at, step)
        else:
            if data:
                parts.append(Part(start, data))
            parts.append(Part(at, b"", why))
            data, start = b"", at + step
        at += step
    return [*parts, Part(start, data)] if data else parts


def _unreadable(space: AddressSpace, linear: int) -> str | None:
    leaf = space.leaf(linear)
    if leaf is None:
        return "not mapped"
    physical = leaf.translate(linear)
    if space.regions.is_ram(physical):
        return None
    region = space.regions.find(physical)
    if region is None:
        return f"physical {physical:#x}, where nothing answers"
    where = f"{region.name}+{physical - region.base:#x}"
    return f"{where}: a device, which is not read; `peek {where}` reads it"


@command(
    "disas", "disassemble",
    group="look",
    needs="guest",
    usage=("disas [ADDRESS] [COUNT]",),
    brief="instructions, at the one that waits or elsewhere",
    examples=("disas", "disas nvme_reset_work 20", "disas $rip 3"),
    expects=(("symbol", "cpu"),),
    repeats=True,
)  # fmt: skip
async def disas(context: Context, statement: Statement) -> Result:
    halt = context.halt
    words = statement.words
    count = 10
    if words and words[-1].isdigit() and (len(words) > 1 or len(words[-1]) < 4):
        count = whole(words.pop(), "count")
    if not 1 <= count <= 1000:
        raise disas.misused(f"{count} instructions cannot be shown")
    linear = linear_address(" ".join(words) or "$rip", halt.cpu, context.address_of)
    return _code(context, halt, linear, count, "disas")


def _code(context: Context, halt: Halt, linear: int, count: int, again: str) -> Result:
    data = halt.space.read(linear, count * MAX_INSTRUCTION)
    from tracer.x86.decode import disassemble  # capstone, for those who ask for code

    code = disassemble(data, linear, halt.cpu.mode)[:count]
    if not code:
        raise UsageError(f"linear {linear:#x} is not in RAM: {_unreadable(halt.space, linear)}")
    after = code[-1].linear + len(code[-1].code)
    lookup, rip = context.run.symbol, halt.cpu.rip
    follow = f"{again} {after:#x}" + ("" if again.startswith("x") else f" {count}")
    return Result(
        code_objects(code, rip, lookup),
        lambda p: code_lines(code, rip, lookup, p.width, p.colour),
        again=follow,
    )


@command("bt", "where", "backtrace", group="look", brief="the functions under way, innermost first")
async def bt(context: Context, statement: Statement) -> Result:
    stack, lookup = context.run.unwind(), context.run.symbol
    return Result(
        stack_object(stack, lookup), lambda p: stack_lines(stack, lookup, p.width, p.colour)
    )


@command(
    "sym",
    group="look",
    usage=("sym ADDRESS", "sym NAME", "sym PATTERN"),
    brief="the symbol at an address, or the addresses of symbols",
    examples=("sym 0xffffffff81000000", "sym nvme_reset_work", "sym nvme_pci_*"),
    expects=(("symbol", "cpu"),),
)
async def sym(context: Context, statement: Statement) -> Result:
    text = statement.rest
    if not text:
        raise sym.misused("an address or a name is needed")
    if "*" in text or "?" in text:
        return _matching(context, text)
    linear = linear_address(text, context.cpu, context.address_of)
    name = context.run.symbol(linear)
    shown = name or "no symbol there"
    return said(f"{linear:#018x}  {shown}", linear=hex(linear), symbol=name)


_MOST = 50


def _matching(context: Context, pattern: str) -> Result:
    names = context.run.symbols()
    found = list(islice((name for name in names if fnmatchcase(name, pattern)), _MOST + 1))
    if not found:
        raise UsageError(f"the kernel has no symbol like {pattern}")
    rows = {name: context.address_of(name) or 0 for name in sorted(found[:_MOST])}
    lines = [f"{linear:#018x}  {name}" for name, linear in rows.items()]
    if len(found) > _MOST:
        lines.append(f"… and more: only {_MOST} are shown")
    return Result({name: hex(linear) for name, linear in rows.items()}, lines)


@command(
    "stats",
    group="look",
    usage=("stats [N]",),
    brief="accesses so far by region, register, call site and phase",
    text="N is the number of rows of a table, 10 when not given. Of a recording all are counted.",
    examples=("stats", "stats 30"),
)
async def stats(context: Context, statement: Statement) -> Result:
    limit = whole(statement.rest or "10", "number of rows")
    summary = await context.counted()
    return Result(summary_object(summary), lambda p: stats_lines(summary, p, max(limit, 1)))


@command(
    "page",
    group="look",
    needs="guest",
    usage=("page [ADDRESS]",),
    brief="the walk through the page tables to a linear address",
    text="Without an address: that of the access that waits.",
    examples=("page $rsp", "page linux_banner", "page"),
    expects=(("symbol", "cpu"),),
)
async def page(context: Context, statement: Statement) -> Result:
    halt = context.halt
    if statement.rest:
        linear = linear_address(statement.rest, halt.cpu, context.address_of)
    else:
        linear = context.run.pending().transfer.linear
    view = page_of(halt.space, linear)
    return Result(page_object(view), lambda p: page_lines(view, p.width, p.colour))


COMMANDS = (plan, regs, x, disas, bt, sym, stats, page)
