"""The page tables of every process, found in the guest's memory.

Ref: Linux include/linux/sched.h (task_struct: tasks, mm, signal, thread_node),
include/linux/sched/signal.h (signal_struct: thread_head), include/linux/mm_types.h (mm_struct:
pgd).
"""

from __future__ import annotations

from collections.abc import Iterator

from tracer.linux.btf import Btf
from tracer.linux.modules import Read

FIRST = "init_task"
"""Symbol of the first task of the kernel's list."""

_MAX_TASKS = 1 << 16
"""Tasks and threads that are looked at in all: what bounds what a damaged list can make us read."""


def root_tables(read: Read, types: Btf, first: int) -> Iterator[int]:
    """Yield the linear address of each process's topmost page table, each once.

    ``first`` is the linear address of :data:`FIRST`. A process whose first thread has ended is
    found by its others. Raises LookupError when the guest's memory does not have what it should,
    or the types do not describe it.
    """
    offsets = {}
    for structure, member in (
        ("task_struct", "tasks"),
        ("task_struct", "mm"),
        ("task_struct", "signal"),
        ("task_struct", "thread_node"),
        ("signal_struct", "thread_head"),
        ("mm_struct", "pgd"),
    ):
        found = types.member(structure, member)
        if found is None:
            raise LookupError(f"struct {structure} has no member {member}")
        offsets[member] = found.offset

    def pointer(linear: int) -> int:
        return int.from_bytes(read(linear, 8), "little")

    def listed(head: int) -> Iterator[int]:
        # The other elements of a circular list.
        element = pointer(head)
        while element != head:
            if next(left, None) is None:
                raise LookupError(f"the list at linear {head:#x} has no end")
            yield element
            element = pointer(element)

    left = iter(range(_MAX_TASKS))
    seen = {0}
    for element in listed(first + offsets["tasks"]):
        signal = pointer(element - offsets["tasks"] + offsets["signal"])
        for thread in listed(signal + offsets["thread_head"]):
            memory = pointer(thread - offsets["thread_node"] + offsets["mm"])
            if memory not in seen:
                seen.add(memory)
                yield pointer(memory + offsets["pgd"])
            if memory:
                break
