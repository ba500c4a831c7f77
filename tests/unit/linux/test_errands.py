"""Code is put where threads begin an errand, so that they tell of it; or it cannot be."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import pytest
from btf_sample import BtfWriter
from playbook import play
from ram import PAGING, Ram

from tracer.access.region import RegionMap
from tracer.access.space import AddressSpace
from tracer.access.symbols import Symbol, table_of
from tracer.access.want import WriteCode, WritePhysical
from tracer.compiled.diary import What
from tracer.linux.btf import parse_btf
from tracer.linux.errands import SORTS, Errands
from tracer.linux.names import Names
from tracer.linux.wrapper import NOP, call
from tracer.linux.wrappers import Wrappers

BASE = 0xFFFF_FFFF_8100_0000  # linear, at physical 0
PADDING, SIZE = BASE + 0x2000, 0x4000
BLOCK = 0xFFFF_FFEE_9000_0000
FUNCTIONS = (
    "do_one_initcall", "process_one_work", "async_run_entry_fn", "irq_thread_fn",
    "irq_forced_thread_fn", "kthread", "do_exit", "rcu_end_inkernel_boot",
)  # fmt: skip
PLACES = {name: BASE + 0x100 * number for number, name in enumerate(FUNCTIONS, 1)}
PER_CPU = {"__per_cpu_offset": BASE + 0x3000, "current_task": 0x1FB80}


def types(*, without: str = "") -> Any:
    btf = BtfWriter()
    word = btf.integer("unsigned long", 8)
    members = {
        "work_struct": (("data", 0), ("func", 24)),
        "async_entry": (("work", 32), ("func", 72)),
        "irqaction": (("handler", 0), ("thread_fn", 32)),
        "kthread_create_info": (("full_name", 0), ("threadfn", 8)),
    }
    for name, found in members.items():
        if name != without:
            btf.structure(name, 0x80, *((member, word, at) for member, at in found))
    return parse_btf(btf.blob())


class Kernel:
    """A kernel each of whose functions has a site for ftrace, and what was written to it."""

    def __init__(
        self, *without: str, types: Any = None, symbols: dict[str, int] = PER_CPU, site: str = ""
    ) -> None:
        ram = self.ram = Ram()
        for page in range(0, SIZE, 0x1000):
            ram.map(BASE + page, page)
        ram.write(0, b"\x90" * 0x2000)
        ram.write(PADDING - BASE, b"\xcc" * 0x1000)
        for name, at in PLACES.items():
            ram.write(at - BASE, NOP if name != site else b"\x55" * 5)
        named = {n: at for n, at in {**PLACES, **symbols}.items() if n not in without}
        named |= {"_text": BASE, "__entry_text_end": PADDING - 8, "_end": BASE + SIZE}
        table = table_of(Symbol(at, "T", name) for name, at in named.items())
        image: Any = SimpleNamespace(symbols=table, types=lambda: types)
        names = Names(image)
        space = AddressSpace(ram, PAGING, RegionMap((), (), ()))
        self.wrappers = Wrappers(table, space)
        self.errands = Errands(names)
        self.written: dict[int, bytes] = {}

    def plant(self, block: int | None = BLOCK) -> Errands:
        work = self.errands.plant(self.wrappers, block, smp=False)
        try:
            while True:
                wanted: Any = work.send(None)
                assert isinstance(wanted, WriteCode)
                self.written[wanted.linear] = wanted.code
        except StopIteration:
            return self.errands

    def code_of(self, name: str) -> bytes:
        """The code that a function is made to call."""
        site = self.written[PLACES[name]]
        (distance,) = struct.unpack("<i", site[1:])
        return self.written[PLACES[name] + 5 + distance]


def test_every_function_tells_the_diary() -> None:
    kernel = Kernel(types=types())
    errands = kernel.plant()
    assert errands.current is not None and errands.current.place == 0x1FB81
    assert BASE in errands.current.code and 0xFFFF_FFFE_FFFF_FFFF not in errands.current.code
    tells = errands.telling.start
    assert tells == PADDING and struct.pack("<Q", BLOCK)[3:] in kernel.written[tells]
    assert PLACES.keys() == {n for n in PLACES if PLACES[n] in kernel.written}
    backs = kernel.wrappers.backs
    assert all(PADDING <= back < PADDING + 0x1000 for back in backs)
    assert len(backs) == 5


@pytest.mark.parametrize(
    ("name", "push", "what", "sort"),
    [
        ("do_one_initcall", "57", What.BEGIN, "initcall"),
        ("process_one_work", "ffb618000000", What.BEGIN, "work"),
        ("async_run_entry_fn", "ffb728000000", What.BEGIN, "async"),
        ("irq_thread_fn", "ffb620000000", What.BEGIN, "irq thread"),
        ("irq_forced_thread_fn", "ffb620000000", What.BEGIN, "irq thread"),
        ("kthread", "ffb708000000", What.FOR_GOOD, "thread"),
        ("do_exit", "6a00", What.EXIT, "initcall"),
        ("rcu_end_inkernel_boot", "6a00", What.RUNNING, "initcall"),
    ],
)
def test_the_function_of_an_errand_is_where_the_types_say(
    name: str, push: str, what: What, sort: str
) -> None:
    kernel = Kernel(types=types())
    kernel.plant()
    told = b"\x41\xbb" + struct.pack("<HH", what, SORTS.index(sort))
    assert kernel.code_of(name).startswith(bytes.fromhex(push) + told)


def test_a_later_kernel_has_its_thread_elsewhere() -> None:
    symbols = {"__per_cpu_offset": BASE + 0x3000, "pcpu_hot": 0x2_1000}
    current = Kernel(types=types(), symbols=symbols).plant().current
    assert current is not None and current.place == 0x2_1001


def test_a_function_that_the_kernel_lacks_is_not_missed() -> None:
    kernel = Kernel("irq_forced_thread_fn", "async_run_entry_fn", types=types())
    assert kernel.plant().current is not None and len(kernel.wrappers.backs) == 3


@pytest.mark.parametrize(
    ("without", "how"),
    [
        ((), {"site": "process_one_work"}),
        ((), {"site": "irq_thread_fn"}),
        ((), {"site": "do_exit"}),
        (("process_one_work",), {}),
        (("kthread",), {}),
        (("rcu_end_inkernel_boot",), {}),
        (("__per_cpu_offset",), {}),
        (("current_task",), {}),
        ((), {"types": types(without="work_struct")}),
        ((), {"types": types(without="irqaction")}),
        ((), {"types": None}),
    ],
)
def test_nothing_is_told_where_something_would_be_missed(
    without: tuple[str, ...], how: dict[str, Any]
) -> None:
    kernel = Kernel(*without, **{"types": types(), **how})
    errands = kernel.plant()
    assert errands.current is None and not errands.telling
    # The stack is asked all the same.
    assert PLACES["do_one_initcall"] in kernel.written and kernel.wrappers.backs
    assert PLACES["do_exit"] not in kernel.written and PLACES["kthread"] not in kernel.written


def test_without_a_diary_the_stack_alone_tells() -> None:
    kernel = Kernel(types=types())
    errands = kernel.plant(None)
    assert errands.current is None and len(kernel.wrappers.backs) == 5
    assert kernel.code_of("process_one_work").startswith(bytes.fromhex("ffb618000000 4c8b5c2408"))


def test_a_detach_gives_the_functions_back_and_cuts_the_diary_off() -> None:
    kernel = Kernel(types=types())
    kernel.plant()
    for at, code in kernel.written.items():
        kernel.ram.write(at - BASE, code)
    space = AddressSpace(kernel.ram, PAGING, RegionMap((), (), ()))
    told: list[tuple[int, bytes]] = []

    def take(wanted: Any) -> None:
        told.append((BASE + wanted.physical, wanted.value.to_bytes(wanted.width, "little")))

    writes = [(WritePhysical, take)] * 9
    play(kernel.wrappers.remove(space), *writes)
    assert told[:8] == [(PLACES[name], NOP) for name in PLACES]
    assert told[8][0] == PADDING + 2 and told[8][1][:1] == b"\xeb"


def test_in_a_monitor_a_thread_leaves_to_tell() -> None:
    kernel = Kernel(types=types())
    work = kernel.errands.plant_leaving(kernel.wrappers)
    try:
        while True:
            wanted: Any = work.send(None)
            kernel.written[wanted.linear] = wanted.code
    except StopIteration as done:
        assert done.value == PADDING
    assert kernel.written[PADDING] == bytes.fromhex("0f01d9 c3")  # vmmcall; ret
    assert kernel.errands.current is not None
    told = kernel.code_of("process_one_work")
    assert told.count(b"\xe8") >= 3  # begin, the function, end


@pytest.mark.parametrize("without", ["do_exit", "__per_cpu_offset"])
def test_in_a_monitor_nothing_is_changed_where_not_all_can_be_told(without: str) -> None:
    kernel = Kernel(without, types=types())
    with pytest.raises(StopIteration) as done:
        kernel.errands.plant_leaving(kernel.wrappers).send(None)
    assert done.value.value == 0 and kernel.errands.current is None


def test_a_kernel_before_ftrace_has_its_calls() -> None:
    kernel = Kernel(types=types(), symbols={**PER_CPU, "__fentry__": BASE + 0x1F00})
    site = PLACES["do_exit"]
    kernel.ram.write(site - BASE, call(site, BASE + 0x1F00))
    assert kernel.plant().current is not None
