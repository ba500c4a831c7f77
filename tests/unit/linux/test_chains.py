"""Call chains that are known from copies of stacks that were read before."""

from __future__ import annotations

import struct

import pytest

from tracer.compiled.stack_copy import StackCopy
from tracer.linux.chains import Chains, Trail
from tracer.x86.state import RBP, RSP, CpuState

STACK, BEFORE = 0xFFFF_C900_0000_3F00, 0xFFFF_C900_0000_7F00


def copy(*words: int, start: int = STACK, before: tuple[int, ...] = ()) -> StackCopy:
    runs = (start, struct.pack(f"<{len(words)}Q", *words))
    return StackCopy((runs, (BEFORE, struct.pack(f"<{len(before)}Q", *before))), 0)


def cpu(rip: int = 1, rsp: int = STACK, rbp: int = 2, rax: int = 0) -> CpuState:
    gpr = [rax] * 16
    gpr[RSP], gpr[RBP] = rsp, rbp
    return CpuState(gpr=tuple(gpr), rip=rip)


def kept(stack: StackCopy, *linear: int, chain: str = "chain") -> Chains[str]:
    chains: Chains[str] = Chains()
    trail = Trail(cpu(), stack)
    assert trail.gpr[RSP] == STACK and trail.gpr[RBP] == 2
    for at in linear:
        trail.read(at, 8)
    chains.keep(0, trail, chain)
    return chains


def test_what_was_read_is_compared_and_nothing_else() -> None:
    chains = kept(copy(10, 11, 12), STACK, STACK + 16)
    assert chains.find(0, cpu(rax=7), copy(10, 99, 12)) == "chain"
    assert chains.find(0, cpu(), copy(10, 11, 13)) is None
    assert chains.find(0, cpu(), copy(9, 11, 12)) is None


@pytest.mark.parametrize("other", [cpu(rip=3), cpu(rsp=STACK + 8), cpu(rbp=3)])
def test_registers_that_were_read_are_compared(other: CpuState) -> None:
    chains = kept(copy(10, 11), STACK)
    assert chains.find(0, other, copy(10, 11)) is None
    assert chains.find(0, cpu(rax=7), copy(10, 11)) == "chain"


def test_a_copy_of_another_place_or_size_is_another_one() -> None:
    chains = kept(copy(10, 11, before=(20, 21)), STACK, BEFORE + 8)
    assert chains.find(0, cpu(), copy(10, 11, before=(0, 21))) == "chain"
    assert chains.find(0, cpu(), copy(10, 11, before=(20, 20))) is None
    for other in (copy(10, 11), copy(10, 11, 12, before=(20, 21)), copy(10, 11, start=STACK - 8)):
        assert chains.find(0, cpu(), other) is None


def test_unwindings_that_read_other_places_stand_beside_each_other() -> None:
    chains = kept(copy(10, 11, 12), STACK, STACK + 8)
    trail = Trail(cpu(), copy(20, 11, 12))
    trail.read(STACK, 8)
    trail.read(STACK + 16, 8)
    chains.keep(0, trail, "other")
    assert chains.find(0, cpu(), copy(10, 11, 0)) == "chain"
    assert chains.find(0, cpu(), copy(20, 0, 12)) == "other"


def test_nothing_holds_once_the_guests_code_has_changed() -> None:
    chains = kept(copy(10), STACK)
    assert chains.find(1, cpu(), copy(10)) is None
    assert chains.find(0, cpu(), copy(10)) is None


@pytest.mark.parametrize(("at", "size"), [(STACK + 4, 8), (STACK, 4), (STACK + 0x100, 8), (0, 0)])
def test_what_cannot_be_compared_is_not_kept(at: int, size: int) -> None:
    stack = copy(10, 11)
    trail = Trail(cpu(), stack)
    trail.read(STACK, 8)
    try:
        assert trail.read(at, size) == stack.read(at, size)
    except LookupError:
        with pytest.raises(LookupError):
            stack.read(at, size)
    chains: Chains[str] = Chains()
    chains.keep(0, trail, "chain")
    assert chains.find(0, cpu(), stack) is None


def test_a_chain_that_read_nothing_and_a_copy_that_ends_within_a_word_are_not_kept() -> None:
    chains: Chains[str] = Chains()
    chains.keep(0, Trail(cpu(), copy(10)), "chain")
    broken = StackCopy(((STACK, bytes(12)),), 0)
    trail = Trail(cpu(), broken)
    trail.read(STACK, 8)
    chains.keep(0, trail, "chain")
    assert chains.find(0, cpu(), copy(10)) is None
    assert chains.find(0, cpu(), broken) is None


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracer.linux.chains._MOST", 2)
    chains: Chains[str] = Chains()
    for value in range(3):
        trail = Trail(cpu(), copy(value))
        trail.read(STACK, 8)
        chains.keep(0, trail, f"{value}")
    assert [chains.find(0, cpu(), copy(value)) for value in range(3)] == [None, None, "2"]
