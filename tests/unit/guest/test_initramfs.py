"""tracer.guest.initramfs: the archive, and what goes into it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tracer.errors import GuestError, UsageError
from tracer.guest.initramfs import Entry, build_initramfs, cpio, initramfs, is_static


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


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    folder = tmp_path / "modules"
    folder.mkdir()
    for name, needs in (("nvme", "nvme-core"), ("nvme-core", ""), ("own", "gone"), ("other", "")):
        (folder / f"{name}.ko").write_bytes(b"\x7fELF\0depends=" + needs.encode() + b"\0")
    (folder / "modules.builtin").write_text("kernel/drivers/virtio/virtio-pci.ko\n")
    return folder


def test_the_default_drivers_come_with_what_they_need(
    own_cache: Path, tmp_path: Path, modules: Path
) -> None:
    (tmp_path / "init").write_text("one")
    found = unpack(build_initramfs(tmp_path / "init", modules).read_bytes())
    assert found["lib/modules/order"][1] == b"nvme_core.ko\nnvme.ko\n"
    assert "lib/modules/nvme_core.ko" in found and "lib/modules/other.ko" not in found


def test_wanted_modules_come_last_and_what_is_not_as_asked_is_told(
    own_cache: Path, tmp_path: Path, modules: Path
) -> None:
    (tmp_path / "init").write_text("one")
    said: list[str] = []
    wanted = ("other", "virtio_pci", "own", "nvme")
    path = build_initramfs(tmp_path / "init", modules, wanted, said.append)
    order = unpack(path.read_bytes())["lib/modules/order"][1]
    assert order == b"nvme_core.ko\nnvme.ko\nother.ko\nown.ko\n"
    assert said == [
        "virtio_pci needs no loading: it is built into the kernel",
        f"the module own needs gone, which is not in {modules}, nor built in",
    ]


@pytest.mark.parametrize("folder", [True, False])
def test_a_wanted_module_that_is_nowhere_is_refused(
    own_cache: Path, tmp_path: Path, modules: Path, folder: bool
) -> None:
    (tmp_path / "init").write_text("one")
    with pytest.raises(UsageError, match="no module e1000e"):
        build_initramfs(tmp_path / "init", modules if folder else None, ["e1000e"])


def module(needs: str, release: str) -> bytes:
    return b"\x7fELF\0depends=%s\0vermagic=%s SMP\0" % (needs.encode(), release.encode())


def test_a_module_of_a_build_tree_comes_with_what_lies_beside_it(
    own_cache: Path, tmp_path: Path, modules: Path
) -> None:
    (tmp_path / "init").write_text("one")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "my-driver.ko").write_bytes(module("my-core,other", modules.name))
    (tree / "my-core.ko").write_bytes(module("", modules.name))
    (tree / "other.ko").write_bytes(module("", "of the tree, and not that of the kernel"))
    wanted = [str(tree / "my-driver.ko")]
    found = unpack(build_initramfs(tmp_path / "init", modules, wanted).read_bytes())
    order = found["lib/modules/order"][1].split()
    assert order[-3:] == [b"my_core.ko", b"other.ko", b"my_driver.ko"]
    assert b"of the tree" not in found["lib/modules/other.ko"][1]


def test_a_module_file_of_another_kernel_is_refused(
    own_cache: Path, tmp_path: Path, modules: Path
) -> None:
    (tmp_path / "init").write_text("one")
    own = tmp_path / "mine.ko"
    for content, words in (
        (module("", "5.10.0"), f"built for Linux 5.10.0, and the guest runs {modules.name}"),
        (b"#!/bin/sh", "is no kernel module"),
        (None, "cannot read the module .*mine.ko: No such file"),
    ):
        own.unlink(missing_ok=True)
        if content is not None:
            own.write_bytes(content)
        with pytest.raises(UsageError, match=words):
            build_initramfs(tmp_path / "init", modules, [str(own)])
