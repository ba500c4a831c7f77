"""Build small traces for the tests of everything that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from tracer.trace.member import Space, Via
from tracer.trace.record import (
    FORMAT_VERSION,
    End,
    Header,
    Intercept,
    MapRecord,
    Mark,
    MemoryAccess,
    Record,
    RegionInfo,
    RegionRecord,
)
from tracer.trace.writer import TraceWriter
from tracer.x86.bus import Direction

HEADER = Header(
    version=FORMAT_VERSION,
    tool="vetrace 0",
    created="2024-01-01T00:00:00Z",
    clock="icount",
    kernel="vmlinuz",
    kernel_sha256="00" * 32,
    command_line="console=ttyS0",
    memory=256 << 20,
    vcpus=1,
    qemu="7.2.22",
    gdb="13.1",
    qemu_args=["-M", "q35"],
)

START = {"nvme": 0xFEBF0000, "nvme.msix-table": 0xFEBF2000, "hpet": 0xFED00000, "lapic": 0xFEE00000}
SIZE = {"nvme": 0x2000, "nvme.msix-table": 0x410, "hpet": 0x400, "lapic": 0x100000}
QEMU_NAME = {"nvme": "nvme", "nvme.msix-table": "msix-table", "hpet": "hpet", "lapic": "apic-msi"}


def region(name: str, traced: bool = True) -> RegionRecord:
    """Announce one of the sample regions."""
    return RegionRecord(
        time_ns=0,
        region=RegionInfo(
            name=name,
            start=START[name],
            end=START[name] + SIZE[name] - 1,
            qemu_name=QEMU_NAME[name],
            device=name.partition(".")[0],
            traced=traced,
        ),
    )


def device(
    name: str, offset: int, width: int, direction: Direction, value: int | None
) -> MemoryAccess:
    """Make one access to a sample region."""
    physical = START[name] + offset
    return MemoryAccess(
        direction=direction,
        width=width,
        linear=0xFFFFC90000000000 + physical,
        physical=physical,
        value=value,
        region=name,
        offset=offset,
    )


PORTS = {"serial": (0x3F8, 0x3FF), "i8042.cmd": (0x64, 0x64), "pic": (0x20, 0x21)}


def ports(name: str) -> RegionRecord:
    """Announce one of the sample regions of ports."""
    start, end = PORTS[name]
    return RegionRecord(
        time_ns=0,
        region=RegionInfo(
            name=name, start=start, end=end, qemu_name=name.replace(".", "-"),
            device=name.partition(".")[0], traced=True, space="port",
        ),
    )  # fmt: skip


def port(number: int, width: int, direction: Direction, value: int | None) -> MemoryAccess:
    """Make one access to a port, of a sample region if it is in one."""
    found = ((name, start) for name, (start, end) in PORTS.items() if start <= number <= end)
    region, start = next(found, ("port", 0))
    return _input("port", number, direction, width, value, region, number - start)


def msr(index: int, direction: Direction, value: int | None) -> MemoryAccess:
    """Make one access to a model-specific register."""
    return _input("msr", index, direction, 8, value, "msr", 8 * index)


def irq(vector: int) -> MemoryAccess:
    """Make an interrupt."""
    return _input("irq", vector, "write", 1, vector, "irq", vector)


def msi(address: int, data: int | None) -> MemoryAccess:
    """Make the message that an interrupt came of."""
    return _input("msi", address, "read", 4, data, "msi", address)


def cpuid(leaf: int, subleaf: int = 0, values: Sequence[int] = range(4)) -> list[MemoryAccess]:
    """Make the four accesses of CPUID."""
    number = leaf | subleaf << 32
    return [
        _input("cpuid", number, "read", 4, value, "cpuid", 16 * number + 4 * place)
        for place, value in enumerate(values)
    ]


def tsc(value: int) -> MemoryAccess:
    """Make one access to the time-stamp counter."""
    return _input("tsc", 0, "read", 8, value, "tsc", 0)


def _input(
    space: Space, number: int, direction: Direction, width: int, value: int | None, region: str,
    offset: int,
) -> MemoryAccess:  # fmt: skip
    return MemoryAccess(
        direction=direction, width=width, linear=0, physical=number, value=value,
        region=region, offset=offset, space=space,
    )  # fmt: skip


def inputs(
    seq: int, *accesses: MemoryAccess, text: str = "in al, dx", symbol: str | None = "inb+0x1"
) -> Intercept:
    """Make a record of one instruction that left the guest for its monitor."""
    made = intercept(seq, *accesses, text=text, symbol=symbol, via="monitor")
    return replace(made, code=b"\xec", error_code=0)


def ram(width: int, direction: Direction, value: int) -> MemoryAccess:
    """Make one access to guest RAM."""
    return MemoryAccess(
        direction=direction, width=width, linear=0xFFFF888000001000, physical=0x1000,
        value=value,
    )  # fmt: skip


def intercept(
    seq: int,
    *accesses: MemoryAccess,
    text: str = "mov eax, dword ptr [rax + 0x1c]",
    symbol: str | None = "nvme_pci_enable+0x5e",
    via: Via = "emulated",
) -> Intercept:
    """Make a record of one instruction with these accesses."""
    return Intercept(
        seq=seq,
        time_ns=214_318_000 + seq,
        vcpu=0,
        cpl=0,
        mode=64,
        rip=0xFFFFFFFF81234567,
        symbol=symbol,
        code=bytes.fromhex("8b401c"),
        text=text,
        cr2=accesses[0].linear,
        error_code=0x9,
        via=via,
        accesses=list(accesses),
        before={"rflags": 0x2, "rax": 0xFFFFC90000000000},
        after={"rax": 0x1},
    )


def end(accesses: int) -> End:
    """Close a trace."""
    return End(time_ns=10**9, outcome="poweroff", counts={"accesses": accesses})


RECORDS: list[Record] = [
    region("nvme"),
    region("nvme.msix-table"),
    region("hpet"),
    region("lapic"),
    MapRecord(
        time_ns=1, linear=0xFFFFC90000000000, physical=0xFEBF0000, size=8192,
        regions=["nvme"], by="ioremap_page_range",
    ),
    Mark(time_ns=2, text="kernel entry", qemu_log_offset=0),
    intercept(0, device("nvme", 0x1C, 4, "read", 1)),
    intercept(
        1, device("nvme", 0x14, 4, "write", 0x460001),
        text="mov dword ptr [rax], edx", symbol="nvme_enable_ctrl+0x10",
    ),
    intercept(
        2, ram(4, "read", 7), device("nvme.msix-table", 0x0, 4, "write", 7),
        text="movsd dword ptr [rdi], dword ptr [rsi]", symbol="memcpy_toio+0x1",
    ),
    intercept(
        3, device("hpet", 0xF0, 8, "read", 0x1234_5678_9ABC_DEF0),
        text="mov rax, qword ptr [rax]", symbol="read_hpet+0x8",
    ),
    intercept(
        4, device("lapic", 0x20, 4, "read", None),
        text="mov eax, dword ptr [rdi]", symbol=None, via="stepped",
    ),
    end(5),
]  # fmt: skip
"""A whole trace: five device accesses in four regions, one of them stepped."""


def write(path: Path, records: list[Record] = RECORDS) -> Path:
    """Write a sample trace and return its path."""
    with TraceWriter(path, HEADER) as trace:
        for record in records:
            trace.append(record)
    return path


MIXED: list[Record] = [
    region("nvme"),
    ports("serial"),
    intercept(0, device("nvme", 0x1C, 4, "read", 1)),
    inputs(1, port(0x3FD, 1, "read", 0x60)),
    inputs(2, msr(0xC0000080, "write", 0xD01), text="wrmsr"),
    inputs(3, *cpuid(7, 1), text="cpuid"),
    end(7),
]
"""A trace with inputs of other kinds than memory."""
