"""A program maps device memory, and the guest's kernel works with the mapping: as without a trace.

The kernel reads poisoned entries back and builds them anew. What the program sees and what the
kernel complains of must be what an untraced run shows, and no access may be lost on the way.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from guest_program import assemble, initrd
from vetrace_run import Run, agreed, boot, read_trace

from tracer.linux.kernel import default_kernel, open_kernel

pytestmark = pytest.mark.qemu

DEVICE = ("--", "-device", "pc-testdev")
PHYSICAL = 0xFF00_0000  # hw/misc/pc-testdev.c: 64 KiB that keep what they are given
REGION = "pc-testdev.iomem"
COMPLAINTS = re.compile(r"WARNING|BUG|Oops|ioremap|x86/PAT|segfault|Corrupted|Bad ")


def said(done: Run) -> list[str]:
    """What program and kernel said, without times and process numbers."""
    assert done.status == 0, done.err + done.out
    lines = [re.sub(r"^\[ *\d+\.\d+\] |mapper[\[:]\d+\]?", "", line) for line in done.serial]
    return [line for line in lines if line.startswith("mapper") or COMPLAINTS.search(line)]


@pytest.fixture(scope="module")
def ramdisk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mapper")
    program = assemble(folder, "mapper", DEVICE=PHYSICAL)
    return initrd(folder, program, '/tmp/mapper; echo "mapper: status $?"')


@pytest.fixture(scope="module")
def untraced(ramdisk: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("untraced")
    lines = said(boot(folder, "--untraced", "--quiet", "--initrd", ramdisk, *DEVICE))
    assert lines[-1] == "mapper: status 0"
    assert "mapper: pread value 00000000cafe0001" in lines
    return lines


@pytest.fixture(scope="module")
def fixed_mask(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Symbols as of a kernel that has its mask of physical addresses compiled in."""
    image = default_kernel()
    assert image is not None
    names = tmp_path_factory.mktemp("symbols") / "System.map"
    symbols = [s for s in open_kernel(image).symbols.symbols if s.name != "physical_mask"]
    names.write_text("".join(f"{s.address:016x} {s.kind} {s.name}\n" for s in symbols))
    return names


@pytest.mark.parametrize("mask", ["variable", "fixed"])
def test_kernel_and_program_see_what_they_see_untraced(
    mask: str, ramdisk: Path, untraced: list[str], fixed_mask: Path, tmp_path: Path
) -> None:
    symbols = ("--symbols", fixed_mask) if mask == "fixed" else ()
    options = ("--quiet", "--check", "--region", "pc-testdev", "--initrd", ramdisk, *symbols)
    done = boot(tmp_path, *options, *DEVICE)
    assert said(done) == untraced
    trace = read_trace(done.trace)
    count = trace.end.counts["accesses"]
    assert f"0 missing, 0 extra, 0 different over {count} accesses in 1 region" in done.out
    # Through programs' own mappings and, for a debugger's reads, through the kernel's.
    assert {record.cpl for record in trace.intercepts} == {0, 3}
    written = [
        (access.offset or 0, access.value or 0)
        for record in trace.intercepts
        for access in record.accesses
        if access.direction == "write" and access.region == REGION
    ]
    assert written == [
        (0, 0xCAFE0001),
        (0x1004, 0x13572468),
        (8, 0x600D0002),
        (12, 0x600D0003),
    ]


def test_neither_sees_that_others_make_their_accesses_by_themselves(
    ramdisk: Path, untraced: list[str], tmp_path: Path
) -> None:
    done = boot(tmp_path, "--quiet", "--check", "--initrd", ramdisk, *DEVICE)
    assert said(done) == untraced
    agreed(done)
    trace = read_trace(done.trace)
    # A program's page tables may lack the window: each of its accesses takes a stop.
    ways = {(record.cpl, record.via) for record in trace.intercepts}
    assert ways == {(0, "compiled"), (0, "emulated"), (3, "emulated")}
    counts = trace.end.counts
    assert counts["not compiled: it is a program's, whose page tables may lack the window"]
    assert not counts.get("disagreements")


def test_a_guest_let_go_finds_no_poison_in_any_program(
    ramdisk: Path, untraced: list[str], tmp_path: Path
) -> None:
    # Where the parent is stopped, its child has the mapping too, and the kernel knows of both.
    script = f"break {REGION}+0x1008; continue; detach"
    options = ("--quiet", "--region", "pc-testdev", "--initrd", ramdisk, "-e", script)
    assert said(boot(tmp_path, *options, *DEVICE)) == untraced


def test_no_breakpoint_is_left_for_programs_that_map_no_device(
    ramdisk: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("busy")
    program = assemble(folder, "mapper", DEVICE=PHYSICAL)
    counts = []
    for often in (20, 60):
        busy = initrd(
            folder, program, f"/tmp/mapper; for i in $(seq {often}); do /bin/uname; /bin/id; done"
        )
        here = tmp_path / str(often)
        done = boot(here, "--quiet", "--region", "pc-testdev", "--initrd", busy, *DEVICE)
        assert done.status == 0, done.err
        counts.append(read_trace(done.trace).end.counts["hooks"])
    assert counts[0] == counts[1]
