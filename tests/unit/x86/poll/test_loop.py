"""Loops around a read: what they wait for, and where they give up."""

from __future__ import annotations

import pytest
from poll_code import DEVICE, STACK, SYMBOLS, Ram, name, registers

from tracer.x86.poll import Loop, Way, loop_of
from tracer.x86.state import Mode

RDY = Way(1, 1)
GONE = Way(0xFFFF_FFFF, 0xFFFF_FFFF)


def found(rip: int, ram: Ram, **known: int) -> Loop | None:
    return loop_of(rip, registers(**known), DEVICE, ram, name)


def loop(rip: int, ram: Ram, **known: int) -> Loop:
    it = found(rip, ram, **known)
    assert it is not None
    return it


def ways(it: Loop) -> list[Way | None]:
    return [each.way for each in it.awaited]


def ends(it: Loop) -> list[tuple[str | None, str]]:
    return [(name(each.linear), each.said) for each in it.gives_up]


def test_a_loop_that_counts_down() -> None:
    it = loop(SYMBOLS["spin"] + 0x17, Ram(), rdi=DEVICE)
    assert (it.frames, it.head) == (0, SYMBOLS["spin"] + 0x17)
    assert ways(it) == [Way(0x20, 0x20)]
    assert ends(it) == [("spin+0x13", "rax")]


def test_a_field_of_two_bits() -> None:
    it = loop(SYMBOLS["both"] + 0x19, Ram(), rbx=DEVICE)
    assert ways(it) == [Way(0x30, 0x10)]
    assert ends(it) == [("both+0x17", "what a function returns")]


def test_the_loop_is_the_callers_of_what_returns_a_bit() -> None:
    it = loop(SYMBOLS["busy"], Ram(SYMBOLS["caller"] + 0x31), rdi=DEVICE)
    assert (it.frames, it.head) == (1, SYMBOLS["caller"] + 0x2C)
    assert ways(it) == [Way(0x80, 0)]
    assert ends(it) == [("caller+0x27", "rbx")]


@pytest.mark.parametrize(("enabled", "way"), [(1, RDY), (0, Way(1, 0))])
def test_the_value_comes_by_a_pointer_and_is_compared_with_a_register(
    enabled: int, way: Way
) -> None:
    ram = Ram(SYMBOLS["wait_ready"] + 0x74)
    rip = SYMBOLS["reg_read32"] + 0x6
    it = loop(rip, ram, rsi=DEVICE, rdx=STACK + 8 + 0xC, r12=enabled)
    assert it.head == SYMBOLS["wait_ready"] + 0x72
    assert set(ways(it)) == {way, GONE}
    assert {said for _, said in ends(it)} == {"memory", "what a function returns"}
    assert ("wait_ready+0x54", "what a function returns") in ends(it)


def test_a_fifo_is_no_wait() -> None:
    assert found(SYMBOLS["fifo"] + 0x10, Ram(), rdi=DEVICE) is None


def test_code_that_is_not_there_or_leads_nowhere() -> None:
    assert found(0x10, Ram()) is None
    assert found(SYMBOLS["busy"], Ram(0x10), rdi=DEVICE) is None
    assert found(SYMBOLS["busy"], Ram(SYMBOLS["fifo"] + 1), rdi=DEVICE) is None


def test_code_that_branches_without_end_is_given_up() -> None:
    # Forty jumps, each to the next instruction or the one after, and back to the read.
    branches = b"\x85\xdb\x74\x01\x90" * 40
    code = b"\x8b\x07" + branches + b"\xeb\xfe"

    def memory(linear: int, size: int) -> bytes:
        return code[linear - 0x1000 :][:size] if 0x1000 <= linear < 0x1000 + len(code) else b""

    assert loop_of(0x1000, registers(rdi=DEVICE), DEVICE, memory, lambda _: None) is None


TWO = "8b07 a804 74fa f6c401 74f5 c3"  # both bits, by a test each
EITHER = "8b07 a804 7505 f6c401 74f5 c3"
COUNTED = "8b07 a804 7403 83c101 f6c401 74f2 c3"  # what the first bit does ends nothing


@pytest.mark.parametrize(
    ("code", "awaited"),
    [
        (TWO, [Way(0x104, 0x104)]),
        (EITHER, [Way(0x4, 0x4), Way(0x100, 0x100)]),
        (COUNTED, [Way(0x100, 0x100)]),
    ],
)
def test_bits_of_separate_tests_are_told_together(code: str, awaited: list[Way]) -> None:
    there = bytes.fromhex(code).ljust(32, b"\x90")

    def memory(linear: int, size: int) -> bytes:
        return there[linear - 0x1000 :][:size] if 0x1000 <= linear < 0x1020 else b""

    it = loop_of(0x1000, registers(rdi=DEVICE), DEVICE, memory, lambda _: "f")
    assert it is not None
    assert sorted((way.mask, way.value) for way in ways(it) if way) == [
        (way.mask, way.value) for way in awaited
    ]


PROTECTED = bytes.fromhex("8b02c3").ljust(16, b"\x90") + bytes.fromhex(
    "9c"  # pushf
    "9d"  # popf
    "e8e9ffffff"  # call 0x1000
    "a820"  # test al, 0x20
    "7503"  # jnz 0x101e
    "49"  # dec ecx, a prefix in 64-bit code
    "75f4"  # jnz 0x1012
    "c3"
)
REAL = bytes.fromhex("ec a820 74fb c3")  # in al, dx; test al, 0x20; jz -5; ret
MEMORY = bytes.fromhex("648a07 a840 75f9 c3")  # mov al, fs:[bx]; test al, 0x40; jnz -7; ret


@pytest.mark.parametrize(
    ("mode", "code", "at", "head", "way", "gives_up"),
    [
        (Mode.COMPAT32, PROTECTED, 0x1000, 0x1012, Way(0x20, 0x20), [(0x101C, "rcx")]),
        (Mode.COMPAT16, REAL, 0xF_FFF0, 0xF_FFF0, Way(0x20, 0x20), []),
        (Mode.COMPAT16, MEMORY, 0xF_1000, 0xF_1000, Way(0x40, 0), []),
    ],
)
def test_code_of_other_modes(
    mode: Mode, code: bytes, at: int, head: int, way: Way, gives_up: list[tuple[int, str]]
) -> None:
    stack = (0x1017).to_bytes(4, "little") + (0xFFFF_FFFF).to_bytes(4, "little")

    def memory(linear: int, size: int) -> bytes:
        for start, data in ((at, code), (STACK, stack)):
            if start <= linear < start + len(data):
                return data[linear - start :][:size]
        return b""

    device = at if code is REAL else DEVICE
    it = loop_of(at, registers(rdx=DEVICE), device, memory, lambda _: None, mode)
    assert it is not None and it.head == head and ways(it) == [way]
    assert [(each.linear, each.said) for each in it.gives_up] == gives_up


def test_flags_and_all_registers_that_are_saved_meanwhile() -> None:

    # The read's function saves what it uses and returns to the loop of its caller.
    code = bytes.fromhex("9c 8b02 60 61 9d c3").ljust(16, b"\x90") + PROTECTED[16:]

    def memory(linear: int, size: int) -> bytes:
        whole = {0x1000: code, STACK - 4: bytes(4) + (0x1017).to_bytes(4, "little")}
        for start, data in whole.items():
            if start <= linear < start + len(data):
                return data[linear - start :][:size]
        return b""

    known = registers(rdx=DEVICE, rsp=STACK - 4)
    it = loop_of(0x1001, known, DEVICE, memory, lambda _: None, Mode.COMPAT32)
    assert it is not None and it.frames == 1
