"""The seam between operations and what they access: what they yield, and what they are sent."""

from __future__ import annotations

from collections.abc import Callable, Generator

from tracer.x86.bus import Access, In, Load, Operand, Store
from tracer.x86.instruction import Instruction
from tracer.x86.state import CpuState

Execution = Generator[Access, int | None, CpuState]
"""Yield accesses, be sent what a load or a port gave (else None), return the next state."""

Plan = tuple[Operand, ...]
"""The memory operands of one execution."""

Run = Callable[[Instruction, CpuState, Plan], Execution]
"""Carry out one instruction whose memory operands are known."""


def load(operand: Operand) -> Generator[Access, int | None, int]:
    """Read a memory operand: once, whole, unsigned."""
    value = yield Load(operand.linear, operand.width)
    assert value is not None
    return value


def store(operand: Operand, value: int) -> Generator[Access, int | None, None]:
    """Write a memory operand: whole, the low bits of ``value``."""
    yield Store(operand.linear, operand.width, value & ((1 << 8 * operand.width) - 1))


def read_port(port: int, width: int) -> Generator[Access, int | None, int]:
    """Read ``width`` bytes of an I/O port: once."""
    value = yield In(port, width)
    assert value is not None
    return value
