"""Registers as a trace records them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from tracer.x86.instruction import SEGMENTS, File, Instruction, Memory, Register
from tracer.x86.state import GPR, CpuState, Mode


def register_values(cpu: CpuState, insn: Instruction | None = None) -> dict[str, int]:
    """Return RFLAGS, the general-purpose registers, and what else ``insn`` sees, as recorded.

    That is the base of a segment where a memory operand adds it, if it is FS or GS or is not 0, and
    each segment or XMM register that is an operand.
    """
    values = {"rflags": cpu.rflags}
    values.update(zip(GPR, cpu.gpr, strict=True))
    for name in other_registers(insn) if insn is not None else ():
        if not name.startswith("xmm"):
            values[name] = getattr(cpu.segments, name)
        elif cpu.xmm:
            values[name] = cpu.xmm[int(name[3:])]
    if insn is not None and insn.mode is not Mode.LONG:
        values.update(_bases(cpu, insn))
    return values


BASES = ("es_base", "cs_base", "ss_base", "ds_base")
"""Names of the segment bases that :func:`register_values` has where they are not 0.

Code outside 64-bit mode alone has such."""


def _bases(cpu: CpuState, insn: Instruction) -> Iterator[tuple[str, int]]:
    used = {f"{operand.segment}_base" for operand in insn.operands if isinstance(operand, Memory)}
    if insn.form is not None and insn.form.size64:
        used.add("ss_base")
    for name in BASES:
        value = getattr(cpu.segments, name)
        if value and name in used:
            yield name, value


def other_registers(insn: Instruction) -> tuple[str, ...]:
    """Return what ``insn`` sees beyond RFLAGS and the general-purpose registers, by name."""
    names: list[str] = []
    for operand in insn.operands:
        if isinstance(operand, Memory) and operand.segment in ("fs", "gs"):
            names.append(f"{operand.segment}_base")
        elif isinstance(operand, Register) and operand.file is File.SEGMENT:
            names.append(SEGMENTS[operand.number])
        elif isinstance(operand, Register) and operand.file is File.XMM:
            names.append(f"xmm{operand.number}")
    return tuple(names)


def changed_values(before: CpuState, after: CpuState) -> dict[str, int]:
    """Return what an execution changed, RIP included: of a vector register as much as changed."""
    changed = {} if before.rip == after.rip else {"rip": after.rip}
    if before.rflags != after.rflags:
        changed["rflags"] = after.rflags
    for name, old, new in zip(GPR, before.gpr, after.gpr, strict=True):
        if old != new:
            changed[name] = new
    for number, (old, new) in enumerate(zip(before.xmm, after.xmm, strict=True)):
        if old != new:
            changed[f"xmm{number}"] = new
    for number, (old, new) in enumerate(zip(before.ymm, after.ymm, strict=True)):
        if old != new:
            changed.pop(f"xmm{number}", None)
            changed[f"ymm{number}"] = after.xmm[number] | new << 128
    return changed


def made(registers: Mapping[str, int]) -> Mapping[str, int]:
    """Return registers as they can be looked up often, worked out now where they were deferred."""
    return registers._values if isinstance(registers, Deferred) else registers


class Deferred(Mapping[str, int]):
    """Hold registers that ``make`` works out of ``given``, once somebody looks at them."""

    __slots__ = ("_given", "_made", "_make")

    def __init__(self, make: Callable[..., Mapping[str, int]], *given: object) -> None:
        self._make = make
        self._given = given

    def __getitem__(self, name: str) -> int:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(dict(self._values))

    @property
    def _values(self) -> Mapping[str, int]:
        try:
            return self._made
        except AttributeError:
            self._made: Mapping[str, int] = self._make(*self._given)
            return self._made
