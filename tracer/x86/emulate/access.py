"""The seam between operations and what they access: what they yield, and who drives them."""

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


class Emulation:
    """Drive one execution, access by access; nobody else does.

    Iterate over the accesses, and set ``answer`` to what a load read before the next one is asked
    for; ``after`` is the state at the end::

        emulation = execute(insn, cpu)
        for access in emulation:
            if isinstance(access, Load):
                emulation.answer = memory[access.linear]
        cpu = emulation.after

    Who answers is up to the body of the loop: a device, a recording, a guess. It may break off at
    any access; nothing has been committed then.
    """

    __slots__ = ("_after", "_execution", "answer")

    def __init__(self, execution: Execution) -> None:
        self.answer: int | None = None
        self._execution = execution
        self._after: CpuState | None = None

    def __iter__(self) -> Emulation:
        return self

    def __next__(self) -> Access:
        answer, self.answer = self.answer, None
        try:
            return self._execution.send(answer)
        except StopIteration as stop:
            self._after = self._after or stop.value
            raise

    @property
    def after(self) -> CpuState:
        """Return the state behind the instruction, which has come to its end."""
        assert self._after is not None
        return self._after


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
