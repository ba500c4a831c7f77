"""Texts that QEMU and GDB print for people, as each version prints them; see scripts/texts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tracer.check.qemu_log import entries
from tracer.errors import DebuggerError, ProtocolError, QemuError, TargetGone
from tracer.gdb import mi
from tracer.gdb.console import gdb_version, packet_answers
from tracer.gdb.description import describe, parse_chunk
from tracer.qemu.flat_view import DeviceNames, name_regions, parse_flat_view
from tracer.qemu.monitor import descriptor_tables, halted, vcpu_states
from tracer.x86.state import GPR

TEXTS = Path(__file__).parents[2] / "data" / "texts"
QEMUS = sorted(TEXTS.glob("qemu-*"))
GDBS = sorted(TEXTS.glob("gdb-*"))

by_qemu = pytest.mark.parametrize("folder", QEMUS, ids=lambda folder: folder.name)
by_gdb = pytest.mark.parametrize("folder", GDBS, ids=lambda folder: folder.name)


def test_both_distributions_are_there() -> None:
    assert {folder.name.partition(".")[0] for folder in QEMUS + GDBS} >= {
        "qemu-7", "qemu-10", "gdb-13", "gdb-16",
    }  # fmt: skip


@by_qemu
def test_memory_map(folder: Path) -> None:
    ranges = parse_flat_view((folder / "mtree").read_text())
    regions = name_regions(ranges, {}, DeviceNames())
    assert {"lapic", "ecam", "vga.window"} & {r.name for r in regions} >= {"lapic", "ecam"}
    by_qemu_name = {region.qemu_name: region for region in regions}
    assert by_qemu_name["hpet"].start == 0xFED0_0000
    assert by_qemu_name["ioapic"].end == 0xFEC0_0FFF
    assert {item.kind for item in ranges} >= {"ram", "rom", "i/o"}
    assert all(item.owner for item in ranges if item.kind == "i/o")
    ram = [item for item in ranges if item.name == "guest-ram"]
    assert ram[0].offset == ram[0].start == 0


@by_qemu
def test_descriptor_tables(folder: Path) -> None:
    tables = descriptor_tables((folder / "registers").read_text())
    assert not halted((folder / "registers").read_text())
    assert tables.idt.limit == 256 * 16 - 1
    assert tables.gdt.limit == 0x7F
    assert tables.idt.base >= tables.gdt.base >= 0xFFFF_FFFF_8000_0000


def test_halted() -> None:
    assert halted("CPU#1\nRIP=ffffffff81c010ab RFL=00000246 [---Z-P-] CPL=0 II=0 HLT=1\nES =0")
    with pytest.raises(QemuError, match="sleeps"):
        halted("RIP=ffffffff81c010ab")


@by_qemu
def test_vcpu_states(folder: Path) -> None:
    text = (folder / "registers").read_text()
    first, second = vcpu_states(text + text.replace("CPU#0", "CPU#1").replace("RAX", "EAX"))
    assert first == second
    assert first.paging and first.cr3 % 4096 == 0 and first.cr4 & 0x20  # PAE
    assert min(first.rip, first.rsp) > 0xFFFF_FFFF_8000_0000
    assert first.tables == descriptor_tables(text)
    # Before its first own TSS Linux has the boot protocol's, or none.
    assert first.task_selector in (0, 0x20)


def test_a_vcpu_before_long_mode() -> None:
    text = """
