"""A vCPU's registers, with their values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracer.look.cpu_register import flag_names
from tracer.look.sheet import Cell, aligned, flow, folded
from tracer.x86.state import GPR, CpuState

_RFLAGS = flag_names("rflags")
_CR0 = flag_names("cr0")
_CR4 = flag_names("cr4")
_EFER = flag_names("efer")
_SELECTORS = ("cs", "ss", "ds", "es", "fs", "gs")


def bit_names(value: int, names: Mapping[int, str]) -> str:
    """Return the names of the bits that are set; one without a name is ``bit N``."""
    return " ".join(
        names.get(bit, f"bit {bit}") for bit in range(value.bit_length()) if value >> bit & 1
    )


def rflags_text(rflags: int) -> str:
    """Return the flags that are set, and the I/O privilege level."""
    named = bit_names(rflags & ~(3 << 12) & ~2, _RFLAGS)
    return f"{named} IOPL={rflags >> 12 & 3}".strip()


def register_lines(
    cpu: CpuState,
    others: Mapping[str, int],
    symbol: str | None = None,
    columns: int = 80,
    colour: bool = False,
    everything: bool = False,
    before: CpuState | None = None,
) -> list[str]:
    """Return general-purpose, control and segment registers; ``everything`` adds XMM.

    ``others`` has what the state does not by GDB's names: cr2, cr3, cr8, efer. ``symbol`` is that
    of RIP. What differs from ``before`` is in bold.
    """
    lines = aligned(_general(cpu, before or cpu, columns), colour)
    lines += folded(_control(cpu, others, symbol), columns, colour)
    selectors = {n: others.get(n, getattr(cpu.segments, n)) for n in _SELECTORS}
    told = [Cell(f"{name} {value:#06x}") for name, value in selectors.items()]
    lines += flow(told, columns, colour)
    for name in ("fs_base", "gs_base"):
        lines.append(f"{name}  {others.get(name, getattr(cpu.segments, name)):#018x}")
    lines.append(f"cpl {cpu.cpl}, {cpu.mode.value}-bit code")
    if everything:
        lines += [f"xmm{number:<3} {value:#034x}" for number, value in enumerate(cpu.xmm)]
        if not cpu.xmm:
            lines.append("xmm    not known here")
    return lines


def recorded_lines(
    known: Mapping[str, int],
    after: Mapping[str, int],
    symbol: str | None = None,
    columns: int = 80,
    colour: bool = False,
) -> list[str]:
    """Return the registers that a record has, and below them those that the instruction changed.

    ``known`` are by GDB's names, ``after`` by those of the trace. What changes is in bold.
    """
    cells = [
        [Cell(name), Cell(f"{known[name]:#018x}", "value" if name in after else "")]
        for name in GPR
        if name in known
    ]
    fit = max(columns, 25) // 25
    across = 4 if fit >= 4 else 2 if fit >= 2 else 1
    height = -(-len(cells) // across)
    lines = aligned(
        [[cell for pair in cells[row::height] for cell in pair] for row in range(height)], colour
    )
    rows = [_row("rip", known["rip"], symbol or "", "symbol")]
    if "eflags" in known:
        rows.append(_row("rflags", known["eflags"], rflags_text(known["eflags"])))
    others = {n: v for n, v in known.items() if n not in (*GPR, "rip", "eflags")}
    rows += [_row(name, value, "") for name, value in others.items()]
    rows += [
        [Cell(name), Cell("→", "time"), Cell(f"{value:#018x}", "value")]
        for name, value in after.items()
        if name != "rip"
    ]
    return lines + folded(rows, columns, colour)


def recorded_object(
    known: Mapping[str, int], after: Mapping[str, int], symbol: str | None = None
) -> dict[str, Any]:
    """Return the same as a JSON-ready object, values in hex."""
    values = {"rflags" if name == "eflags" else name: value for name, value in known.items()}
    return {
        **{name: hex(value) for name, value in values.items()},
        "symbol": symbol,
        "after": {name: hex(value) for name, value in after.items()},
    }


# General-purpose registers, in as many columns as there is room for.
def _general(cpu: CpuState, old: CpuState, columns: int) -> list[list[Cell]]:
    cells = [
        [Cell(name), Cell(f"{value:#018x}", "value" if value != was else "")]
        for name, value, was in zip(GPR, cpu.gpr, old.gpr, strict=True)
    ]
    fit = max(columns, 25) // 25
    across = 4 if fit >= 4 else 2 if fit >= 2 else 1
    height = len(cells) // across
    return [
        [cell for n in range(across) for cell in cells[row + height * n]] for row in range(height)
    ]


def _control(cpu: CpuState, others: Mapping[str, int], symbol: str | None) -> list[list[Cell]]:
    table = [_row("rip", cpu.rip, symbol or "", "symbol")]
    table.append(_row("rflags", cpu.rflags, rflags_text(cpu.rflags)))
    table.append(_row("cr0", cpu.cr0, bit_names(cpu.cr0, _CR0)))
    table += [_row(name, others[name], "") for name in ("cr2", "cr3") if name in others]
    table.append(_row("cr4", cpu.cr4, bit_names(cpu.cr4, _CR4)))
    if "efer" in others:
        table.append(_row("efer", others["efer"], bit_names(others["efer"], _EFER)))
    return table


def _row(name: str, value: int, text: str, style: str = "") -> list[Cell]:
    return [Cell(name), Cell(f"{value:#018x}", "value"), Cell(text, style)]


def register_object(
    cpu: CpuState, others: Mapping[str, int], symbol: str | None = None
) -> dict[str, Any]:
    """Return all registers as a JSON-ready object, values in hex."""
    values = dict(zip(GPR, cpu.gpr, strict=True))
    values |= {"rip": cpu.rip, "rflags": cpu.rflags, "cr0": cpu.cr0, "cr4": cpu.cr4}
    values |= {name: others[name] for name in ("cr2", "cr3", "efer") if name in others}
    values |= {
        name: others.get(name, getattr(cpu.segments, name))
        for name in (*_SELECTORS, "fs_base", "gs_base")
    }
    values |= {f"xmm{number}": value for number, value in enumerate(cpu.xmm)}
    return {
        **{name: hex(value) for name, value in values.items()},
        "symbol": symbol, "flags": rflags_text(cpu.rflags), "cpl": cpu.cpl,
        "mode": cpu.mode.value,
    }  # fmt: skip
