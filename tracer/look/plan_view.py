"""The plan of an instruction as text and as an object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tracer.confidential.handler import Verdict
from tracer.confidential.hypercall import TdVmcall, ghcb_object, tdvmcall_object
from tracer.confidential.request import describe
from tracer.look.call import agrees, decoded_words
from tracer.look.change import Change, FlagChange
from tracer.look.operand import Address
from tracer.look.plan import Plan, SubAccess
from tracer.look.sheet import Cell, flow, folded, labelled, room, under, words
from tracer.query.pending import event_of
from tracer.trace.layout import padded, short

_MARKS = {"done": "done", "pending": "=> now", "ahead": "then"}


def plan_lines(plan: Plan, columns: int = 80, colour: bool = False) -> list[str]:
    """Return the plan: instruction, operands, accesses, registers, hypercalls, verdicts."""
    lines = _head(plan, columns, colour)
    lines += labelled("handled", words(_handled(plan)), columns, colour)
    for address in plan.addresses:
        lines += labelled("operand", _address_cells(address), columns, colour)
    if not (plan.addresses or plan.pending.is_input):
        lines += labelled("address", _linear_cells(plan.accesses[-1]), columns, colour)
    stepped = plan.handled == "stepped"
    rows = [list(_access_cells(access, stepped=stepped)) for access in plan.accesses]
    lines += under("accesses", folded(rows, room(columns), colour), colour)
    if plan.registers or plan.flags:
        lines += under("registers", _register_lines(plan, columns, colour), colour)
    if not plan.predicted:
        unknown = "not known" if plan.past else "known once the vCPU has carried it out"
        lines += labelled("changes", words(unknown), columns, colour)
    if plan.exceptions:
        raised = f"{', '.join(plan.exceptions)} for some values read"
        lines += labelled("raises", words(raised), columns, colour)
    guest = plan.pending.via == "guest" and plan.tdvmcall is not None
    if guest:
        decoded = f"vetrace: {decoded_words(plan.pending.transfer)}"
        lines += labelled("decoded", words(decoded), columns, colour)
    if plan.tdvmcall is not None:
        lines += labelled("TDX", _tdx_cells(plan, plan.tdvmcall), columns, colour)
    if plan.asked is not None:
        lines += labelled("asked", _asked_cells(plan, plan.asked), columns, colour)
    if plan.ghcb is not None:
        lines += labelled("SEV-ES", _ghcb_cells(plan), columns, colour)
    lines += _verdict_lines(plan, columns, colour)
    for note in plan.notes:
        lines += labelled("note", words(note), columns, colour)
    return lines


def _head(plan: Plan, columns: int, colour: bool) -> list[str]:
    pending, cpu = plan.pending, plan.pending.cpu
    insn = pending.insn
    code = insn.code if insn is not None else pending.code
    cells = [
        Cell(f"#{pending.seq:,}"),
        Cell(f"{pending.time_ns / 1e9:.6f}", "time"),
        Cell(f"vcpu{pending.vcpu}"),
        Cell(pending.symbol or "no symbol", "symbol"),
        Cell(f"at {cpu.rip:#x}", "time"),
    ]
    text = Cell(event_of(pending).record.text, "value")
    return [
        *flow(cells, columns, colour, "  ", ""),
        *flow([Cell(code.hex(" "), "time"), Cell(""), text], columns, colour, "  "),
    ]


def _handled(plan: Plan) -> str:
    why = plan.pending.why
    if plan.handled == "carried out":
        return "carried out by the monitor that the guest runs inside"
    if plan.pending.via == "compiled":
        return "made by the vCPU itself, at a compiled site"
    if plan.handled == "emulated":
        return "emulated" + (f": {why}" if why else "")
    return f"stepped, by the vCPU itself: {why or 'the emulator does not know it'}"


def _address_cells(address: Address) -> Iterator[Cell]:
    yield Cell(address.text)
    if " " in address.formula:
        yield Cell(f"= {address.formula}")
    yield Cell(f"= {address.linear:#x}", "value")
    if address.physical is not None:
        yield Cell(f"→ physical {address.physical:#x}")
        yield Cell(address.place or "", "place")
    elif not (address.reads or address.writes):
        yield Cell("not accessed", "time")


def _linear_cells(access: SubAccess) -> Iterator[Cell]:
    # The CPU tells where an instruction faulted whose operands are not known.
    yield Cell(f"{access.linear:#x}", "value")
    if access.physical is not None:
        yield Cell(f"→ physical {access.physical:#x}")
        yield Cell(access.place or "", "place")


def _access_cells(access: SubAccess, *, stepped: bool) -> Iterator[Cell]:
    yield Cell(_MARKS[access.moment], "value" if access.moment == "pending" else "time")
    yield Cell(short(access.direction, access.width), access.direction)
    where = access.place or f"linear {access.linear:#x}"
    if access.physical is not None and not access.traced and access.place == "RAM":
        where = f"RAM at {access.physical:#x}"
    yield Cell(where if access.register is None else f"{where} {access.register}", "place")
    if access.value is not None:
        yield Cell(padded(access.value, access.width), "value")
    elif access.how is not None:
        yield Cell(access.how)
    elif stepped:
        yield Cell("made by the vCPU, which does not show it")
    else:
        yield Cell("to be read")


def _register_lines(plan: Plan, columns: int, colour: bool) -> list[str]:
    rows = [list(_register_cells(change)) for change in plan.registers]
    if plan.flags:
        before = f"{plan.pending.cpu.rflags:#018x}"
        after = Cell(f"→ {_flags(plan.flags)}", "value")
        rows.append([Cell("rflags"), Cell(before, "time"), after])
    return folded(rows, room(columns), colour)


def _register_cells(change: Change) -> Iterator[Cell]:
    digits = 2 * change.width
    yield Cell(change.name)
    yield Cell(f"{change.before:#0{digits + 2}x}", "time")
    if change.after is not None:
        yield Cell(f"→ {change.after:#0{digits + 2}x}{_step(change)}", "value")
    else:
        yield Cell("" if change.how is None else f"→ {change.how}", "value")


def _step(change: Change) -> str:
    # How far a pointer or count goes, where that says more than its digits.
    assert change.after is not None
    distance = change.after - change.before
    return f" ({distance:+})" if -64 <= distance <= 64 else ""


def _flags(flags: tuple[FlagChange, ...]) -> str:
    told = [
        f"{flag.name} {int(flag.before)}→{int(flag.after)}"
        for flag in flags
        if flag.after is not None
    ]
    open_ = " ".join(flag.name for flag in flags if flag.after is None and not flag.undefined)
    undefined = " ".join(flag.name for flag in flags if flag.undefined)
    told += [f"{open_} by the value read"] if open_ else []
    told += [f"{undefined} undefined"] if undefined else []
    return ", ".join(told)


def _tdx_cells(plan: Plan, call: TdVmcall) -> Iterator[Cell]:
    yield Cell("TDG.VP.VMCALL<#VE.RequestMMIO>")
    for name, value in call.given.items():
        yield Cell(f"{name}={value:#x}")
    yield Cell("→")
    for name, value in call.returned.items():
        yield Cell(f"{name}={value:#x}")
    if plan.pending.transfer.direction == "read" and "r11" not in call.returned:
        yield Cell("r11=the value read")


def _asked_cells(plan: Plan, given: Mapping[str, int]) -> Iterator[Cell]:
    # The guest's own registers, or fields, which its handler has made of the instruction.
    assert plan.wanted is not None
    same = agrees(plan.pending.transfer, plan.wanted)
    text = f"the guest: {describe(plan.wanted)}, {'' if same else 'not '}as decoded:"
    yield from words(text)
    for name, value in given.items():
        yield Cell(f"{name}={value:#x}")


def _ghcb_cells(plan: Plan) -> Iterator[Cell]:
    assert plan.ghcb is not None
    yield Cell("MMIO exit")
    for name, value in ghcb_object(plan.ghcb).items():
        yield Cell(f"{name}={value}")
    if plan.ghcb.buffer is None:
        yield Cell("buffer=the value read")


def _verdict_lines(plan: Plan, columns: int, colour: bool) -> list[str]:
    # Profiles that agree share a row.
    agreed: dict[Verdict, list[str]] = {}
    for name, verdict in plan.verdicts.items():
        agreed.setdefault(verdict, []).append(name)
    rows = []
    for verdict, names in agreed.items():
        note = f"; but {verdict.note}" if verdict.note else ""
        rows.append([
            Cell(verdict.outcome, "write" if verdict.outcome == "oops" else "read"),
            Cell(f"{', '.join(names)}: {verdict.reason}{note}"),
        ])  # fmt: skip
    return under("verdicts", folded(rows, room(columns), colour), colour)


def plan_object(plan: Plan) -> dict[str, Any]:
    """Return the plan as a JSON-ready object."""
    pending, insn = plan.pending, plan.pending.insn
    return {
        "seq": pending.seq,
        "time_ns": pending.time_ns,
        "vcpu": pending.vcpu,
        "rip": hex(pending.cpu.rip),
        "symbol": pending.symbol,
        "bytes": (insn.code if insn is not None else pending.code).hex(),
        "text": insn.text if insn is not None else None,
        "handled": plan.handled,
        "why": pending.why,
        "operands": [_address_object(address) for address in plan.addresses],
        "accesses": [_access_object(access) for access in plan.accesses],
        "predicted": plan.predicted,
        "registers": {
            change.name: {
                "before": hex(change.before),
                "after": None if change.after is None else hex(change.after),
                "how": change.how,
            }
            for change in plan.registers
        },
        "flags": {
            flag.name: {"before": flag.before, "after": flag.after, "undefined": flag.undefined}
            for flag in plan.flags
        },
        "exceptions": list(plan.exceptions),
        "tdvmcall": None if plan.tdvmcall is None else tdvmcall_object(plan.tdvmcall),
        "asked": None
        if plan.asked is None
        else {name: hex(value) for name, value in plan.asked.items()},
        "wanted": None if plan.wanted is None else describe(plan.wanted),
        "decoded": None if plan.tdvmcall is None else decoded_words(pending.transfer),
        "ghcb": None if plan.ghcb is None else ghcb_object(plan.ghcb),
        "verdict": {
            name: {"outcome": v.outcome, "reason": v.reason, "note": v.note or None}
            for name, v in plan.verdicts.items()
        },
        "notes": list(plan.notes),
    }


def _address_object(address: Address) -> dict[str, Any]:
    return {
        "text": address.text,
        "formula": address.formula,
        "linear": hex(address.linear),
        "physical": None if address.physical is None else hex(address.physical),
        "place": address.place,
        "reads": address.reads,
        "writes": address.writes,
    }


def _access_object(access: SubAccess) -> dict[str, Any]:
    return {
        "moment": access.moment,
        "direction": access.direction,
        "width": access.width,
        "linear": hex(access.linear),
        "physical": None if access.physical is None else hex(access.physical),
        "place": access.place,
        "register": access.register,
        "traced": access.traced,
        "value": None if access.value is None else hex(access.value),
        "how": access.how,
    }
