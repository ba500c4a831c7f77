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
from tracer.trace.writer import next_of

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
    place = hex(read_trace(done.trace).intercepts[1].rip)
    again = boot(tmp_path / "place", *words[:-1], place, "--", *DEVICE)
    assert agreed(again) == 2


@pytest.mark.parametrize("clock", [(), ("--realtime",)], ids=["virtual", "real"])
def test_until_a_time_ends_one_that_makes_no_access_any_more(
    clock: tuple[str, ...], tmp_path: Path
) -> None:
    guest = assemble(tmp_path, [READS[0], Case("cli; hlt", [])])
    words = ("--kernel", guest, "--region", REGION, "--check", *clock, "-e", "until 0.2s; quit")
    done = boot(tmp_path, *words, "--", *DEVICE)
    assert agreed(done) == 1
    assert "until 0.2s" in done.out.splitlines()
    assert " case_1_done+0x0 " in done.out


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


def test_a_flat_image_has_its_names_from_another_file(untraced: list[str], tmp_path: Path) -> None:
    names = late_guest.build(tmp_path, "FLAT").parent / "late64.elf"
    done = booted(tmp_path, tmp_path / "late.bin", "--symbols", names, "--check")
    assert agreed(done) == ACCESSES
    assert done.serial[-len(untraced) :] == untraced
    assert read_trace(done.trace).intercepts[0].symbol == "main+0x14"


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
    # From before it has an IDT: entries cannot be, and nobody has asked for them. It is a file that
    # QEMU itself refuses.
    wide = late.parent / "late64.elf"
    done = booted(tmp_path, wide, "--attach-at", "start64", "--check")
    assert "started anew, and is traced by physical address" in done.err
    assert agreed(done) == ACCESSES
    assert done.serial[-len(untraced) :] == untraced
    assert not [each for each in read_trace(done.trace).records if isinstance(each, MapRecord)]
    # A restart knows what the first run found.
    again = booted(
        tmp_path, wide, "--attach-at", "start64", "-e", "continue; restart; continue; info trace"
    )
    assert again.err.count("started anew, and is traced by physical address") == 1
    second = read_trace(next_of(again.trace, 2))
    assert len(second.intercepts) == len(read_trace(again.trace).intercepts) > 0


def test_what_is_loaded_by_nobody_is_looked_for(untraced: list[str], tmp_path: Path) -> None:
    guest = late_guest.build(tmp_path, "UNPACKS")
    found = refused_on_its_machine(tmp_path, guest, "--trap", "entry")
    assert "that the guest has as code and surely does not use" in found and "--stub-at" in found
    words = ("--trap", "entry", "--stub-at", "room", "--look-again", "20ms")
    done = booted(tmp_path, guest, *words, "--check")
    assert agreed(done) == ACCESSES
    assert done.serial[-len(untraced) :] == untraced
    maps = [record for record in read_trace(done.trace).records if isinstance(record, MapRecord)]
    assert "page tables looked at again" in {each.by for each in maps}


def test_what_another_vcpu_enters_is_traced(untraced: list[str], tmp_path: Path) -> None:
    guest = late_guest.build(tmp_path, "TWO")
    words = ("--look-again", "50ms", "--realtime", "--check")
    done = boot(
        tmp_path,
        "--kernel",
        guest,
        *late_guest.MACHINE,
        *words,
        "--",
        *late_guest.QEMU,
        "-smp",
        "2",
    )
    assert agreed(done) == ACCESSES + 6
    assert done.serial[-len(untraced) - 1 :] == ["by the other 00000000f4523501", *untraced]
    assert {record.vcpu for record in read_trace(done.trace).intercepts} == {0, 1}


def test_it_is_joined_after_a_time(untraced: list[str], tmp_path: Path) -> None:
    guest = late_guest.build(tmp_path, "SLEEPS")
    done = booted(tmp_path, guest, "--realtime", "--attach-at", "2s", "--check")
    accesses = agreed(done)
    assert ACCESSES < accesses < ACCESSES + 300
    assert done.serial[-len(untraced) :] == untraced
    # A time that comes and a place that does not.
    words = ("--attach-at", "0x12345678", "--guest-timeout", "2")
    lost = booted(tmp_path / "lost", guest, *words)
    assert lost.status == 1 and "tracing waits for --attach-at 0x12345678" in lost.err


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


def test_what_is_for_linux_alone(late: Path, tmp_path: Path) -> None:
    assert f"--module is for Linux, and {late} is not" in refused(
        tmp_path, "--kernel", late, "--module", "edu"
    )
    # From the reset on it has been looked at as a kernel.
    done = run(tmp_path, "boot", "--kernel", late, "--kaslr", "--from-reset")
    assert done.status == 2
    *progress, line = done.err.splitlines()
    assert f"--kaslr is for Linux, and {late} is not" in line
    assert progress in ([], [f"vetrace: unpacking {late}"])
    nowhere = tmp_path / "none"
    for trap in ([], ["--from-reset"]):
        line = refused(tmp_path, "--kernel", late, "--initrd", nowhere, *trap)
        assert f"cannot read the initial ramdisk {nowhere}: no such file" in line


def refused_on_its_machine(folder: Path, guest: Path, *more: str) -> str:
    words = ("--kernel", guest, *late_guest.MACHINE, "--serial", folder / "serial", *more)
    return refused(folder, *words, "--", *late_guest.QEMU)


def test_a_place_where_tracing_cannot_begin(late: Path, tmp_path: Path) -> None:
    def line(place: str, *more: str) -> str:
        return refused_on_its_machine(tmp_path, late, *more, "--attach-at", place)

    assert "came there once, without a page-fault handler" in line("start32")
    assert "came there once, without a page-fault handler" in line("start64", "--trap", "entry")
    assert "never came there: it has ended" in line("0x12345678")
    nowhere = ("--trap", "entry", "--stub-at", "0x700000000000")
    assert "surely does not use" in line("main", *nowhere)
    assert "is in the middle of a page" in line("main", "--stub-at", "main")


def test_images_that_qemu_does_not_start(late: Path, tmp_path: Path) -> None:
    header = (0x1BADB002).to_bytes(4, "little")
    other = tmp_path / "other.elf"
    for image in (late.parent / "late64.elf", late):
        other.write_bytes(image.read_bytes().replace(header, bytes(4)))
        found = refused(tmp_path, "--kernel", other)
        assert "neither a multiboot header nor a PVH note" in found
    beyond = bytearray((late.parent / "late64.elf").read_bytes())
    beyond[64 + 24 : 64 + 32] = (1 << 32).to_bytes(8, "little")  # p_paddr
    other.write_bytes(beyond)
    assert "at physical 0x100000000, beyond the 4 GiB" in refused(tmp_path, "--kernel", other)
    words = ("--kernel", late, "--symbols", tmp_path / "nowhere")
    assert "cannot read its symbols" in refused(tmp_path, *words)
