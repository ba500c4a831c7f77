"""Guests that are not Linux: where tracing begins, what is mapped later, what is refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import late_guest
import pytest
from bare_guest import DEVICE, REGION, Case, assemble, initial
from vetrace_run import agreed, boot, read_trace, run

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


def test_a_place_where_tracing_cannot_begin(late: Path, tmp_path: Path) -> None:
    def line(place: str) -> str:
        words = ("--kernel", late, *late_guest.MACHINE, "--serial", tmp_path / "serial")
        return refused(tmp_path, *words, "--attach-at", place, "--", *late_guest.QEMU)

    assert "came there once, without a page-fault handler" in line("start32")
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
