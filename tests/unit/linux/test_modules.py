"""tracer.linux.modules: modules read out of a memory made here, in both layouts of the kernel."""

from __future__ import annotations

import pytest
from btf_sample import BtfWriter
from module_sample import (
    ARCH,
    CODE,
    DATA,
    HEAD,
    KALLSYMS,
    LIST,
    LIVE,
    MEMORY,
    MODULE,
    NAME,
    TABLES,
    UNFORMED,
    Memory,
    one_module,
    types,
)

from tracer.errors import KernelImageError
from tracer.linux.btf import parse_btf
from tracer.linux.modules import Module, loaded_modules, module_layout, newest
from tracer.linux.orc import Table


@pytest.fixture
def memory() -> Memory:
    return one_module()


def only(memory: Memory, layout: str) -> Module:
    (module,) = loaded_modules(memory.read, module_layout(types(layout)), HEAD)
    return module


@pytest.mark.parametrize("layout", ["old", "new"])
def test_module_with_its_symbols(memory: Memory, layout: str) -> None:
    module = only(memory, layout)
    assert module.name == "virtio_net"
    assert (module.base, module.size) == (CODE, 0x100)
    assert module.ranges == (range(CODE, CODE + 0x100), range(DATA, DATA + 0x20))
    code, data = module.symbols
    assert code.lookup(CODE + 0x55) == "probe+0x15 [virtio_net]"
    assert code.lookup(CODE + 0x3F) == "start+0x3f [virtio_net]"
    assert code.lookup(CODE + 0x100) is None
    assert data.lookup(DATA + 9) == "table+0x1 [virtio_net]"
    assert code.address_of("undefined") is None


def test_unwind_table(memory: Memory) -> None:
    assert only(memory, "new").orc is None  # loaded, but its table has not been sorted yet
    memory.numbers(MODULE + ARCH, "<QQQ", 7, TABLES, TABLES + 0x100)
    assert only(memory, "old").orc == Table(TABLES, TABLES + 0x100, 7)
    (module,) = loaded_modules(memory.read, module_layout(types("old", orc=False)), HEAD)
    assert module.orc is None


def test_type_letters_come_from_typetab(memory: Memory) -> None:
    assert [s.kind for table in only(memory, "new").symbols for s in table.symbols] == list("ttd")


def test_freed_init_code_has_no_range(memory: Memory) -> None:
    memory.numbers(MODULE + MEMORY + 24, "<QI", 0, 0)
    assert only(memory, "old").ranges == (range(CODE, CODE + 0x100),)


def test_list_in_order_without_unformed_ones(memory: Memory) -> None:
    second, third = MODULE + 0x1000, MODULE + 0x2000
    memory.numbers(MODULE + LIST, "<Q", second + LIST)
    memory.add_module(second, "half_made", third + LIST, UNFORMED)
    memory.add_module(third, "virtio", HEAD)
    modules = loaded_modules(memory.read, module_layout(types("old")), HEAD)
    assert [module.name for module in modules] == ["virtio_net", "virtio"]


def test_empty_list() -> None:
    memory = Memory()
    memory.numbers(HEAD, "<QQ", HEAD, HEAD)
    assert loaded_modules(memory.read, module_layout(types("new")), HEAD) == []


@pytest.mark.parametrize("following", [0, 0xDEAD000000000100, MODULE + LIST, 0x1000])
def test_list_that_makes_no_sense_ends(memory: Memory, following: int) -> None:
    memory.numbers(MODULE + LIST, "<Q", following)
    assert only(memory, "old").name == "virtio_net"


@pytest.mark.parametrize("kallsyms", [0, 0xFFFFFFFFDEAD0000])
def test_module_whose_symbols_cannot_be_read(memory: Memory, kallsyms: int) -> None:
    memory.numbers(MODULE + KALLSYMS, "<Q", kallsyms)
    module = only(memory, "old")
    assert module.name == "virtio_net"
    assert module.symbols == ()


@pytest.mark.parametrize("count", [0, 0xFFFFFFFF])
def test_absurd_number_of_symbols(memory: Memory, count: int) -> None:
    memory.numbers(TABLES + 0x908, "<I", count)
    assert only(memory, "old").symbols == ()


def test_kernel_without_struct_module() -> None:
    with pytest.raises(KernelImageError, match="no member list in struct module"):
        module_layout(parse_btf(BtfWriter().blob()))


def test_unreadable_head() -> None:
    with pytest.raises(LookupError):
        loaded_modules(Memory().read, module_layout(types("old")), HEAD)


def test_modules_that_have_not_changed_are_not_read_again(memory: Memory) -> None:
    layout = module_layout(types("old"))
    first = loaded_modules(memory.read, layout, HEAD)
    reads: list[int] = []

    def counted(linear: int, size: int) -> bytes:
        reads.append(linear)
        return memory.read(linear, size)

    (again,) = loaded_modules(counted, layout, HEAD, first)
    assert again is first[0]
    assert TABLES not in reads
    memory.numbers(MODULE + MEMORY + 24, "<QI", 0, 0)  # its init code has been freed
    (other,) = loaded_modules(counted, layout, HEAD, first)
    assert other != first[0] and TABLES in reads


@pytest.mark.parametrize("layout", ["old", "new"])
def test_the_newest_module_tells_of_a_change(memory: Memory, layout: str) -> None:
    where = module_layout(types(layout))
    seen = [newest(memory.read, where, HEAD)]
    memory.numbers(MODULE + ARCH, "<QQQ", 7, TABLES, TABLES + 0x100)  # set up
    seen.append(newest(memory.read, where, HEAD))
    memory.numbers(MODULE + MEMORY + 24, "<QI", 0, 0)  # started
    seen.append(newest(memory.read, where, HEAD))
    memory.write(MODULE + NAME, b"virtio_blk")  # replaced
    seen.append(newest(memory.read, where, HEAD))
    memory.add_module(MODULE + 0x1000, "virtio", MODULE + LIST, UNFORMED)  # another one is coming
    memory.numbers(HEAD, "<Q", MODULE + 0x1000 + LIST)
    seen += [newest(memory.read, where, HEAD)] * 2
    memory.numbers(MODULE + 0x1000, "<I", LIVE)
    seen.append(newest(memory.read, where, HEAD))
    assert len(set(seen)) == len(seen) - 1
    memory.numbers(HEAD, "<Q", HEAD)
    assert newest(memory.read, where, HEAD) is None
