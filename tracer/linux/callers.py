"""Who made an access: the kernel's call chain, and the phase of the boot that it tells.

Ref: Linux init/main.c (do_one_initcall, which calls each initcall and each module's init function;
kernel_init, which sets system_state to SYSTEM_RUNNING just before it runs init), kernel/workqueue.c
(worker_thread, process_scheduled_works, process_one_work), kernel/async.c (async_run_entry_fn),
kernel/irq/manage.c (irq_thread_fn, irq_forced_thread_fn), kernel/kthread.c (kthread).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from tracer.access.space import AddressSpace
from tracer.access.stack import Frame, Stack, frame_symbol
from tracer.access.symbols import KERNEL_HALF
from tracer.compiled.diary import STARTED, Errand
from tracer.compiled.stack_copy import StackCopy
from tracer.linux.chains import Chains, Trail
from tracer.linux.errands import ASYNC, INITCALL, IRQ_THREAD, SORTS, THREAD, WORK
from tracer.linux.names import Names
from tracer.linux.orc import Read
from tracer.linux.stacks import Stacks
from tracer.linux.wrapper import NO_BACKS, Backs
from tracer.trace.marker import PHASE
from tracer.trace.phase import KERNEL, USER
from tracer.trace.record import BY_FRAME_POINTERS, Mark, StackFrame, StackRecord
from tracer.x86.state import CpuState, Mode

_CALLERS = {
    "do_one_initcall": INITCALL,
    "process_one_work": WORK,
    "process_scheduled_works": WORK,
    "worker_thread": WORK,
    "async_run_entry_fn": ASYNC,
    "irq_thread_fn": IRQ_THREAD,
    "irq_forced_thread_fn": IRQ_THREAD,
    "kthread": THREAD,
}
"""What the function is that one of these calls: the innermost tells. Compilers may leave some out
of a chain, so that the one around calls."""

Name = Callable[[int], str | None]
"""Names a linear address."""

_STATE = (1 << 32) - 1  # an enum

ON_BEHALF = SORTS
"""The beginning of a phase's name, before that of the function."""


@dataclass(frozen=True, slots=True)
class _Chain:
    # On whose behalf a chain is, and the number that it has, where it is wanted.
    task: tuple[str, str] | None
    number: int | None


