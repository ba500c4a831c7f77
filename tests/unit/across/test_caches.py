"""Things that vetrace remembers of a guest, a trace or an instruction, and forgets in time.

Each cache of the language's own is listed with the reason why nothing clears it; each that has to
be cleared has a test that fails when it is not.
"""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import trace_sample as sample
from msgspec.structs import replace

from tracer.access.symbols import Symbol, table_of
from tracer.check.qemu_log import LogEntry
from tracer.check.witness.territory import Territory
from tracer.devices.library import load
from tracer.linux.kernel import Kernel
from tracer.linux.names import Names
from tracer.qemu.dialogue import Dialogue
from tracer.qemu.flat_view import FlatRange
from tracer.trace.name import RegionNames
from tracer.trace.naming import Naming
from tracer.trace.record import MemoryAccess, RegionRecord

TRACER = Path(__file__).parents[3] / "tracer"

# Why what was found once holds for ever, by module and function.
HOLDS = {
    "devices/library built_in": "the maps that are installed with vetrace do not change",
    "devices/library cache(partial(_parse, text, name))": "the text is bound",
    "check/qemu_log _name": "a name follows from its bytes",
    "linux/names _kernel_functions": "KASLR moves the kernel's functions and renames none",
    "linux/names _layout": "the types are those of the image that runs",
    "linux/names _on_disk": "the modules that lie beside the kernel stay as they are for a run",
    "query/breakpoint/state _possible": "a condition follows from its text",
    "query/breakpoint/state calls": "a condition follows from its text",
    "query/condition/naming holds": "all that it depends on is bound or an argument",
    "query/condition/naming lru_cache(_KEPT)": "the same, as it is written there",
    "query/condition/naming lru_cache(_KEPT)(holds)": "all that it depends on is an argument",
    "query/input_flags flags_of": "all that it depends on is an argument",
    "x86/disassembler mnemonics": "the library's names do not change",
    "repl/completion _loose": "it looks at the same context",
    "repl/completion _symbols": "the kernel's names, as in linux/names",
    "trace/wire _form_of_struct": "how a struct is written follows from its type",
    "x86/decode _decode_at": "an instruction follows from its bytes, its address and the mode",
    "x86/decode _decode_known": "an instruction follows from its bytes and the mode",
    "x86/opcode/__init__ rows_of_map": "the maps are those of the manuals",
    "x86/opcode/name _names": "the same",
    "x86/modrm lru_cache(maxsize=256)(Register)": "a value",
}
_CACHES = {"cache", "cached_property", "lru_cache"}


def _name(node: ast.expr) -> str:
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _caches(path: Path) -> list[str]:
    module = path.relative_to(TRACER).with_suffix("").as_posix()
    found, decorators = [], set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for each in node.decorator_list:
                decorators.add(each)
                if _name(each) in _CACHES:
                    found.append(f"{module} {node.name}")
        elif isinstance(node, ast.Call) and node not in decorators and node.args:
            inner = node.func
            if _name(inner) in _CACHES:
                found.append(f"{module} {ast.unparse(node)}")
    return found


def test_each_cache_of_the_language_has_its_reason_to_last() -> None:
    found = {name for path in TRACER.rglob("*.py") for name in _caches(path)}
    assert found == HOLDS.keys()


# ---- where the kernel is


def test_names_of_the_kernel_are_forgotten_when_it_is_moved() -> None:
    base = 0xFFFF_FFFF_8100_0000
    symbols = [Symbol(base, "T", "_text"), Symbol(base + 0x100, "T", "do_it")]
    table = table_of(symbols, end=base + 0x1000)
    kernel: Any = SimpleNamespace(symbols=table, types=lambda: None)
    names, space = Names(cast(Kernel, kernel)), cast(Any, None)
    assert names.lookup(base + 0x123, space) == "do_it+0x23"
    assert names.lookup(base + 0x200_0123, space) is None
    names.move(0x200_0000)
    assert names.lookup(base + 0x200_0123, space) == "do_it+0x23"
    assert names.lookup(base + 0x123, space) is None


# ---- what devices there are


class _Qmp:
    def __init__(self) -> None:
        self.types: dict[str, str] = {}

    async def execute(self, command: str, arguments: dict[str, str]) -> str:
        return self.types[arguments["path"]]


def test_a_device_that_was_unplugged_leaves_no_type_to_the_next_of_its_name() -> None:
    dialogue = Dialogue()
    qmp = _Qmp()
    dialogue._qmp = cast(Any, qmp)
    path = "/machine/peripheral/net"
    there = [FlatRange(0x1000, 0x1FFF, "i/o", "net-mmio", 0, "dev id=net")]

    def types(ranges: list[FlatRange]) -> dict[str, str]:
        return dict(asyncio.run(dialogue._device_types(ranges)))

    qmp.types = {path: "e1000e", "/machine/peripheral": "container"}
    assert types(there)[path] == "e1000e"
    assert path not in types([])
    qmp.types[path] = "virtio-net-pci"
    assert types(there)[path] == "virtio-net-pci"


# ---- what a trace has told


def _region(qemu_name: str, **changes: Any) -> RegionRecord:
    record = sample.region("nvme")
    return replace(record, region=replace(record.region, qemu_name=qemu_name, **changes))


def _access(offset: int) -> MemoryAccess:
    return sample.device("nvme", offset, 4, "read", 0)


def test_a_region_that_becomes_another_devices_gets_that_ones_registers() -> None:
    naming = Naming(load())
    naming.learn(_region("nvme", name="bar", device="nvme"))
    access = replace(_access(0x1C), region="bar")
    before = naming.add(access)
    assert before is not None and before.text == "CSTS" and naming.add(access) is before
    naming.learn(_region("ioapic", name="bar", device="ioapic"))
    after = naming.add(access)
    assert after is None or after.text != "CSTS"


def test_a_pattern_that_named_no_region_names_it_once_its_device_is_known() -> None:
    names = RegionNames()
    assert not names.named("disk", "bar")
    names.learn(_region("nvme", name="bar", device="disk"))
    assert names.named("disk", "bar")
    names.learn(_region("nvme", name="bar", device="net"))
    assert not names.named("disk", "bar")


def test_an_entry_of_a_log_is_where_the_region_has_moved_to() -> None:
    territory = Territory()
    start = sample.region("nvme").region.start
    entry = LogEntry(1, 0, "read", start, 4, 0, "nvme")
    assert territory.find(entry) is not None
    before = territory.find(entry)
    assert before is not None and not before[0].traced  # nobody has announced it
    territory.add(_region("nvme"))
    after = territory.find(entry)
    assert after is not None and after[0].traced
