"""tracer.guest.initramfs: the archive, and which modules go into it in which order."""

from __future__ import annotations

import gzip
import lzma
import stat
from pathlib import Path

import pytest
import zstandard

from tracer.errors import GuestError
from tracer.guest.initramfs import (
    Entry,
    build_initramfs,
    closure,
    cpio,
    depends,
    initramfs,
    is_static,
    module_files,
)


def unpack(archive: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """Read a newc archive back: name -> mode, content, device."""
    found = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        size, name_size = fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        at += (110 + name_size + 3) // 4 * 4
        if name == b"TRAILER!!!\0":
            assert at == len(archive)
            return found
        found[name[:-1].decode()] = (
            fields[1], archive[at : at + size], (fields[9], fields[10]),
        )  # fmt: skip
        at += (size + 3) // 4 * 4


def module(*needs: str) -> bytes:
    text = b"\0license=GPL\0depends=" + ",".join(needs).encode() + b"\0name=x\0"
    return b"\x7fELF" + bytes(50) + text


def test_cpio_holds_every_kind() -> None:
    entries = [
        Entry("dev", "folder"),
        Entry("dev/console", "char", 0o600, device=(5, 1)),
        Entry("odd", "file", 0o644, b"12345"),
        Entry("sh", "link", 0o777, b"busybox"),
    ]
    assert unpack(cpio(entries)) == {
        "dev": (stat.S_IFDIR | 0o755, b"", (0, 0)),
        "dev/console": (stat.S_IFCHR | 0o600, b"", (5, 1)),
        "odd": (stat.S_IFREG | 0o644, b"12345", (0, 0)),
        "sh": (stat.S_IFLNK | 0o777, b"busybox", (0, 0)),
    }
    assert cpio(entries) == cpio(entries)


@pytest.mark.parametrize("size", range(9))
def test_cpio_is_padded_whatever_the_sizes(size: int) -> None:
    entries = [Entry("n" * (size + 1), "file", content=b"x" * size), Entry("last", "file")]
    assert list(unpack(cpio(entries))) == ["n" * (size + 1), "last"]


@pytest.mark.parametrize(
    ("needs", "expected"),
    [((), []), (("virtio",), ["virtio"]), (("a", "b_c"), ["a", "b_c"])],
)
def test_depends(needs: tuple[str, ...], expected: list[str]) -> None:
    assert depends(module(*needs)) == expected


def test_depends_of_a_file_that_says_nothing() -> None:
    assert depends(b"\x7fELF") == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    drivers = tmp_path / "kernel" / "drivers"
    drivers.mkdir(parents=True)
    (drivers / "virtio.ko").write_bytes(module("virtio_ring"))
    (drivers / "virtio-ring.ko.xz").write_bytes(lzma.compress(module()))
    (drivers / "failover.ko.gz").write_bytes(gzip.compress(module()))
    (drivers / "net_failover.ko.zst").write_bytes(
        zstandard.ZstdCompressor().compress(module("failover", "not_here"))
    )
    (drivers / "virtio_net.ko").write_bytes(module("net_failover", "virtio", "virtio_ring"))
    (drivers / "circle.ko").write_bytes(module("round"))
    (drivers / "round.ko").write_bytes(module("circle"))
    (drivers / "other.ko").write_bytes(module())
    (drivers / "virtio_net.konfig").write_bytes(b"no module")
    return tmp_path


def test_closure_has_needs_first_and_all_unpacked(folder: Path) -> None:
    found = closure(folder, ["virtio", "virtio_net", "built_in"])
    assert [name for name, _ in found] == [
        "virtio_ring", "virtio", "failover", "net_failover", "virtio_net",
    ]  # fmt: skip
    assert all(content.startswith(b"\x7fELF") for _, content in found)


def test_closure_of_a_circle_ends(folder: Path) -> None:
    assert [name for name, _ in closure(folder, ["circle"])] == ["round", "circle"]


def test_module_files_by_name(folder: Path) -> None:
    files = module_files(folder)
    assert files["virtio_ring"].name == "virtio-ring.ko.xz"
    assert files["virtio_net"].name == "virtio_net.ko"


def test_damaged_module_is_named(folder: Path) -> None:
    (folder / "kernel/drivers/virtio-ring.ko.xz").write_bytes(b"no xz at all")
    with pytest.raises(GuestError, match=r"virtio-ring\.ko\.xz"):
        closure(folder, ["virtio"])


def test_archive_boots_what_it_is_given() -> None:
    found = unpack(initramfs(b"#!/bin/sh\n", b"BUSY", [("b", b"B"), ("a", b"A")]))
    assert found["init"] == (stat.S_IFREG | 0o755, b"#!/bin/sh\n", (0, 0))
    assert found["bin/busybox"][1] == b"BUSY"
    assert found["bin/sh"][1] == b"busybox"
    assert found["lib/modules/order"][1] == b"b.ko\na.ko\n"
    assert found["lib/modules/a.ko"][1] == b"A"
    assert found["dev/console"][2] == (5, 1)
    names = list(found)
    for name in names:
        parent = name.rpartition("/")[0]
        assert not parent or names.index(parent) < names.index(name)


def elf(*segments: int) -> bytes:
    header = bytearray(64)
    header[:5] = b"\x7fELF\x02"
    header[32] = 64
    header[54] = 56
    header[56] = len(segments)
    return bytes(header) + b"".join(kind.to_bytes(4, "little") + bytes(52) for kind in segments)


def test_is_static() -> None:
    assert is_static(elf(1, 1, 6))
    assert not is_static(elf(6, 3, 1))
    assert not is_static(b"#!/bin/sh\n")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "cache"
    monkeypatch.setenv("VETRACE_CACHE", str(cache))
    busybox = tmp_path / "busybox"
    busybox.write_bytes(elf(1))
    monkeypatch.setattr("tracer.guest.initramfs.find_busybox", lambda: busybox)
    return cache


def test_build_is_kept_until_something_changes(own_cache: Path, tmp_path: Path) -> None:
    init = tmp_path / "init"
    init.write_text("one")
    first = build_initramfs(init, None)
    assert first.is_relative_to(own_cache)
    assert build_initramfs(init, None) == first
    init.write_text("two")
    second = build_initramfs(init, None)
    assert second != first
    assert unpack(second.read_bytes())["init"][1] == b"two"
    assert sorted(path.name for path in first.parent.iterdir()) == sorted([first.name, second.name])


def test_build_repairs_a_cut_off_archive(own_cache: Path, tmp_path: Path) -> None:
    init = tmp_path / "init"
    init.write_text("one")
    path = build_initramfs(init, None)
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    assert build_initramfs(init, None).read_bytes() == whole


def test_build_names_a_missing_script(own_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="nowhere"):
        build_initramfs(tmp_path / "nowhere", None)
