"""The page tables of every process, from a list of tasks made by hand."""

from __future__ import annotations

import struct

import pytest
from btf_sample import BtfWriter

from tracer.linux.btf import Btf, parse_btf
from tracer.linux.processes import root_tables

INIT = 0x1000
TASKS, MM, SIGNAL, NODE, HEAD, PGD = 0x10, 0x20, 0x28, 0x30, 0x8, 0x18


@pytest.fixture
def types() -> Btf:
    btf = BtfWriter()
    pointer = btf.pointer()
    both = btf.structure("list_head", 16, ("next", pointer, 0), ("prev", pointer, 8))
    btf.structure("mm_struct", 64, ("pgd", pointer, PGD))
    btf.structure("signal_struct", 64, ("thread_head", both, HEAD))
    btf.structure(
        "task_struct", 128, ("tasks", both, TASKS), ("mm", pointer, MM),
        ("signal", pointer, SIGNAL), ("thread_node", both, NODE),
    )  # fmt: skip
    return parse_btf(btf.blob())


class Tasks:
    """Memory with lists of processes, each a list of threads with their ``mm``."""

    def __init__(self, *processes: list[int]) -> None:
        self.words: dict[int, int] = {}
        leaders = [INIT + 0x1000 * n for n in range(len(processes))]
        self._ring(INIT + TASKS, [leader + TASKS for leader in leaders[1:]])
        for leader, memories in zip(leaders, processes, strict=True):
            signal = leader + 0x800
            threads = [leader + 0x100 * n for n in range(len(memories))]
            self._ring(signal + HEAD, [thread + NODE for thread in threads])
            self.words[leader + SIGNAL] = signal
            for thread, memory in zip(threads, memories, strict=True):
                self.words[thread + MM] = memory
                self.words[memory + PGD] = memory + 0xF000

    def _ring(self, head: int, elements: list[int]) -> None:
        circle = [head, *elements]
        for element, after in zip(circle, [*elements, head], strict=True):
            self.words[element] = after

    def read(self, linear: int, size: int) -> bytes:
        if linear not in self.words:
            raise LookupError(hex(linear))
        return struct.pack("<Q", self.words[linear])[:size]


def test_each_table_once_and_kernel_threads_have_none(types: Btf) -> None:
    # Two programs that share their memory, a kernel thread, and one whose first thread has ended.
    tasks = Tasks([0], [0xA0_0000], [0xA0_0000, 0xA0_0000], [0], [0, 0xB0_0000])
    assert list(root_tables(tasks.read, types, INIT)) == [0xA0_F000, 0xB0_F000]


def test_a_list_without_an_end_is_damaged(types: Btf) -> None:
    tasks = Tasks([0], [0xA0_0000], [0xB0_0000])
    tasks.words[INIT + 0x2000 + TASKS] = INIT + 0x1000 + TASKS
    with pytest.raises(LookupError, match="no end"):
        list(root_tables(tasks.read, types, INIT))


def test_a_hole_in_memory_and_unknown_types(types: Btf) -> None:
    tasks = Tasks([0], [0xA0_0000])
    del tasks.words[0xA0_0000 + PGD]
    with pytest.raises(LookupError):
        list(root_tables(tasks.read, types, INIT))
    with pytest.raises(LookupError, match="task_struct has no member tasks"):
        list(root_tables(tasks.read, parse_btf(BtfWriter().blob()), INIT))
