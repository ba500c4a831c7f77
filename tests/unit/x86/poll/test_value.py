"""Values of code that is read on, and the conditions that they decide."""

from __future__ import annotations

import pytest

from tracer.x86.disassembler import step
from tracer.x86.poll.condition import Flags, Found, Open, Way, condition_of, found
from tracer.x86.poll.effect import after
from tracer.x86.poll.state import State, entered
from tracer.x86.poll.value import (
    WHOLE,
    Number,
    Other,
    Read,
    Value,
    bits_of,
    combined,
    extended,
    inverted,
    joined,
    merged,
    part,
)

DEVICE = 0x5000


def state(code: str, **known: int) -> State:
    """Run bytes on, RDI at the device."""
    gpr = [{"rdi": DEVICE, "rsp": 0x7000, **known}.get(name, 0) for name in _NAMES]
    made = entered(gpr, lambda linear, size: b"", lambda linear: None, DEVICE)
    data, at = bytes.fromhex(code), 0
    while at < len(data):
        it = step(data[at:], 0x1000 + at)
        assert it is not None
        made = after(it, made)
        at += it.length
    return made


_NAMES = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip


def test_a_part_of_what_was_read_keeps_its_bits() -> None:
    low = part(WHOLE, 1, 8)
    assert bits_of(low)[:8] == tuple(range(8, 16))
    assert set(bits_of(low)[8:]) == {-1}
    assert bits_of(extended(part(WHOLE, 1), 1))[63] == 7
    assert extended(Number(0x80), 1) == Number(0xFFFF_FFFF_FFFF_FF80)
    assert merged(Number(0x1234), Number(0xFF), 1, 8) == Number(0xFF34)


def test_operations() -> None:
    assert combined("and", WHOLE, Number(0), 4) == Number(0)
    assert bits_of(combined("shr", WHOLE, Number(5), 4))[:2] == (5, 6)
    assert bits_of(combined("xor", WHOLE, Number(1), 4))[0] == inverted(0)
    assert combined("add", Number(1), Number(2, "rbx"), 4) == Number(3, "rbx")
    assert combined("add", Number(1), Other("jiffies"), 8) == Other("jiffies")
    assert combined("sub", WHOLE, Other(), 4) == Read((None,) * 64)
    assert joined("a", "", "a", "b") == "a, b" and len(joined("x" * 90)) == 60


@pytest.mark.parametrize(
    ("condition", "left", "right", "expected"),
    [
        ("e", combined("and", WHOLE, Number(1), 4), Number(0), Way(1, 0)),
        ("ne", combined("and", WHOLE, Number(6), 4), Number(0), Way(6, 0, equal=False)),
        ("e", part(WHOLE, 4), Number(7), Way(0xFFFF_FFFF, 7)),
        ("e", Number(7), part(WHOLE, 1), Way(0xFF, 7)),
        ("s", part(WHOLE, 4), Number(0), Way(1 << 31, 1 << 31)),
        ("ae", part(WHOLE, 4), Number(0x10), Way(0xFFFF_FFF0, 0, equal=False)),
        ("g", part(WHOLE, 4), Number(3), Way(0, 0, equal=False)),
        ("e", combined("or", WHOLE, Number(1), 4), Number(0), False),
        ("e", Number(1), Number(1), True),
        ("l", Number(0xFFFF_FFFF), Number(0), True),
        ("e", Number(1, "rbx"), Number(0), Open("rbx")),
        ("b", Other("jiffies"), Number(0, "rbp"), Open("jiffies")),
    ],
)
def test_conditions(condition: str, left: Value, right: Value, expected: Found) -> None:
    assert found(condition, Flags(left, right, 1 if left == Number(7) else 4)) == expected


def test_the_names_of_conditions() -> None:
    assert condition_of("nz") == "ne" and condition_of("mp") is None


@pytest.mark.parametrize(
    ("code", "condition", "expected"),
    [
        ("8b07 a804", "e", Way(4, 0)),  # mov eax,[rdi]; test al,4
        ("f60720", "ne", Way(0x20, 0x20)),  # test byte ptr [rdi],0x20
        ("8b07 0fbae007", "b", Way(0x80, 0x80)),  # bt eax,7
        ("8b07 f7d0 a801", "e", Way(1, 1)),  # not eax; test al,1
        ("8b07 c1e803 83e001 83f801", "e", Way(8, 8)),  # shr, and, cmp
        ("8b07 a801 0f95c0 84c0", "ne", Way(1, 1)),  # test, setne al, test al,al
        ("8b07 a801 0f94c0 84c0", "ne", Way(1, 0)),  # sete
        ("8b07 50 59 f6c102", "ne", Way(2, 2)),  # push rax; pop rcx; test cl,2
        ("8b07 89442408 8b542408 83fa05", "e", Way(0xFFFF_FFFF, 5)),  # by the stack
        ("8b07 0fc8 a801", "e", Way(0, 0)),  # bswap is not followed
        ("0fb607 3c7f", "e", Way(0xFF, 0x7F)),  # movzx eax,byte ptr [rdi]; cmp al,0x7f
    ],
)
def test_instructions(code: str, condition: str, expected: Way) -> None:
    told = found(condition, state(code).flags)
    if expected.mask:
        assert told == expected
    else:
        assert not isinstance(told, Way) or not told.mask
