"""By what functions a thread of Linux is sent on an errand, and the code around them.

Ref: Linux init/main.c (do_one_initcall, which calls each initcall and each module's init function;
kernel_init, which calls rcu_end_inkernel_boot when it has set SYSTEM_RUNNING), kernel/workqueue.c
(process_one_work), kernel/async.c (async_run_entry_fn), kernel/irq/manage.c (irq_thread_fn,
irq_forced_thread_fn), kernel/kthread.c (kthread), kernel/exit.c (do_exit); arch/x86/include/asm/
current.h (current_task is per CPU, by GS; in Linux 6.2 to 6.14 at the start of pcpu_hot).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from tracer.compiled.diary import Current, What
from tracer.linux.btf import Btf
from tracer.linux.errand_code import Code, Subject, around, before, leaving, teller
from tracer.linux.names import Names
from tracer.linux.wrappers import Wrappers

INITCALL, WORK, ASYNC, IRQ_THREAD, THREAD = "initcall", "work", "async", "irq thread", "thread"
SORTS = (INITCALL, WORK, ASYNC, IRQ_THREAD, THREAD)

_KERNEL = range(0xFFFF_FFFF_8000_0000, 1 << 64)
"""Linear addresses of the kernel's code and its modules' (Linux Documentation/arch/x86/x86_64/
mm.rst). Firmware's is below, and may have a GS of its own."""


@dataclass(frozen=True, slots=True)
class _Sent:
    # A function that calls the one of an errand, which is in a register, or a member of what it
    # leads to: of ``structure``, counted from its member ``start``.
    sort: str
    register: Literal["rdi", "rsi"]
    structure: str = ""
    member: str = ""
    start: str = ""


_SENT = {
    "do_one_initcall": _Sent(INITCALL, "rdi"),
    "process_one_work": _Sent(WORK, "rsi", "work_struct", "func"),
    "async_run_entry_fn": _Sent(ASYNC, "rdi", "async_entry", "func", "work"),
    "irq_thread_fn": _Sent(IRQ_THREAD, "rsi", "irqaction", "thread_fn"),
    "irq_forced_thread_fn": _Sent(IRQ_THREAD, "rsi", "irqaction", "thread_fn"),
    "kthread": _Sent(THREAD, "rdi", "kthread_create_info", "threadfn"),
}
_FOR_GOOD = {"kthread"}
_NEEDED = {"do_one_initcall", "process_one_work", "kthread"}
_MOMENTS = {"do_exit": What.EXIT, "rcu_end_inkernel_boot": What.RUNNING}


class Errands:
    """Own the code around these functions, in one guest.

    ``current`` says where rows have their thread from, once the diary is told everything.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._tells: Code | None = None
        self.current: Current | None = None

    @property
    def telling(self) -> range:
        """Return the linear addresses of the code that writes to the diary."""
        return range(0) if self._tells is None else self._tells.span

    async def plant(self, wrappers: Wrappers, block: int | None, *, smp: bool) -> None:
        """Put the code in place; with a ``block`` at a linear address its diary is told.

        Where not every function can be watched the diary is told nothing, and ``current`` stays
        None.
        """

        def write(base: int, thread: int) -> Code:
            assert block is not None
            return teller(base, block, thread, smp=smp)

        await self._plant(wrappers, None if block is None else write)

    async def plant_leaving(self, wrappers: Wrappers) -> int:
        """Put code in place that leaves for a monitor, which tells the diary.

        Return the linear address at which it leaves, 0 where nothing is told.
        """
        if self._place() is None or not self._is_whole(_subjects(self._names.types()), wrappers):
            return 0
        await self._plant(wrappers, lambda base, _: leaving(base))
        return 0 if self._tells is None or self.current is None else self._tells.base

    async def _plant(self, wrappers: Wrappers, write: Callable[[int, int], Code] | None) -> None:
        subjects = _subjects(self._names.types())
        place = self._place()
        tells = None
        if write is not None and place is not None and self._is_whole(subjects, wrappers):
            told, thread = write, place
            self._tells = await wrappers.put(lambda base: told(base, thread))
            tells = None if self._tells is None else self._tells.base
        there = [name for name in subjects if self._names.kernel.address_of(name) is not None]
        planted = [await self._around(name, subjects, wrappers, tells) for name in there]
        if tells is None or place is None:
            return
        moments = [await self._moment(name, wrappers, tells) for name in _MOMENTS]
        if all(moments) and all(planted):
            self.current = Current(place, _KERNEL)

    def _is_whole(self, subjects: Mapping[str, Subject], wrappers: Wrappers) -> bool:
        # Tells whether every function that there is can have code around it.
        found = {name: self._names.kernel.address_of(name) for name in (*_SENT, *_MOMENTS)}
        there = {name for name, address in found.items() if address is not None}
        sites = all(wrappers.has_site(found[name] or 0) for name in there)
        return sites and {*_NEEDED, *_MOMENTS} <= there and there <= {*subjects, *_MOMENTS}

    async def _around(
        self,
        name: str,
        subjects: Mapping[str, Subject],
        wrappers: Wrappers,
        tells: int | None,
    ) -> Code | None:
        address, subject, sort = self._address(name), subjects[name], SORTS.index(_SENT[name].sort)
        if name not in _FOR_GOOD:
            return await wrappers.plant(address, lambda base: around(base, subject, sort, tells))
        if tells is None:
            return None
        return await wrappers.plant(
            address, lambda base: before(base, subject, What.FOR_GOOD, sort, tells)
        )

    async def _moment(self, name: str, wrappers: Wrappers, tells: int) -> Code | None:
        what = _MOMENTS[name]
        return await wrappers.plant(
            self._address(name), lambda base: before(base, None, what, 0, tells)
        )

    def _address(self, name: str) -> int:
        address = self._names.kernel.address_of(name)
        assert address is not None  # it is asked for one that is there
        return address

    def _place(self) -> int | None:
        # Bits 8 to 39 of the address of the current thread: two that are alike there are 1 TiB of
        # linear addresses apart. A kernel for one CPU has nothing by GS.
        kernel = self._names.kernel
        if kernel.address_of("__per_cpu_offset") is None:
            return None
        for name in ("current_task", "pcpu_hot"):
            place = kernel.address_of(name)
            if place is not None:
                return place + 1
        return None


def _subjects(types: Btf | None) -> dict[str, Subject]:
    # The function of an errand is where the kernel's types say, as far as they tell.
    found = {}
    for name, sent in _SENT.items():
        if not sent.structure:
            found[name] = Subject(sent.register)
            continue
        if types is None:
            continue
        member = types.member(sent.structure, sent.member)
        start = types.member(sent.structure, sent.start) if sent.start else None
        if member is not None and (start is not None or not sent.start):
            offset = member.offset - (start.offset if start is not None else 0)
            found[name] = Subject(sent.register, offset)
    return found
