"""tracer.linux.module_folder: which modules there are, and what loads before which."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pytest
import zstandard

from tracer.errors import GuestError, UsageError
from tracer.linux.module_folder import Closure, ModuleFolder, closure, needs, read_folder


def module(*required: str, soft: tuple[str, ...] = ()) -> bytes:
    text = b"\0license=GPL\0depends=" + ",".join(required).encode() + b"\0"
    text += b"".join(b"softdep=" + words.encode() + b"\0" for words in soft) + b"name=x\0"
    return b"\x7fELF" + bytes(50) + text


def names(found: Closure) -> list[str]:
    return [name for name, _ in found.modules]


@pytest.mark.parametrize(
    ("required", "expected"),
    [((), ()), (("virtio",), ("virtio",)), (("a", "b_c", "d-e"), ("a", "b_c", "d_e"))],
)
def test_what_a_module_requires(required: tuple[str, ...], expected: tuple[str, ...]) -> None:
    found = needs(module(*required))
    assert (found.required, found.before, found.after) == (expected, expected, ())


def test_what_a_module_would_like() -> None:
    soft = ("pre: ecb post: x-after", "post: other", "unsaid", "pre: two three")
    found = needs(module("hard", soft=soft))
    assert found.required == ("hard",)
    assert found.before == ("hard", "ecb", "two", "three")
    assert found.after == ("x_after", "other")


def test_a_file_that_says_nothing_needs_nothing() -> None:
    found = needs(b"\x7fELF")
    assert (found.required, found.before, found.after) == ((), (), ())


@pytest.fixture
def folder(tmp_path: Path) -> ModuleFolder:
    drivers = tmp_path / "kernel" / "drivers"
    drivers.mkdir(parents=True)
    (drivers / "virtio.ko").write_bytes(module("virtio_ring"))
    (drivers / "virtio-ring.ko.xz").write_bytes(lzma.compress(module()))
    (drivers / "failover.ko.gz").write_bytes(gzip.compress(module()))
    (drivers / "net_failover.ko.zst").write_bytes(
        zstandard.ZstdCompressor().compress(module("failover", "not_here"))
    )
    (drivers / "virtio_net.ko").write_bytes(module("net_failover", "virtio", "virtio_ring"))
    (drivers / "nvme-core.ko").write_bytes(module("t10-pi"))
    (drivers / "t10-pi.ko").write_bytes(module("crc-core"))
    (drivers / "nvme.ko").write_bytes(module("nvme-core"))
    (drivers / "realtek.ko").write_bytes(module())
    (drivers / "r8169.ko").write_bytes(module(soft=("pre: realtek absent post: later",)))
    (drivers / "later.ko").write_bytes(module())
    (drivers / "circle.ko").write_bytes(module("round"))
    (drivers / "round.ko").write_bytes(module("circle"))
    (drivers / "other.ko").write_bytes(module())
    (drivers / "virtio_net.konfig").write_bytes(b"no module")
    (tmp_path / "modules.builtin").write_text(
        "kernel/lib/crc-core.ko\nkernel/drivers/usb/core/usb-core.ko\n"
    )
    return read_folder(tmp_path)


def test_needs_come_first_and_all_is_unpacked(folder: ModuleFolder) -> None:
    found = closure(folder, ["virtio", "virtio_net", "usb_core"])
    assert names(found) == ["virtio_ring", "virtio", "failover", "net_failover", "virtio_net"]
    assert all(content.startswith(b"\x7fELF") for _, content in found.modules)


def test_a_need_that_is_neither_there_nor_built_in_is_missing(folder: ModuleFolder) -> None:
    assert closure(folder, ["virtio_net"]).missing == (("net_failover", "not_here"),)
    assert closure(folder, ["nvme", "r8169"]).missing == ()


@pytest.mark.parametrize("word", ["nvme", "nvme_core", "nvme-core"])
def test_hyphen_and_underscore_are_the_same(folder: ModuleFolder, word: str) -> None:
    found = names(closure(folder, [word]))
    assert found == ["t10_pi", "nvme_core", "nvme"][: 2 + (word == "nvme")]


def test_soft_dependencies_load_before_and_after(folder: ModuleFolder) -> None:
    assert names(closure(folder, ["r8169"])) == ["realtek", "r8169", "later"]


def test_each_module_comes_once(folder: ModuleFolder) -> None:
    assert names(closure(folder, ["other", "virtio", "other", "virtio-ring"])) == [
        "other", "virtio_ring", "virtio",
    ]  # fmt: skip


def test_a_circle_ends(folder: ModuleFolder) -> None:
    assert names(closure(folder, ["circle"])) == ["round", "circle"]


def test_files_by_name(folder: ModuleFolder) -> None:
    assert folder.files["virtio_ring"].name == "virtio-ring.ko.xz"
    assert folder.files["virtio_net"].name == "virtio_net.ko"


def test_what_the_reader_asks_for(folder: ModuleFolder) -> None:
    assert folder.find("virtio-net") == "virtio_net"
    assert folder.find("usb-core") is folder.find("usb_core") is None
    with pytest.raises(UsageError, match=r"no module virtio-nte .* did you mean virtio_net\?"):
        folder.find("virtio-nte")
    with pytest.raises(UsageError, match=r"no module nvme: .* no folder"):
        read_folder(None).find("nvme")


def test_a_driver_that_debians_kernel_for_clouds_leaves_out(tmp_path: Path) -> None:
    small, full = tmp_path / "6.1.0-50-cloud-amd64", tmp_path / "6.1.0-50-amd64"
    for path in (small, full):
        path.mkdir()
    with pytest.raises(UsageError, match=r"vetrace setup --flavour full gets the full one"):
        read_folder(small).find("e1000e")
    with pytest.raises(UsageError, match=r"nor built into that kernel$"):
        read_folder(full).find("e1000e")


def test_a_file_that_is_asked_for_without_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "driver").touch()
    folder = ModuleFolder(Path("/lib/modules/6.1.0-50-cloud-amd64"))
    with pytest.raises(UsageError, match=r"named by its path, \./driver$"):
        folder.find("driver")


def test_a_folder_without_a_list_of_what_is_built_in(tmp_path: Path) -> None:
    (tmp_path / "only.ko").write_bytes(module())
    folder = read_folder(tmp_path)
    assert (list(folder.files), folder.built_in) == (["only"], frozenset())


def test_damaged_module_is_named(folder: ModuleFolder) -> None:
    folder.files["virtio_ring"].write_bytes(b"no xz at all")
    with pytest.raises(GuestError, match=r"virtio-ring\.ko\.xz"):
        closure(folder, ["virtio"])
