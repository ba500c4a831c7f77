"""The machine of a confidential guest: what it has, and what it is refused or told for."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from confidential_kernel import kernel_for
from vetrace_run import run

from tracer.access.symbols import serialise
from tracer.confidential.kind import C_BIT, Kind
from tracer.errors import GuestError
from tracer.launch.plan import Plan
from tracer.launch.start import launch
from tracer.linux.kernel import default_kernel, open_kernel
from tracer.linux.system import Linux
from tracer.qemu.hardware import hardware
from tracer.session.session import Session

pytestmark = pytest.mark.qemu

# The default guest's kernel can be an SEV-ES guest on every Debian.
PLAN = Plan(guest=Kind.SEV_ES)


def same_bytes(session: Session) -> None:
    """Compare what QEMU and vetrace read at both places of RAM, and change it at one."""
    memory = session.machine.memory
    ranges = [(start, end) for start, end in memory.ranges if start < 1 << C_BIT]
    assert len(ranges) < len(memory.ranges)
    for start, _ in ranges:
        assert memory.read(start, 4096) == memory.read(start + (1 << C_BIT), 4096)
    free = ranges[-1][1] - 4095
    memory.write(free + (1 << C_BIT), b"twice")
    assert memory.read(free, 5) == b"twice"


def test_an_sev_es_guest_has_its_ram_twice() -> None:
    async def look() -> None:
        async with launch(PLAN) as session:
            await session.reach_entry()
            await session.refresh_regions()
            same_bytes(session)

    asyncio.run(look())


def test_qemu_reads_the_same_at_both_places() -> None:
    async def words() -> list[str]:
        async with launch(PLAN) as session:
            await session.reach_entry()
            assert isinstance(session.system, Linux)
            entry = session.system.kernel.facts.entry_physical
            told = [
                await session.machine.dialogue.monitor(f"xp /8gx {entry + at:#x}")
                for at in (0, 1 << C_BIT)
            ]
            return [re.sub(r"^\S+", "", text, flags=re.MULTILINE) for text in told]

    first, second = asyncio.run(words())
    assert first == second
    assert re.search("0x0*[1-9a-f]", first)


def test_a_kernel_that_found_nothing_ends_at_once(tmp_path: Path) -> None:
    # The machine of a TDX guest is left alone with the default guest's kernel, which then boots as
    # an ordinary guest: the symbols given are of one that could be a TDX guest.
    async def untraced() -> None:
        async with launch(pretending(tmp_path, Kind.TDX)) as session:
            await session.reach_entry()
            await session.run_untraced()

    with pytest.raises(GuestError, match="boots as an ordinary guest: it did not find TDX"):
        asyncio.run(untraced())


def pretending(folder: Path, kind: Kind) -> Plan:
    """Plan a guest of a kind with the plain guest's kernel, named as one that can be any guest.

    The kernel is given, as ``vetrace setup`` may have left another one for the kind.
    """
    image = default_kernel()
    assert image is not None
    text = serialise(open_kernel(image).symbols)
    at = "ffffffff81000000"
    names = ("tdx_early_init", "exc_virtualization_exception")
    file = folder / "System.map"
    file.write_text(text + "".join(f"{at} t {name}\n" for name in names))
    return Plan(guest=kind, kernel=image, symbols=file)


@pytest.mark.parametrize("kind", list(Kind))
def test_what_qemu_tells_of_each_kinds_machine(kind: Kind, tmp_path: Path) -> None:
    async def found() -> tuple[str, int, tuple[str, ...]]:
        async with launch(pretending(tmp_path, kind)) as session:
            told = await hardware(session.machine.dialogue)
            assert not told.firmware
            assert not told.five_levels
            return told.vendor, told.physical_bits, told.exposed

    vendor, bits, exposed = asyncio.run(found())
    assert (vendor == "GenuineIntel") == (kind is Kind.TDX)
    assert bits == 40
    assert bool(exposed) == (kind is Kind.PLAIN)


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (["-cpu", "max,la57=off,vendor=GenuineIntel"], "vendor=AuthenticAMD"),
        (["-cpu", "max"], "la57=off"),
        (["-bios", "qboot.rom"], "its firmware is qboot.rom"),
        (["-device", "virtio-rng-pci,id=entropy"], "entropy (virtio-rng-pci)"),
        (["-device", "virtio-rng-pci"], "iommu_platform=on"),
        (["-drive", "if=virtio,format=raw,file.driver=null-co"], "virtio-blk-pci"),
        (["-global", "virtio-device.iommu_platform=off"], None),
        (["-device", "virtio-rng-pci,iommu_platform=on,disable-legacy=on"], None),
        (
            ["-global", "virtio-rng-pci.iommu_platform=on", "-global",
             "virtio-rng-pci.disable-legacy=on", "-device", "virtio-rng-pci"],
            None,
        ),
    ],
)  # fmt: skip
def test_the_users_own_arguments(extra: list[str], reason: str | None) -> None:
    async def start() -> None:
        async with launch(Plan(guest=Kind.SEV_ES, extra=tuple(extra))):
            pass

    if reason is None:
        asyncio.run(start())
        return
    with pytest.raises(GuestError) as caught:
        asyncio.run(start())
    assert reason in str(caught.value)


def test_a_refusal_is_one_line_and_status_1(tmp_path: Path) -> None:
    done = run(tmp_path, "boot", "--guest", "sev-es", "--", "-device", "virtio-rng-pci")
    assert done.status == 1
    (line,) = done.complaints
    assert line.startswith("vetrace: no SEV-ES guest can be run: ")
    assert not done.out


def test_a_machine_without_room_for_ram_twice_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "boot", "--guest", "sev-es", "--machine", "microvm")
    assert done.status == 2 and len(done.err.splitlines()) == 1
    assert "has its RAM a second time" in done.err and "pc or q35" in done.err


def test_a_clock_that_nothing_measures_is_refused(tmp_path: Path) -> None:
    words = "--guest", "tdx", "--machine", "microvm", "--inputs", "--realtime"
    done = run(tmp_path, "boot", *words, "--kernel", kernel_for(Kind.TDX))
    assert done.status == 2 and len(done.err.splitlines()) == 1
    assert "pc or q35" in done.err and "--realtime" in done.err


def test_ram_above_4_gib_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "boot", "--guest", "sev-es", "--memory", "3G")
    assert done.status == 2
    assert "2815M at most" in done.err
