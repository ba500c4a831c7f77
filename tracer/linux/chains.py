"""Call chains that are known from earlier copies of stacks: what one unwinding read, it read again.

An unwinding is told by the registers that it begins with and by each quadword that it reads. Where
all of them are what they were, the same chain comes of it: it need not be made.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any, Generic, TypeVar

from tracer.compiled.stack_copy import StackCopy
from tracer.x86.state import CpuState

_QUADWORD = 8
_MOST = 1 << 14
"""Chains that are kept, of some 1 KiB each."""

Chain = TypeVar("Chain")
_Places = tuple[tuple[int, int], ...]
_Key = tuple[int, _Places]
_Asked = tuple[tuple[int, ...], tuple[int, ...]]


class _Registers(tuple[int, ...]):
    # Registers that keep which of them were asked for, by their numbers.

    asked: list[int]

    def __getitem__(self, number: Any) -> Any:
        self.asked.append(number)
        return super().__getitem__(number)


class Trail:
    """Read registers and a copied stack, and keep what was read of them.

    ``gpr`` are the registers of ``cpu``. ``whole`` tells that aligned quadwords of the copy were
    all that was asked for.
    """

    def __init__(self, cpu: CpuState, copy: StackCopy) -> None:
        self.cpu = cpu
        self.copy = copy
        self.gpr = _Registers(cpu.gpr)
        self.gpr.asked = []
        self.whole = all(len(data) % _QUADWORD == 0 for _, data in copy.runs)
        self.indices: list[int] = []
        """Which quadwords of the copy were read, in its order, counted from 0 through all runs."""

    def read(self, linear: int, size: int) -> bytes:
        """Return bytes at a linear address. Raises LookupError where they were not copied."""
        before = 0
        for start, data in self.copy.runs:
            offset = linear - start
            if 0 <= offset <= len(data) - size:
                if size != _QUADWORD or offset % _QUADWORD:
                    self.whole = False
                self.indices.append((before + offset) // _QUADWORD)
                return data[offset : offset + size]
            before += len(data)
        self.whole = False
        return self.copy.read(linear, size)


class Chains(Generic[Chain]):
    """Find what came of a stack that was read before.

    What is kept holds for one number of ``changes`` to the guest's code, and is dropped when there
    is another one.
    """

    def __init__(self) -> None:
        self._changes = 0
        self._count = 0
        self._known: dict[_Key, dict[_Asked, _Branch[Chain]]] = {}

    def find(self, changes: int, cpu: CpuState, copy: StackCopy) -> Chain | None:
        """Return the chain that was kept of the same registers and quadwords, or None."""
        if changes != self._changes:
            self._drop(changes)
        branches = self._known.get(_key(cpu, copy))
        if branches is None:
            return None
        words = memoryview(b"".join([data for _, data in copy.runs])).cast("Q")
        for branch in branches.values():
            found = branch.chains.get(branch.read(cpu, words))
            if found is not None:
                return found
        return None

    def keep(self, changes: int, trail: Trail, chain: Chain) -> None:
        """Keep the chain that came of what ``trail`` has read, if all of that can be compared."""
        if not trail.whole or not trail.indices:
            return
        if changes != self._changes or self._count >= _MOST:
            self._drop(changes)
        asked = tuple(dict.fromkeys(trail.gpr.asked)), tuple(dict.fromkeys(trail.indices))
        branches = self._known.setdefault(_key(trail.cpu, trail.copy), {})
        branch = branches.setdefault(asked, _Branch(*asked))
        words = memoryview(b"".join([data for _, data in trail.copy.runs])).cast("Q")
        branch.chains[branch.read(trail.cpu, words)] = chain
        self._count += 1

    def _drop(self, changes: int) -> None:
        self._changes, self._count = changes, 0
        self._known.clear()


class _Branch(Generic[Chain]):
    # Unwindings that read the same registers and places, by what they found there.

    def __init__(self, registers: tuple[int, ...], indices: tuple[int, ...]) -> None:
        self._registers = registers
        self._read: Callable[[Any], Any] = itemgetter(*indices)
        self.chains: dict[Any, Chain] = {}

    def read(self, cpu: CpuState, words: Any) -> tuple[Any, ...]:
        return tuple([cpu.gpr[number] for number in self._registers]), self._read(words)


def _key(cpu: CpuState, copy: StackCopy) -> _Key:
    places = tuple([(start, len(data)) for start, data in copy.runs if data])
    return cpu.rip, places
