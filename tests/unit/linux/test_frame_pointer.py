"""tracer.linux.frame_pointer: stacks of kernels without ORC tables."""

from __future__ import annotations

import pytest

from tracer.linux.frame_pointer import has_frame, unwind
from tracer.linux.orc import MAX_FRAMES, Frame, Stack

CODE, STACK = 0xFFFF_FFFF_8100_0000, 0xFFFF_C900_0000_1000


def walk(memory: dict[int, int], rbp: int = STACK) -> Stack:
    def read(linear: int, size: int) -> bytes:
        return memory[linear].to_bytes(size, "little")  # KeyError is a LookupError

    return unwind(CODE, rbp, lambda linear: CODE <= linear < CODE + 0x1000, read)


def test_calls_up_to_a_system_call() -> None:
    memory = {STACK: STACK + 64, STACK + 8: CODE + 8, STACK + 64: 0, STACK + 72: CODE + 16}
    assert walk(memory) == Stack(
        (Frame(CODE, True), Frame(CODE + 8, False), Frame(CODE + 16, False))
    )


def test_through_an_interrupt_to_user_space() -> None:
    memory = {
        STACK: STACK + 0x101, STACK + 8: CODE + 8,
        STACK + 0x100 + 32: STACK + 0x301, STACK + 0x100 + 128: CODE + 32, STACK + 0x100 + 136: 16,
        STACK + 0x300 + 128: 0x401000, STACK + 0x300 + 136: 0x33,
    }  # fmt: skip
    assert walk(memory) == Stack(
        (Frame(CODE, True), Frame(CODE + 8, False), Frame(CODE + 32, True))
    )


@pytest.mark.parametrize(
    ("memory", "rbp", "words"),
    [
        ({}, 0x1234, "RBP 0x1234 is no address of the kernel"),
        ({}, STACK, "is not in RAM"),
        ({}, STACK + 4, "does not lead up the stack"),
        ({STACK: STACK - 64, STACK + 8: CODE + 8}, STACK, "does not lead up the stack"),
        ({STACK: STACK, STACK + 8: CODE + 8}, STACK, "does not lead up the stack"),
        ({STACK: 0, STACK + 8: CODE - 8}, STACK, "is in no known code"),
    ],
)
def test_why_it_ends(memory: dict[int, int], rbp: int, words: str) -> None:
    lost = walk(memory, rbp).lost
    assert lost is not None and lost.startswith("by frame pointers, and ") and words in lost


def test_a_stack_without_end_is_cut() -> None:
    memory = {}
    for number in range(MAX_FRAMES + 2):
        memory |= {STACK + 16 * number: STACK + 16 * number + 16, STACK + 16 * number + 8: CODE + 8}
    stack = walk(memory)
    assert len(stack.frames) == MAX_FRAMES and stack.lost is not None


def test_prologues() -> None:
    assert has_frame(bytes.fromhex("f30f1efa0f1f440000554889e5415641"))
    assert not has_frame(bytes.fromhex("f30f1efa0f1f44000041574156415541"))
