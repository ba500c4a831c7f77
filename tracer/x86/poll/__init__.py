"""The loop around a read of a device: what bits of it are awaited, and what else ends the loop.

The code is read, not run. A read may stand in a function that returns what was read, in a register
or through a pointer: then the loop is one of its callers'. A loop is found where the code behind
the read leads back to it; each way out of it tells by its last condition whether it is what was
awaited or a way to give up. What was read is awaited as all conditions before that one want it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tracer.x86.disassembler import Step, step
from tracer.x86.poll.condition import Open, Way
from tracer.x86.poll.conjunction import Conjunction, conjunction, joined, simplified
from tracer.x86.poll.effect import after
from tracer.x86.poll.state import Memory, Name, State, entered
from tracer.x86.poll.value import Number
from tracer.x86.state import MAX_INSTRUCTION, Mode

__all__ = ("Exit", "Loop", "Way", "loop_of")

_MOST_CODE = 3000
"""Instructions of one function that are looked at."""

_MOST_STEPS = 30_000
_MOST_PATHS = 400
_MOST_FRAMES = 6
_MOST_RETURNS = 8

_ENDS = frozenset(
    ("ud2", "ud1", "ud0", "hlt", "int3", "iretq", "iretd", "iret", "sysretq", "sysexit")
)


@dataclass(frozen=True, slots=True)
class Exit:
    """Hold a way out of a loop, by the jump at a linear address.

    It is taken where what was read is as ``way`` says, or by what ``said`` tells, in words.
    """

    linear: int
    way: Way | None = None
    said: str = ""


@dataclass(frozen=True, slots=True)
class Loop:
    """Hold the loop around a read: where it begins, and how it ends.

    ``head`` is the linear address of the read, or of the call that leads to it; ``frames`` tells
    how many functions below the loop's the read is.
    """

    head: int
    frames: int
    awaited: tuple[Exit, ...]
    gives_up: tuple[Exit, ...]


@dataclass(frozen=True, slots=True)
class _Path:
    # One course of the code: why it ended, where, and the conditions on the way.

    state: State
    end: str
    taken: tuple[Exit, ...]


def loop_of(
    rip: int, gpr: Sequence[int], device: int, memory: Memory, name: Name, mode: Mode = Mode.LONG
) -> Loop | None:
    """Return the loop around the instruction at a linear address that reads a device, or None.

    ``gpr`` are the registers before it, ``device`` is the linear address that it reads, that of
    the instruction where it reads a port or an MSR.
    """
    walk = _Walk(memory, name, mode)
    first = walk.step(rip)
    if first is None:
        return None
    state = replace(after(first, entered(gpr, memory, name, device, mode)), device=None)
    begun: list[tuple[State, tuple[Exit, ...]]] = [(state, ())]
    start, head = first.end, rip
    for frames in range(_MOST_FRAMES):
        inside = walk.inside(start, head)
        if inside:
            found = _exits(walk, begun, start, head, inside)
            if found is not None:
                return Loop(head, frames, *found)
        returns = [
            path
            for one in begun
            for path in walk.paths(start, *one, head=head, inside=None)
            if path.end == "return"
        ][:_MOST_RETURNS]
        targets = []
        begun = []
        for path in returns:
            back, state = path.state.popped()
            if isinstance(back, Number):
                targets.append(back.value)
                begun.append((state, path.taken))
        if not targets or len(set(targets)) != 1:
            return None
        start = targets[0]
        call = walk.call_before(start)
        if call is None:
            return None
        head = call
    return None


def _exits(
    walk: _Walk,
    begun: Sequence[tuple[State, tuple[Exit, ...]]],
    start: int,
    head: int,
    inside: frozenset[int],
) -> tuple[tuple[Exit, ...], tuple[Exit, ...]] | None:
    # Returns what is awaited, and where the loop gives up; None where the read has no part in it.
    lasts: list[Exit] = []
    whole: list[Conjunction] = []
    gives_up: dict[int, Exit] = {}
    for one in begun:
        for path in walk.paths(start, *one, head=head, inside=inside):
            if path.end != "out" or not path.taken:
                continue
            last = path.taken[-1]
            if last.way is not None:
                lasts.append(last)
                whole.append(
                    conjunction(each.way for each in path.taken)
                    if last.way.mask
                    else conjunction([])
                )
            else:
                gives_up.setdefault(last.linear, last)
    if not lasts:
        return None
    awaited: dict[Way | None, Exit] = {}
    for last, ways in zip(lasts, simplified(whole), strict=True):
        way = joined(ways) or last.way
        awaited.setdefault(way, replace(last, way=way))
    return tuple(awaited.values()), tuple(gives_up.values())


class _Walk:
    # Follows code; what it has read of it is kept.

    def __init__(self, memory: Memory, name: Name, mode: Mode) -> None:
        self._memory = memory
        self._mode = mode
        self._name = name
        self._steps: dict[int, Step | None] = {}
        self._functions: dict[int, str] = {}
        self._left = _MOST_STEPS

    def step(self, linear: int) -> Step | None:
        if linear not in self._steps:
            self._steps[linear] = step(self._memory(linear, MAX_INSTRUCTION), linear, self._mode)
        return self._steps[linear]

    def _function(self, linear: int) -> str:
        # The function that an address is in; what the compiler has put elsewhere is part of it.
        if linear not in self._functions:
            told = self._name(linear) or ""
            self._functions[linear] = told.partition("+")[0].partition(".")[0]
        return self._functions[linear]

    def call_before(self, linear: int) -> int | None:
        # The call that returns to a linear address: the usual one of 5 bytes, or by a register.
        for length in (5, 2, 3, 6, 7, 4):
            found = step(self._memory(linear - length, length), linear - length, self._mode)
            if found is not None and found.length == length and _is_call(found):
                return linear - length
        return None

    def inside(self, start: int, head: int) -> frozenset[int]:
        # The instructions from which the code can come to the head again, within the function.
        comes_from: dict[int, list[int]] = {}
        function = self._function(start)
        seen, waiting = {start}, deque([start])
        while waiting and len(seen) < _MOST_CODE:
            at = waiting.popleft()
            if at == head:
                continue
            found = self.step(at)
            for target in () if found is None else _next(found):
                if self._function(target) != function:
                    continue  # the end of one that does not return, or a call that is a jump
                comes_from.setdefault(target, []).append(at)
                if target not in seen:
                    seen.add(target)
                    waiting.append(target)
        if head not in seen:
            return frozenset()
        reached, waiting = {head}, deque([head])
        while waiting:
            for before in comes_from.get(waiting.popleft(), ()):
                if before not in reached:
                    reached.add(before)
                    waiting.append(before)
        return frozenset(reached)

    def paths(
        self,
        start: int,
        state: State,
        taken: tuple[Exit, ...],
        *,
        head: int,
        inside: frozenset[int] | None,
    ) -> Iterator[_Path]:
        # Yields each course of the code from a place on, up to the head, or where it leaves.
        waiting = [(start, state, taken, frozenset[int]())]
        told = 0
        while waiting and told < _MOST_PATHS and self._left > 0:
            at, state, taken, seen = waiting.pop()
            while True:
                self._left -= 1
                found = self.step(at)
                end = self._end(at, found, head, inside, seen)
                if self._left <= 0 or end is not None:
                    told += 1
                    yield _Path(state, end or "lost", taken)
                    break
                assert found is not None  # or it would have ended
                seen = seen | {at}
                jump = state.decided(found.mnemonic, "j")
                if found.mnemonic.startswith("jmp"):
                    at = found.operands[0].immediate or 0
                elif jump is not None or found.mnemonic.startswith(
                    ("loop", "jrcxz", "jecxz", "jcxz")
                ):
                    to = found.operands[0].immediate or 0
                    if isinstance(jump, bool):
                        at = to if jump else found.end
                        continue
                    way = jump if isinstance(jump, Way) else None
                    said = jump.said if isinstance(jump, Open) else ""
                    other = None if way is None else way.opposite
                    waiting.append((to, state, (*taken, Exit(found.linear, way, said)), seen))
                    taken = (*taken, Exit(found.linear, other, said))
                    at = found.end
                elif _is_call(found):
                    state = state.called(self._called(found))
                    if self._function(found.end) != self._function(at):
                        told += 1
                        yield _Path(state, "lost", taken)  # it does not return
                        break
                    at = found.end
                else:
                    state, at = after(found, state), found.end

    def _end(
        self,
        at: int,
        found: Step | None,
        head: int,
        inside: frozenset[int] | None,
        seen: frozenset[int],
    ) -> str | None:
        if at == head:
            return "again"
        if inside is not None and at not in inside:
            return "out"
        if found is None or at in seen or found.mnemonic in _ENDS:
            return "lost"
        if found.mnemonic.startswith("ret"):
            return "return"
        if found.mnemonic.startswith("jmp") and found.operands[0].immediate is None:
            return "lost"
        return None

    def _called(self, found: Step) -> str:
        target = found.operands[0].immediate
        return "" if target is None else (self._name(target) or "").split("+")[0]


def _is_call(found: Step) -> bool:
    return found.mnemonic.removeprefix("notrack ").startswith("call")


def _next(found: Step) -> tuple[int, ...]:
    # Returns where an instruction may go on, within its function.
    name = found.mnemonic
    if name.startswith("ret") or name in _ENDS:
        return ()
    if name.startswith("jmp"):
        target = found.operands[0].immediate
        return () if target is None else (target,)
    if name.startswith(("j", "loop")):
        return (found.operands[0].immediate or 0, found.end)
    return (found.end,)