class Callers:
    """Follow one guest. What is new goes to ``publish`` before the access's own record.

    With ``stacks`` each distinct call chain is published once. ``backs`` are as in
    :class:`~tracer.linux.stacks.Stacks`.
    """

    def __init__(
        self,
        names: Names,
        publish: Callable[[Mark | StackRecord], None],
        *,
        stacks: bool,
        backs: Backs = NO_BACKS,
    ) -> None:
        self._names = names
        self._publisher = publish
        self._wanted = stacks
        self._stacks = Stacks(names, backs)
        self._ids: dict[tuple[tuple[Frame, ...], tuple[str | None, ...]], int] = {}
        self._chains: Chains[_Chain] = Chains()
        self._before: Callable[[], None] | None = None
        self._phase: str | None = None
        self._reached = KERNEL  # how far the boot had got, whatever threads did beside it
        types = names.types()
        self._state = names.kernel.address_of("system_state")
        self._running = None if types is None else types.enumerators.get("SYSTEM_RUNNING")

    def remark(self, space: AddressSpace) -> str | None:
        """Say in words what is worse about the call chains than ORC tables make them, or None."""
        missing = self._stacks.missing(space)
        if missing is not None:
            return f"no stacks are recorded: {missing}"
        if self._stacks.no_tables is None:
            return None
        return f"stacks are {BY_FRAME_POINTERS}, and may lack a caller: {self._stacks.no_tables}"

    @property
    def state(self) -> int:
        """Return the linear address of what tells how far the boot has got; 0 for nothing."""
        return self._state or 0

    @property
    def stack_end(self) -> int:
        """Return the linear address behind the first thread's stack, where no gap is; 0: unknown.

        Other stacks end at a page that is not there (Linux: CONFIG_VMAP_STACK); this one lies among
        the kernel's data (include/asm-generic/vmlinux.lds.h, INIT_TASK_DATA).
        """
        found = map(self._names.kernel.address_of, ("__end_init_task", "__end_init_stack"))
        return next(filter(None, found), 0)

    def note(
        self,
        cpu: CpuState,
        space: AddressSpace,
        time_ns: int,
        copy: StackCopy | None = None,
        before: Callable[[], None] | None = None,
    ) -> int | None:
        """Take the state in which an access was made; return the number of its stack, if any.

        ``copy`` is the stack as it was then, with what was at :attr:`state`. ``before`` is called
        before anything is published.
        """
        self._before = before
        running = self._is_running(space) if copy is None else self._tells_running(copy.state)
        if self._phase != USER and (cpu.cpl == 3 or running):
            self._enter(USER, time_ns)
        in_kernel = cpu.cpl == 0 and cpu.mode is Mode.LONG and cpu.rip >= KERNEL_HALF
        if not in_kernel or (not self._wanted and self._phase == USER):
            return None
        if self._stacks.missing(space) is not None:
            return None
        if copy is None:
            return self._unwound(cpu, space, time_ns, None).number
        changes = self._names.follow(space)
        chain = self._chains.find(changes, cpu, copy)
        if chain is not None:
            if self._phase != USER:
                self._follow(chain.task, time_ns)
            return chain.number
        trail = Trail(cpu, copy)
        chain = self._unwound(replace(cpu, gpr=trail.gpr), space, time_ns, trail.read)
        # Frame pointers are followed while they lead to code that has a name, which may be gone.
        if self._stacks.no_tables is None and self._names.follow(space) == changes:
            self._chains.keep(changes, trail, chain)
        return chain.number

    def _unwound(
        self, cpu: CpuState, space: AddressSpace, time_ns: int, read: Read | None
    ) -> _Chain:
        # Unwinds a stack, that of the guest's own memory unless it is read otherwise.
        stack = self._stacks.unwind(cpu, space, read)

        def name(linear: int) -> str | None:
            return self._names.lookup(linear, space, late=read is not None)

        task = None
        if self._phase != USER:
            task = _task(stack, name)
            self._follow(task, time_ns)
        return _Chain(task, self._number(_own(stack), name, time_ns) if self._wanted else None)

    def _publish(self, record: Mark | StackRecord) -> None:
        if self._before is not None:
            self._before()
        self._publisher(record)

    @property
    def started(self) -> bool:
        """Tell whether the boot has come to its last phase."""
        return self._phase == USER

    def note_errand(self, errand: Errand | None, space: AddressSpace, time_ns: int) -> None:
        """Take the errand on which an access was made a moment ago, None for beside all."""
        self._before = None
        if self._phase == USER:
            return
        if errand == STARTED:
            self._enter(USER, time_ns)
            return
        task = None
        if errand is not None and errand.sort in range(len(SORTS)):
            name = self._names.lookup(errand.function, space, late=True)
            task = None if name is None else (SORTS[errand.sort], _function(name))
        self._follow(task, time_ns)

    def unwind(self, cpu: CpuState, space: AddressSpace) -> Stack:
        """Return the functions under way in this state, outermost last."""
        return self._stacks.unwind(cpu, space)

    def _is_running(self, space: AddressSpace) -> bool:
        if self._state is None:
            return False
        return self._tells_running(int.from_bytes(space.read(self._state, 4), "little"))

    def _tells_running(self, state: int) -> bool:
        return bool(self._state) and state & _STATE == self._running

    # A thread beside the initcalls has a phase of its own, which ends with its access.
    def _follow(self, task: tuple[str, str] | None, time_ns: int) -> None:
        kind, name = task or ("", "")
        if kind == INITCALL:
            self._reached = f"{kind} {name}"
        if task is not None:
            self._enter(f"{kind} {name}", time_ns)
        elif self._phase is not None:
            self._enter(self._reached, time_ns)

    def _enter(self, phase: str, time_ns: int) -> None:
        if phase != self._phase:
            self._phase = phase
            self._publish(Mark(time_ns=time_ns, text=PHASE + phase))

    def _number(self, stack: Stack, name: Name, time_ns: int) -> int:
        # The same addresses may be those of another module by now.
        symbols = tuple([frame_symbol(frame, name) for frame in stack.frames])
        number = self._ids.get((stack.frames, symbols))
        if number is None:
            number = self._ids[stack.frames, symbols] = len(self._ids)
            frames = [
                StackFrame(rip=frame.rip, symbol=symbol)
                for frame, symbol in zip(stack.frames, symbols, strict=True)
            ]
            by = None if self._stacks.no_tables is None else BY_FRAME_POINTERS
            record = StackRecord(time_ns=time_ns, id=number, frames=frames, lost=stack.lost, by=by)
            self._publish(record)
        return number


def _task(stack: Stack, name: Name) -> tuple[str, str] | None:
    # On whose behalf, in a word, and the function that was called for it; also beneath an
    # interrupt.
    called = ""
    for frame in stack.frames:
        function = _function(name(frame.place) or "")
        if frame.errand is not None and function in _CALLERS:
            called = _function(name(frame.errand) or "") or called
        if called and function in _CALLERS:
            return _CALLERS[function], called
        called = function
    return None


def _function(symbol: str) -> str:
    # Link-time optimisation puts a suffix behind a name.
    return re.split(r"[+.]", symbol)[0]


def _own(stack: Stack) -> Stack:
    # An interrupt's stack ends at its entry: what it interrupted is not its caller, and is
    # somewhere else each time.
    for index, frame in enumerate(stack.frames[1:], 1):
        if frame.interrupted:
            return Stack(stack.frames[:index])
    return stack
