"""tracer.linux.kernel: the parts that need no real kernel."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tracer.access.symbols import Symbol, elf_symbols
from tracer.confidential.kind import Kind
from tracer.errors import KernelImageError
from tracer.linux.kernel import default_kernel, find_modules, open_kernel, read_symbols

NAMES = b"\0probe\0data\0local\0absolute\0undefined\0file.c\0"


def entry(name: str, kind: int, binding: int, section: int, value: int) -> bytes:
    at = NAMES.index(b"\0" + name.encode() + b"\0") + 1 if name else 0
    return struct.pack("<IBBHQQ", at, binding << 4 | kind, 0, section, value, 0)


def test_elf_symbols() -> None:
    table = b"".join(
        [
            entry("", 0, 0, 0, 0),
            entry("probe", 2, 1, 1, 0x1000),
            entry("data", 1, 1, 2, 0x2000),
            entry("local", 2, 0, 1, 0x1100),
            entry("absolute", 0, 1, 0xFFF1, 5),
            entry("undefined", 2, 1, 0, 0),
            entry("file.c", 4, 0, 0xFFF1, 0),
            entry("", 3, 0, 1, 0x1000),
        ]
    )
    assert elf_symbols(table + b"cut off", NAMES) == [
        Symbol(0x1000, "T", "probe"),
        Symbol(0x2000, "D", "data"),
        Symbol(0x1100, "t", "local"),
        Symbol(5, "A", "absolute"),
    ]


@pytest.mark.parametrize("lib", ["lib", "usr/lib"])
def test_modules_beside_the_image(lib: str, tmp_path: Path) -> None:
    image = tmp_path / "boot" / "vmlinuz"
    folder = tmp_path / lib / "modules" / "6.1.0-test"
    folder.mkdir(parents=True)
    image.parent.mkdir()
    image.touch()
    assert find_modules(image, "6.1.0-test") == folder
    assert find_modules(image, "6.1.0-other") is None


def test_modules_are_found_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real" / "boot").mkdir(parents=True)
    (tmp_path / "real" / "lib" / "modules" / "r").mkdir(parents=True)
    (tmp_path / "real" / "boot" / "vmlinuz").touch()
    (tmp_path / "vmlinuz").symlink_to(tmp_path / "real" / "boot" / "vmlinuz")
    assert find_modules(tmp_path / "vmlinuz", "r") == tmp_path / "real" / "lib" / "modules" / "r"


def test_default_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VETRACE_CACHE", str(tmp_path))
    assert default_kernel() is None
    boot = tmp_path / "kernel" / "linux-image-1" / "boot"
    boot.mkdir(parents=True)
    (boot / "vmlinuz-1").touch()
    (tmp_path / "kernel" / "current").symlink_to("linux-image-1")
    assert default_kernel() == boot / "vmlinuz-1"


def test_a_kind_of_guest_has_its_own_kernel_or_the_plain_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VETRACE_CACHE", str(tmp_path))
    for name in ("one", "two"):
        boot = tmp_path / "kernel" / name / "boot"
        boot.mkdir(parents=True)
        (boot / f"vmlinuz-{name}").touch()
    (tmp_path / "kernel" / "tdx").symlink_to("two")
    assert default_kernel() is None
    (tmp_path / "kernel" / "current").symlink_to("one")
    chosen = {kind: path.name for kind in Kind if (path := default_kernel(kind)) is not None}
    assert chosen == {
        Kind.PLAIN: "vmlinuz-one", Kind.TDX: "vmlinuz-two", Kind.SEV_ES: "vmlinuz-one",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"image: not an x86 Linux kernel image: it is empty"),
        (b"\x7fELF", r"image: .*damaged ELF"),
        (b"\x7fELF" + bytes(200), r"image: .*damaged ELF"),
    ],
)
def test_open_names_the_file_it_refuses(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VETRACE_CACHE", str(tmp_path / "cache"))
    image = tmp_path / "image"
    image.write_bytes(content)
    with pytest.raises(KernelImageError, match=message):
        open_kernel(image)
    assert not (tmp_path / "cache").exists()


def test_open_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(KernelImageError, match="nothing: no such file"):
        open_kernel(tmp_path / "nothing")
    with pytest.raises(KernelImageError, match="not a file"):
        open_kernel(tmp_path)


@pytest.mark.parametrize("content", [b"\x7fELF", b"\x7fELF\x02\x01\x01" + bytes(100), b"\xff\xfe"])
def test_symbols_from_a_foreign_file(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "symbols"
    file.write_bytes(content)
    with pytest.raises(KernelImageError, match="ELF"):
        read_symbols(file)
