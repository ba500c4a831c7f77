"""A guest that is traced from its CPU's reset on: firmware, boot loader, and what they start."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from kernel_i386 import kernel_i386
from vetrace_run import (
    DEADLINE,
    Run,
    agreed,
    boot,
    drove_its_devices,
    need,
    read_trace,
    run,
    vetrace,
)

from tracer.access.symbols import KERNEL_HALF
from tracer.trace.marker import PHASE
from tracer.trace.phase import USER
from tracer.trace.record import Mark, StackRecord

pytestmark = pytest.mark.qemu

# What a boot sector does in real mode: accesses by a segment's base, and one that the emulator
# leaves to the CPU. The last word goes to ACPI's PM1_CNT of q35: S5.
SECTOR = """
    .code16
    ljmp $0, $0x7c00 + begin
begin:
    movw $0xb800, %ax
    movw %ax, %es
    movw $0x4142, %es:0x10
    movw %es:0x10, %bx
    movw $0x20, %di
    movw $3, %cx
    cld
    rep stosw
    pushw %es:0x20
    popw %dx
    cmpw %ax, %dx
    jne 1f
    cmpw $0x4142, %bx
    jne 1f
    movw $0x604, %dx
    movw $0x2000, %ax
    outw %ax, %dx
1:  hlt
    jmp 1b
    .org 510
    .byte 0x55, 0xaa
"""
VGA_TEXT = 0xB8000
SECTOR_AT = 0x7C00


BOOT = "boot", "--from-reset", "--check", "--quiet"


def nested(folder: Path, *options: str | Path) -> Run:
    return boot(folder, *BOOT[1:], *options)


def test_a_boot_is_traced_from_the_first_instruction_on(tmp_path: Path) -> None:
    done = nested(tmp_path, "--inputs", "--kaslr")
    assert agreed(done) > 100_000
    drove_its_devices(done)
    trace = read_trace(done.trace)
    first = next(record for record in trace.intercepts if record.accesses[0].space == "memory")
    assert first.mode == 32 and first.symbol is None  # firmware, without paging
    assert {record.mode for record in trace.intercepts} == {16, 32, 64}
    assert any(
        (record.symbol or "").startswith("native_io_apic_read") for record in trace.intercepts
    )
    named = [record for record in trace.intercepts if record.rip >= KERNEL_HALF]
    assert all(record.symbol for record in named)
    assert any((record.symbol or "").startswith("nvme_") for record in named)
    phases = {mark.text for mark in trace.records if isinstance(mark, Mark)}
    assert {PHASE + each for each in ("initcall pci_arch_init", USER)} <= phases
    replayed = run(tmp_path, "replay", done.trace)
    assert replayed.status == 0 and "no divergence" in replayed.out, replayed.out + replayed.err


def test_code_in_real_mode_reaches_a_device_by_its_segments(tmp_path: Path) -> None:
    need(shutil.which("as") is not None, "binutils")
    source, disk = tmp_path / "sector.S", tmp_path / "disk.raw"
    source.write_text(SECTOR)
    subprocess.run(["as", "--32", "-o", tmp_path / "sector.o", source], check=True)
    words = ["objcopy", "-O", "binary", "-j", ".text", tmp_path / "sector.o", tmp_path / "sector"]
    subprocess.run(words, check=True)
    disk.write_bytes((tmp_path / "sector").read_bytes().ljust(1 << 20, b"\0"))
    device = ("--device", "VGA,id=screen", "--region", "vga-lowmem")
    done = nested(tmp_path, "--disk", disk, *device)
    assert agreed(done) > 10_000  # the card's firmware clears its screen
    every = read_trace(done.trace).intercepts
    records = [record for record in every if record.rip >> 9 == SECTOR_AT >> 9]
    assert {record.mode for record in every} == {16}
    assert [record.via for record in records] == ["emulated"] * 5 + ["stepped"]
    made = [(a.direction, a.physical) for record in records for a in record.accesses]
    text = VGA_TEXT + 0x10, VGA_TEXT + 0x20
    assert made[:2] == [("write", text[0]), ("read", text[0])]
    assert made[2:6] == [*(("write", text[1] + 2 * n) for n in range(3)), ("read", text[1])]
    replayed = run(tmp_path, "replay", done.trace)
    assert replayed.status == 0 and "no divergence" in replayed.out, replayed.out + replayed.err


def test_what_cannot_be_is_one_line(tmp_path: Path) -> None:
    for options, why in (
        (("--from-reset", "--trap", "entry"), "--from-reset is for --trap nested"),
        (("--from-reset", "--machine", "microvm"), "a machine with PCI"),
        (("--from-reset", "--realtime", "--", "-smp", "2"), "follows one vCPU"),
    ):
        done = run(tmp_path, "boot", *options)
        assert done.status == 2
        (complaint,) = done.complaints
        assert why in complaint


@pytest.mark.long
def test_a_kernel_is_named_wherever_it_has_moved(tmp_path: Path) -> None:
    seen = []
    for name, options in (("linked", ()), ("moved", ("--kaslr",))):
        done = nested(tmp_path / name, "--stacks", *options)
        assert agreed(done) > 5_000
        trace = read_trace(done.trace)
        functions = {(record.symbol or "").partition("+")[0] for record in trace.intercepts}
        chains = [each for each in trace.records if isinstance(each, StackRecord)]
        callers = {frame.symbol for each in chains for frame in each.frames}
        seen.append((functions, len({record.stack for record in trace.intercepts})))
        assert any((caller or "").startswith("start_kernel+") for caller in callers)
        assert {record.stack is None for record in trace.intercepts} == {True, False}  # firmware
        assert all(record.stack is not None for record in trace.intercepts if record.symbol)
    assert seen[0][0] == seen[1][0]


@pytest.mark.long
def test_firmware_that_asks_for_the_time_by_ports_is_compared_as_well(tmp_path: Path) -> None:
    # Firmware that unpacks itself takes minutes on a busy host.
    files = ("--serial", tmp_path / "serial", "-o", tmp_path / "trace.vtrace")
    with vetrace(tmp_path, *BOOT, *files, "--firmware", "uefi") as running:
        done = running.finish(5 * DEADLINE)
    assert agreed(done) > 15_000
    drove_its_devices(done)
    records = read_trace(done.trace).intercepts
    assert "(bad)" not in {record.text for record in records}  # it begins in flash
    regions = {access.region for record in records for access in record.accesses}
    assert {"system.flash1", "ecam", "lapic", "nvme", "virtio-blk.common"} <= regions


@pytest.mark.long
def test_a_kernel_of_32_bits(tmp_path: Path) -> None:
    kernel, initrd = kernel_i386()
    done = nested(tmp_path, "--kernel", kernel, "--initrd", initrd)
    assert agreed(done) > 5_000
    drove_its_devices(done)
    trace = read_trace(done.trace)
    assert trace.intercepts[-1].mode == 32
    replayed = run(tmp_path, "replay", done.trace)
    assert replayed.status == 0 and "no divergence" in replayed.out, replayed.out + replayed.err


@pytest.mark.long
def test_sites_compile_whatever_levels_the_guest_comes_to_have(tmp_path: Path) -> None:
    done = nested(tmp_path, "--", "-cpu", "max,la57=on")
    assert agreed(done) > 4_000
    drove_its_devices(done)
    ways = Counter(record.via for record in read_trace(done.trace).intercepts)
    assert ways["compiled"] > ways["emulated"]
