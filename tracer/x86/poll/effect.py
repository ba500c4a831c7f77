"""The effects of instructions on a state that is read on: of those that code makes of a value read.

Ref: Intel SDM vol. 2. What is not here leaves what it writes unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tracer.x86.disassembler import Operand, Step
from tracer.x86.poll.condition import Flags, Found, Open, Way
from tracer.x86.poll.state import REGISTERS, State
from tracer.x86.poll.value import (
    ONE,
    WHOLE,
    ZERO,
    Number,
    Other,
    Read,
    Value,
    bits_of,
    combined,
    extended,
    inverted,
    is_tainted,
    part,
)

_MASK = (1 << 64) - 1

_BINARY = {
    "and": "and", "or": "or", "xor": "xor", "add": "add", "sub": "sub", "shl": "shl", "sal": "shl",
    "shr": "shr", "sar": "sar", "imul": "imul",
}  # fmt: skip

_NOTHING = frozenset(
    ("nop", "pause", "endbr64", "mfence", "lfence", "sfence", "cli", "sti", "cld", "stac", "clac",
     "prefetcht0", "prefetchnta", "int3")
)  # fmt: skip

_ACCUMULATING = frozenset(
    ("cdqe", "cwde", "cbw", "cdq", "cqo", "mul", "imul", "div", "idiv", "rdtsc", "rdtscp", "cpuid",
     "xchg", "cmpxchg", "vmcall", "vmmcall", "rdpmc", "xgetbv", "in")
)  # fmt: skip

_CALLS = frozenset(("syscall", "sysenter", "int"))
"""Calls of the kernel: Ref: System V ABI for AMD64, A.2.1."""

_STRINGS = ("rep", "stos", "movs", "lods", "cmps", "scas", "ins", "outs")


def after(step: Step, state: State) -> State:
    """Return the state behind an instruction that neither jumps nor calls."""
    name = step.mnemonic.removeprefix("lock ")
    if name in _NOTHING:
        return state
    effect = _EFFECTS.get(name, len(step.operands))
    return _other(step, name, state) if effect is None else effect(step, name, state)


Effect = Callable[[Step, str, State], State]


def _move(step: Step, name: str, state: State) -> State:
    to, source = step.operands
    if to.register and to.register not in REGISTERS:
        return state
    return state.wrote(to, part(_read(state, source, step), min(source.width or 8, 8)))


def _move_signed(step: Step, name: str, state: State) -> State:
    to, source = step.operands
    return state.wrote(to, part(extended(_read(state, source, step), source.width), to.width))


def _address(step: Step, name: str, state: State) -> State:
    to, source = step.operands
    linear = state.linear(_absolute(source, step))
    values = (state.registers.get(each) for each in (source.base, source.index))
    words = (value.said for value in values if isinstance(value, Number | Other))
    return state.wrote(to, Other() if linear is None else Number(linear, " ".join(words).strip()))


def _compare(step: Step, name: str, state: State) -> State:
    left, right = step.operands
    values = _read(state, left, step), _beside(state, right, left, step)
    return state.with_flags(Flags(*values, left.width))


def _test(step: Step, name: str, state: State) -> State:
    left, right = step.operands
    a, b = _read(state, left, step), _beside(state, right, left, step)
    made = a if left == right else combined("and", a, b, left.width)
    return state.with_flags(Flags(made, Number(0), left.width))


def _test_bit(step: Step, name: str, state: State) -> State:
    left, right = step.operands
    number, value = state.value(right), _read(state, left, step)
    if not isinstance(number, Number) or left.width > 8:
        return _other(step, name, state)
    flags = Flags(value, Number(0), left.width, bits_of(value)[number.value % (8 * left.width)])
    if not is_tainted(value):
        said = "" if isinstance(value, Read) else value.said
        flags = Flags(Other(said), Number(0), left.width)
    state = state.with_flags(flags)
    return state if name == "bt" else state.wrote(left, Other())


def _binary(step: Step, name: str, state: State) -> State:
    left, right = step.operands
    if left == right and left.register and name in ("xor", "sub"):
        return state.wrote(left, Number(0)).with_flags(Flags(Number(0), Number(0), left.width))
    a, b = _read(state, left, step), _beside(state, right, left, step)
    made = combined(_BINARY[name], a, b, left.width)
    flags = Flags(a, b, left.width) if name == "sub" else Flags(made, Number(0), left.width)
    return state.wrote(left, made).with_flags(flags)


def _by_one(step: Step, name: str, state: State) -> State:
    (left,) = step.operands
    operation = {"inc": "add", "dec": "sub"}.get(name, name)
    made = combined(operation, _read(state, left, step), Number(1), left.width)
    return state.wrote(left, made).with_flags(Flags(made, Number(0), left.width))


def _invert(step: Step, name: str, state: State) -> State:
    (left,) = step.operands
    value = _read(state, left, step)
    if isinstance(value, Number):
        value = Number(~value.value & (1 << 8 * left.width) - 1, value.said)
    elif isinstance(value, Read):
        value = part(Read(tuple(map(_turned, value.bits))), left.width)
    return state.wrote(left, value)


def _push(step: Step, name: str, state: State) -> State:
    return state.pushed(_read(state, step.operands[0], step))


def _pop(step: Step, name: str, state: State) -> State:
    value, state = state.popped()
    return state.wrote(step.operands[0], value)


def _push_flags(step: Step, name: str, state: State) -> State:
    return state.pushed(Other())


def _pop_flags(step: Step, name: str, state: State) -> State:
    return state.popped()[1].with_flags(Flags(Other(), Other()))


_ALL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")
"""The registers that PUSHA pushes, in this order; POPA leaves the stack pointer out."""


def _push_all(step: Step, name: str, state: State) -> State:
    before = state
    for each in _ALL:
        state = state.pushed(before.registers[each])
    return state


def _pop_all(step: Step, name: str, state: State) -> State:
    for each in reversed(_ALL):
        value, state = state.popped()
        if each != "rsp":
            state = replace(state, registers={**state.registers, each: value})
    return state


def _leave(step: Step, name: str, state: State) -> State:
    state = replace(state, registers={**state.registers, "rsp": state.registers["rbp"]})
    value, state = state.popped()
    return replace(state, registers={**state.registers, "rbp": value})


def _input(step: Step, name: str, state: State) -> State:
    to = step.operands[0]
    first = state.device == step.linear
    return state.wrote(to, part(WHOLE, to.width) if first else Other("a port"))


def _read_msr(step: Step, name: str, state: State) -> State:
    # EDX and EAX get its halves.
    if state.device != step.linear:
        return state.lost("rax", "rdx")
    halves = {"rax": part(WHOLE, 4), "rdx": part(WHOLE, 4, 32)}
    return replace(state, registers={**state.registers, **halves})


class _Effects:
    # Effects by mnemonic and number of operands.

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], Effect] = {
            ("push", 1): _push, ("pop", 1): _pop, ("leave", 0): _leave, ("in", 2): _input,
            ("rdmsr", 0): _read_msr, ("lea", 2): _address, ("cmp", 2): _compare,
            ("test", 2): _test, ("not", 1): _invert,
        }  # fmt: skip
        for names, count, effect in (
            (("mov", "movabs", "movzx", "movnti"), 2, _move),
            (("movsx", "movsxd"), 2, _move_signed),
            (("bt", "btr", "bts", "btc"), 2, _test_bit),
            (tuple(_BINARY), 2, _binary),
            (("pushfq", "pushfd", "pushf"), 0, _push_flags),
            (("popfq", "popfd", "popf"), 0, _pop_flags),
            (("pushal", "pushaw"), 0, _push_all),
            (("popal", "popaw"), 0, _pop_all),
            (("inc", "dec", "shr", "sar", "shl"), 1, _by_one),
        ):
            self._known.update(dict.fromkeys(((name, count) for name in names), effect))

    def get(self, name: str, count: int) -> Effect | None:
        return self._known.get((name, count))


_EFFECTS = _Effects()


def _other(step: Step, name: str, state: State) -> State:
    operands = step.operands
    told = state.decided(name, "set")
    if told is not None and len(operands) == 1:
        return state.wrote(operands[0], _truth(told))
    told = state.decided(name, "cmov")
    if told is not None and len(operands) == 2:
        to, source = operands
        if isinstance(told, bool):
            return state.wrote(to, _read(state, source if told else to, step))
        return state.wrote(to, Read((None,) * 64) if isinstance(told, Way) else Other(told.said))
    return _unknown(step, name, state)


def _unknown(step: Step, name: str, state: State) -> State:
    # An instruction that is not followed writes its first operand, and some accumulators.
    if step.operands and step.operands[0].immediate is None:
        state = state.wrote(step.operands[0], Other())
    if name in _ACCUMULATING:
        state = state.lost("rax", "rdx", *(("rbx", "rcx") if name == "cpuid" else ()))
        if name in ("xchg", "cmpxchg"):
            state = state.wrote(step.operands[-1], Other())
    if name.startswith(_STRINGS):
        state = state.lost("rax", "rcx", "rsi", "rdi")
    if name in _CALLS:
        state = state.called("the kernel", "rcx", "r11")
    return state.with_flags(Flags(Other(), Other()))


def _truth(told: Found) -> Value:
    # The value of a SETcc.
    match told:
        case bool():
            return Number(int(told))
        case Open(said):
            return Other(said)
        case Way(mask, value, equal) if mask and not mask & mask - 1:
            bit = mask.bit_length() - 1
            return Read((bit if bool(value) == equal else inverted(bit), *(ZERO,) * 63))
    return Read((None, *(ZERO,) * 63))


def _turned(bit: int | None) -> int | None:
    if bit in (ZERO, ONE):
        return ONE if bit == ZERO else ZERO
    return inverted(bit)


def _absolute(operand: Operand, step: Step) -> Operand:
    # A place relative to RIP is counted from the instruction's end.
    if operand.base != "rip":
        return operand
    return replace(operand, base="", displacement=step.end + operand.displacement & _MASK)


def _read(state: State, operand: Operand, step: Step) -> Value:
    return state.value(_absolute(operand, step))


def _beside(state: State, operand: Operand, beside: Operand, step: Step) -> Value:
    # A constant is as wide as what stands beside it.
    return part(_read(state, operand, step), min(beside.width or 8, 8))