CPU#1
EAX=00000000 EBX=00000000 ECX=00000000 EDX=00060fb1
ESI=00000000 EDI=00000000 EBP=00000000 ESP=00006f00
EIP=0000fff0 EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=1
CS =f000 ffff0000 0000ffff 00009b00
TR =0000 00000000 0000ffff 00008b00
GDT=     00000000 0000ffff
IDT=     00000000 0000ffff
CR0=60000010 CR2=00000000 CR3=00000000 CR4=00000000
EFER=0000000000000000
"""
    (state,) = vcpu_states(text)
    assert not state.paging
    assert (state.rip, state.rsp, state.task, state.tables.idt.limit) == (0xFFF0, 0x6F00, 0, 0xFFFF)
    with pytest.raises(QemuError, match="CR2"):
        vcpu_states(text.replace("CR2", "CRX"))
    assert vcpu_states("\n") == ()


def test_descriptor_tables_that_are_not_told() -> None:
    with pytest.raises(QemuError, match="GDT and IDT"):
        descriptor_tables("GDT=     0000000000000000 0000ffff\nIDT is nowhere\n")


@by_qemu
def test_accesses(folder: Path) -> None:
    lines = (folder / "accesses").read_bytes().splitlines(keepends=True)
    found = list(entries(lines))
    assert len(found) == len(lines)
    assert {entry.cpu for entry in found} >= {0, -1}
    assert {entry.direction for entry in found} == {"read", "write"}
    assert all(entry.name for entry in found)
    hpet = [entry for entry in found if entry.name == "hpet" and not entry.refused]
    assert {entry.address & ~0x3FF for entry in hpet} == {0xFED0_0000}
    refused = [entry for entry in found if entry.refused and entry.name == "hpet"]
    assert [(entry.direction, entry.address, entry.width) for entry in refused] == [
        ("read", 0, 1),
        ("write", 0, 1),
    ]


@by_gdb
def test_version(folder: Path) -> None:
    numbers = gdb_version((folder / "version").read_text())
    assert numbers is not None
    assert folder.name == "gdb-" + ".".join(map(str, numbers))


@pytest.mark.parametrize(
    ("banner", "version"),
    [
        ("GNU gdb (GDB) Fedora Linux 16.3-1.fc41\nCopyright", (16, 3)),
        ("GNU gdb (Ubuntu 12.1-0ubuntu1~22.04) 12.1\n", (12, 1)),
        ("GNU gdb (GDB) 17.0.50.20250101-git\n", (17, 0, 50, 20250101)),
        ("GNU gdb (GDB) 7.12", (7, 12)),
        ("GNU gdb", None),
        ("lldb version 14.0.6", None),
        ("", None),
    ],
)
def test_other_versions(banner: str, version: tuple[int, ...] | None) -> None:
    assert gdb_version(banner) == version


@by_gdb
def test_packets(folder: Path) -> None:
    console = (folder / "packets").read_text()
    packets = re.findall(r"^sending: (.*)$", console, re.MULTILINE)
    answers = dict(zip(packets, packet_answers(console, packets), strict=True))
    assert answers["vetrace"] == ""
    assert answers["qXfer:features:read:nothing:0,80"] == "E00"
    description = describe()
    annex = next(description)
    while True:
        asked = [packet for packet in packets if packet.startswith(f"qXfer:features:read:{annex}:")]
        text = b"".join(parse_chunk(annex, answers[packet]).data for packet in asked)
        try:
            annex = description.send(text)
        except StopIteration as stop:
            layout = stop.value
            break
    assert layout.architecture == "i386:x86-64"
    layout.require((*GPR, "rip", "eflags", "cs", "fs_base", "cr2", "cr3", "cr4", "efer", "mxcsr"))
    # The answer holds what was described, to the last byte.
    last = layout.places[-1]
    assert len(answers["g"]) == 2 * (last.offset + last.size)
    values = layout.unpack(answers["g"])
    assert values["rip"] >= 0xFFFF_FFFF_8000_0000
    assert values["cs"] == 0x10
    assert values["efer"] & 0xD01 == 0xD01
    assert values["mxcsr"] == 0x1F80


def test_packets_without_an_answer() -> None:
    with pytest.raises(DebuggerError, match=r"0 answers to 1 packets \(g\).*'sending: g"):
        packet_answers("sending: g\n", ["g"])


@pytest.mark.parametrize(
    ("packet", "answer"),
    [
        ("mfebd401c,4", "OK"),
        ("mfebd401c,4", "0102"),
        ("mfebd401c,4", "010203040506"),
        ("Mfebd401c,4:01020304", "01020304"),
        ("Qqemu.PhyMemMode:1", "01020304"),
        ("P10=0000000000000000", "T05thread:01;"),
        ("Z2,0,2000", "l"),
        ("g", "OK"),
        ("qXfer:features:read:target.xml:0,ffb", "OK"),
    ],
)
def test_an_answer_to_another_packet(packet: str, answer: str) -> None:
    with pytest.raises(ProtocolError, match="out of step") as caught:
        packet_answers(f'received: "{answer}"\n', [packet])
    assert (caught.value.packet, caught.value.answer) == (packet, answer)


@pytest.mark.parametrize("packet", ["mfebd401c,4", "Mfebd401c,1:00", "Qqemu.PhyMemMode:0"])
@pytest.mark.parametrize("answer", ["", "E14", "E.not now"])
def test_an_answer_that_refuses(packet: str, answer: str) -> None:
    assert packet_answers(f'received: "{answer}"\n', [packet]) == [answer]


def test_an_answer_that_is_the_end() -> None:
    with pytest.raises(TargetGone):
        packet_answers('received: "W00"\n', ["Mfea00200,1:34"])


def test_an_answer_in_pieces() -> None:
    # GDB flushes its console where it likes.
    pieces = ['~"sending: g\\nreceived: \\""', '~"00"', '~"ff\\"\\n"']
    texts = [message.text for piece in pieces if isinstance(message := mi.parse(piece), mi.Text)]
    assert packet_answers("".join(texts), ["g"]) == ["00ff"]
