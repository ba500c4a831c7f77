"""Guests that are not Linux: where tracing begins, what is mapped later, what is refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import late_guest
import pytest
from bare_guest import DEVICE, REGION, Case, assemble, initial
from vetrace_run import Run, agreed, boot, read_trace, run

from tracer.linux.kernel import default_kernel
from tracer.trace.record import MapRecord

pytestmark = pytest.mark.qemu

READS = [Case("mov eax, [rdi]", [], {}, {"rax": initial(0, 4)}) for _ in range(4)]


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return late_guest.build(tmp_path_factory.mktemp("late"))


def test_it_is_traced_from_a_symbol_on(tmp_path: Path) -> None:
    guest = assemble(tmp_path, READS)
    words = ("--kernel", guest, "--region", REGION, "--check", "--attach-at", "case_1")
    done = boot(tmp_path, *words, "--", *DEVICE)
    assert agreed(done) == 3
    assert [line.split()[-1] for line in done.serial if "case" in line] == ["ok"] * 4
    assert [record.symbol for record in read_trace(done.trace).intercepts] == [
        f"case_{number}+0x0" for number in (1, 2, 3)
    ]


# ---- what it maps as it runs

MAKES = ("--mapping", "install_pte(linear=rdx, entry=rcx)")
MAKES_ELSEWHERE = ("--mapping", "map_device(physical=rdi, size=esi, linear=return)")
ACCESSES = 15


def booted(folder: Path, guest: Path, *words: str | Path) -> Run:
    return boot(folder, "--kernel", guest, *late_guest.MACHINE, *words, "--", *late_guest.QEMU)


@pytest.fixture(scope="module")
def untraced(late: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    done = booted(tmp_path_factory.mktemp("untraced"), late, "--untraced")
    assert done.status == 0, done.err
    return done.serial[-len(late_guest.SAYS) :]


def stripped(late: Path, folder: Path) -> Path:
    subprocess.run(["strip", "-o", folder / "stripped.elf", late], check=True)
    return folder / "stripped.elf"


def test_whatever_it_enters_into_its_page_tables_is_traced(
    late: Path, untraced: list[str], tmp_path: Path
) -> None:
    assert untraced == late_guest.SAYS
    done = booted(tmp_path, stripped(late, tmp_path), "--check")
    assert agreed(done) == ACCESSES
    assert done.serial[-len(untraced) :] == untraced
    maps = [record for record in read_trace(done.trace).records if isinstance(record, MapRecord)]
    assert {each.size for each in maps} == {1 << 12, 1 << 21, 1 << 30}
    assert {each.by for each in maps} == {"a store to a page table", "page tables that were loaded"}


def test_functions_that_map_may_be_named(late: Path, untraced: list[str], tmp_path: Path) -> None:
    symbols = ("--symbols", late.parent / "late64.elf", "--attach-at", "return:setup")
    guest = stripped(late, tmp_path)
    done = booted(tmp_path, guest, *symbols, *MAKES, *MAKES_ELSEWHERE, "--check")
    assert agreed(done) == ACCESSES
    assert done.serial[-len(untraced) :] == untraced
    maps = [record for record in read_trace(done.trace).records if isinstance(record, MapRecord)]
    # The second tables were made while others were in use.
    assert {each.by for each in maps} == {"install_pte", "page tables that were loaded"}


def test_physical_addresses_are_trapped_whatever_it_maps(
    late: Path, untraced: list[str], tmp_path: Path
) -> None:
    # From before it has an IDT: entries cannot be, and nobody has asked for them.
    done = booted(tmp_path, late, "--attach-at", "start64", "--check")
    assert "started anew, and is traced by physical address" in done.err
    assert agreed(done) == ACCESSES
    assert done.serial[-len(untraced) :] == untraced
    assert not [each for each in read_trace(done.trace).records if isinstance(each, MapRecord)]


def test_it_is_joined_after_a_time(untraced: list[str], tmp_path: Path) -> None:
    guest = late_guest.build(tmp_path, sleeps=True)
    done = booted(tmp_path, guest, "--realtime", "--attach-at", "2s", "--check")
    accesses = agreed(done)
    assert ACCESSES < accesses < ACCESSES + 300
    assert done.serial[-len(untraced) :] == untraced


# ---- refused, in one line


def refused(folder: Path, *words: str | Path) -> str:
    done = run(folder, "boot", *words)
    assert done.status in (1, 2), done.err
    (line,) = done.err.splitlines()
    return line


def test_a_place_that_is_none(late: Path, tmp_path: Path) -> None:
    def line(*words: str | Path) -> str:
        return refused(tmp_path, *words)

    kernel = ("--kernel", late)
    assert "no place and no time in a guest" in line(*kernel, "--attach-at", "1.5 parsecs")
    assert "no symbol 'mian'; did you mean main?" in line(*kernel, "--attach-at", "mian")
    assert "no symbol 'sleep'" in line(*kernel, "--attach-at", "return:sleep")
    assert "--attach-at is for a guest that is not Linux" in line("--attach-at", "main")
    bare = tmp_path / "stripped.elf"
    subprocess.run(["strip", "-o", bare, late], check=True)
    found = line("--kernel", bare, "--attach-at", "main")
    assert "no symbols, and so no main" in found and "--symbols" in found


def test_a_function_that_is_none(late: Path, tmp_path: Path) -> None:
    def line(*words: str | Path) -> str:
        return refused(tmp_path, *words)

    kernel = ("--kernel", late, "--mapping")
    assert "no function that maps" in line(*kernel, "install_pte")
    assert "did you mean linear?" in line(*kernel, "install_pte(liner=rdx)")
    assert "no symbol 'install'" in line(*kernel, "install(linear=rdx)")
    assert "--mapping is for a guest that is not Linux" in line("--mapping", "f(linear=rdx)")
    linux = default_kernel()
    assert linux is not None
    found = line("--kernel", linux, "--mapping", "f(linear=rdx)")
    assert f"and {linux} is" in found


def test_a_place_where_tracing_cannot_begin(late: Path, tmp_path: Path) -> None:
    def line(place: str, *more: str) -> str:
        words = ("--kernel", late, *late_guest.MACHINE, "--serial", tmp_path / "serial", *more)
        return refused(tmp_path, *words, "--attach-at", place, "--", *late_guest.QEMU)

    assert "came there once, without a page-fault handler" in line("start32")
    assert "came there once, without a page-fault handler" in line("start64", "--trap", "entry")
    assert "never came there: it has ended" in line("0x12345678")


def test_images_that_qemu_does_not_start(late: Path, tmp_path: Path) -> None:
    found = refused(tmp_path, "--kernel", late.parent / "late64.elf")
    assert "no 64-bit ELF file that has a multiboot header" in found
    assert "objcopy -O elf32-i386" in found
    header = (0x1BADB002).to_bytes(4, "little")
    other = tmp_path / "other.elf"
    other.write_bytes((late.parent / "late64.elf").read_bytes().replace(header, bytes(4)))
    assert "no 64-bit ELF file without a PVH note" in refused(tmp_path, "--kernel", other)
    other.write_bytes(late.read_bytes().replace(header, bytes(4)))
    assert "neither a multiboot header nor a PVH note" in refused(tmp_path, "--kernel", other)
    words = ("--kernel", late, "--symbols", tmp_path / "nowhere")
    assert "cannot read its symbols" in refused(tmp_path, *words)
