"""The state of a vCPU that is not run, but read on: registers, memory and flags, as far as known.

An instruction that is not followed leaves what it writes unknown. Memory is the guest's as it was
at the read, with what the code has stored since.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tracer.x86.disassembler import Operand
from tracer.x86.poll.condition import Flags, Found, condition_of, found
from tracer.x86.poll.value import WHOLE, Number, Other, Value, merged, part
from tracer.x86.state import GPR, Mode

Memory = Callable[[int, int], bytes]
"""Returns up to so many bytes at a linear address; fewer where RAM ends."""

Name = Callable[[int], str | None]
"""Returns the symbol of a linear address, with its offset."""

_MASK = (1 << 64) - 1
CLOBBERED = {
    Mode.LONG: ("rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11"),
    Mode.COMPAT32: ("rax", "rcx", "rdx"),
    Mode.COMPAT16: GPR,
}
"""Registers that a function may leave changed, by mode.

Ref: System V ABI for AMD64, 3.2.1; for Intel386, 2.2.2. There is none for 16-bit code.
"""
_UNITS = {Mode.LONG: 8, Mode.COMPAT32: 4, Mode.COMPAT16: 2}


def _spelled() -> dict[str, tuple[str, int, int]]:
    # Each name of a register: which it is, its width in bytes, and from which bit on.
    names: dict[str, tuple[str, int, int]] = {}
    for number, whole in enumerate(GPR):
        tail = whole[1:]
        if number >= 8:
            short = (whole, f"{whole}d", f"{whole}w", f"{whole}b")
        elif tail.endswith("x"):
            short = (whole, f"e{tail}", tail, f"{tail[0]}l")
            names[f"{tail[0]}h"] = whole, 1, 8
        else:
            short = (whole, f"e{tail}", tail, f"{tail}l")
        for name, width in zip(short, (8, 4, 2, 1), strict=True):
            names[name] = whole, width, 0
    return names


REGISTERS = _spelled()


@dataclass(frozen=True, slots=True)
class State:
    """Hold registers by name, what was stored by linear address and width, and the flags.

    ``device`` is the linear address that was read, where the code reads it the first time. Segments
    begin at 0, as those of 32-bit kernels and firmware do; in 16-bit code memory is not followed.
    """

    registers: dict[str, Value]
    memory: Memory
    name: Name
    stored: dict[int, tuple[int, Value]] = field(default_factory=dict)
    flags: Flags = field(default_factory=Flags)
    device: int | None = None
    mode: Mode = Mode.LONG

    @property
    def unit(self) -> int:
        """Return how many bytes a register has on the stack."""
        return _UNITS[self.mode]

    # ---- reading

    def value(self, operand: Operand) -> Value:
        """Return what an operand reads."""
        if operand.immediate is not None:
            return Number(operand.immediate & _MASK)
        if operand.register:
            place = REGISTERS.get(operand.register)
            return Other() if place is None else part(self.registers[place[0]], *place[1:])
        return self._loaded(operand)

    def _loaded(self, operand: Operand) -> Value:
        linear = self.linear(operand)
        # Who reads the device does so by its operand, also where that is not known.
        if self.device is not None and linear in (self.device, None):
            return part(WHOLE, operand.width)
        if linear is None:
            return Other("memory")
        held = self.stored.get(linear)
        if held is not None and held[0] >= operand.width:
            return part(held[1], operand.width)
        if held is not None or any(
            at < linear + operand.width and linear < at + width
            for at, (width, _) in self.stored.items()
        ):
            return Other("memory")
        data = self.memory(linear, operand.width)
        words = self.name(linear) or "memory"
        if len(data) < operand.width or operand.width > 8:
            return Other(words)
        return Number(int.from_bytes(data, "little"), words)

    def linear(self, operand: Operand) -> int | None:
        """Return the linear address of a place in memory, where it is known."""
        if operand.segment in ("fs", "gs") or self.mode is Mode.COMPAT16:
            return None
        total = operand.displacement
        for name, scale in ((operand.base, 1), (operand.index, operand.scale)):
            if not name or name in ("riz", "eiz"):
                continue
            value = self.registers.get(name)
            if not isinstance(value, Number):
                return None
            total += value.value * scale
        return total & (_MASK if self.mode is Mode.LONG else 0xFFFF_FFFF)

    def decided(self, mnemonic: str, head: str) -> Found | None:
        """Return what the condition of a mnemonic comes to, None for one without a condition."""
        if not mnemonic.startswith(head):
            return None
        code = condition_of(mnemonic[len(head) :])
        return None if code is None else found(code, self.flags)

    # ---- writing

    def wrote(self, operand: Operand, value: Value) -> State:
        """Return the state once an operand was written."""
        if operand.register:
            place = REGISTERS.get(operand.register)
            if place is None:
                return self
            whole, width, shift = place
            if width < 4:
                value = merged(self.registers[whole], value, width, shift)
            else:
                value = part(value, width)
            return replace(self, registers={**self.registers, whole: value})
        linear = self.linear(operand)
        if linear is None:
            return self
        kept = {
            at: held
            for at, held in self.stored.items()
            if at >= linear + operand.width or at + held[0] <= linear
        }
        kept[linear] = operand.width, part(value, min(operand.width, 8))
        return replace(self, stored=kept)

    def with_flags(self, flags: Flags) -> State:
        """Return the state with other flags."""
        return replace(self, flags=flags)

    def lost(self, *registers: str) -> State:
        """Return the state with registers of which nothing is known any more."""
        unknown: dict[str, Value] = dict.fromkeys(registers, Other())
        return replace(self, registers={**self.registers, **unknown})

    def called(self, what: str, *clobbered: str) -> State:
        """Return the state behind a call of a function that is not looked into.

        It leaves the ``clobbered`` registers changed, by default those that the ABI says.
        """
        lost: dict[str, Value] = dict.fromkeys(clobbered or CLOBBERED[self.mode], Other())
        lost["rax"] = Other(f"what {what} returns" if what else "what a function returns")
        return replace(self, registers={**self.registers, **lost}, flags=Flags())

    def popped(self) -> tuple[Value, State]:
        """Return what is on the stack, of the mode's width, and the state without it."""
        top = Operand(self.unit, base="rsp")
        value = self.value(top)
        at = self.registers["rsp"]
        moved: Value = at
        if isinstance(at, Number):
            moved = Number(at.value + self.unit & _MASK, at.said)
        return value, replace(self, registers={**self.registers, "rsp": moved})

    def pushed(self, value: Value) -> State:
        """Return the state with a value more on the stack."""
        at = self.registers["rsp"]
        if not isinstance(at, Number):
            return self
        moved = Number(at.value - self.unit & _MASK, at.said)
        lower = replace(self, registers={**self.registers, "rsp": moved})
        return lower.wrote(Operand(self.unit, base="rsp"), value)


def entered(
    gpr: Sequence[int], memory: Memory, name: Name, device: int | None, mode: Mode = Mode.LONG
) -> State:
    """Return the state before the read, from the registers in architectural order.

    What a register held then may be another number in the next turn of a loop.
    """
    registers: dict[str, Value] = {
        each: Number(value, "" if each == "rsp" else each)
        for each, value in zip(GPR, gpr, strict=True)
    }
    return State(registers, memory, name, device=device, mode=mode)
