"""Kernel packages, fetched by a real apt from an archive that the test makes."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from tracer.host.package import (
    PackageError,
    fetch_kernel,
    image_in,
    kernels_folder,
    make_default,
    newest_kernel,
)
from tracer.linux.kernel import default_kernel, find_modules

RELEASE = "9.1.0-1-cloud-amd64"

pytestmark = pytest.mark.skipif(
    not (shutil.which("apt-get") and shutil.which("dpkg-deb")), reason="no apt on this machine"
)


class Shop:
    """An archive of Debian packages in a folder, and an apt that knows no other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "archive"
        self.index = ""
        for part in ("etc/apt.conf.d", "etc/preferences.d", "lists/partial", "cache/archives"):
            (folder / part).mkdir(parents=True)
        self.folder.mkdir()
        (folder / "status").touch()
        (folder / "etc/sources.list").write_text(f"deb [trusted=yes] file:{self.folder} ./\n")
        self.configuration = folder / "apt.conf"
        self.configuration.write_text(
            f'Dir::Etc "{folder}/etc";\nDir::State "{folder}";\nDir::Cache "{folder}/cache";\n'
            f'Dir::State::status "{folder}/status";\nAPT::Sandbox::User "root";\n'
        )

    def add(self, name: str, depends: str = "", files: tuple[str, ...] = ()) -> None:
        """Build a package and list it."""
        tree = self.folder / name
        (tree / "DEBIAN").mkdir(parents=True)
        fields = (
            f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: A Test <a@b.example>\n"
        )
        fields += f"Depends: {depends}\n" if depends else ""
        (tree / "DEBIAN/control").write_text(f"{fields}Description: for a test\n")
        for file in files:
            (tree / file).parent.mkdir(parents=True, exist_ok=True)
            (tree / file).write_text(name)
        package = self.folder / f"{name}.deb"
        subprocess.run(["dpkg-deb", "-b", tree, package], check=True, capture_output=True)
        content = package.read_bytes()
        self.index += (
            f"{fields}Filename: ./{package.name}\nSize: {len(content)}\n"
            f"SHA256: {hashlib.sha256(content).hexdigest()}\nDescription: for a test\n\n"
        )
        (self.folder / "Packages").write_text(self.index)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    shop = Shop(tmp_path / "apt")
    monkeypatch.setenv("APT_CONFIG", str(shop.configuration))
    monkeypatch.setenv("VETRACE_CACHE", str(tmp_path / "cache"))
    return shop


def whole(shop: Shop) -> None:
    """Add a kernel as Debian packed them up to 13."""
    shop.add(
        f"linux-image-{RELEASE}",
        files=(f"boot/vmlinuz-{RELEASE}", f"lib/modules/{RELEASE}/kernel/a.ko", "usr/share/doc/x"),
    )
    shop.add("linux-image-cloud-amd64", f"linux-image-{RELEASE} (= 1)")


def in_parts(shop: Shop) -> None:
    """Add a kernel as Debian packs them since 14."""
    home = f"usr/lib/modules/{RELEASE}"
    shop.add(f"linux-binary-{RELEASE}", files=(f"{home}/vmlinuz",))
    shop.add(f"linux-modules-{RELEASE}", files=(f"{home}/kernel/a.ko", f"{home}/modules.order"))
    parts = ", ".join(f"linux-{part}-{RELEASE} (= 1)" for part in ("binary", "modules"))
    shop.add(f"linux-image-{RELEASE}", f"{parts}, kmod")
    shop.add("linux-image-cloud-amd64", f"linux-image-{RELEASE} (= 1)")


@pytest.mark.parametrize("pack", [whole, in_parts])
def test_a_kernel_is_fetched_with_its_modules(pack, shop: Shop) -> None:  # type: ignore[no-untyped-def]
    pack(shop)
    package = newest_kernel()  # from lists that are fetched first: there are none
    assert package == f"linux-image-{RELEASE}"
    image = fetch_kernel(package)
    assert image == image_in(kernels_folder() / package)
    modules = find_modules(image, RELEASE)
    assert modules is not None and (modules / "kernel/a.ko").is_file()
    assert default_kernel() is None
    make_default(package)
    assert default_kernel() == image
    assert not list(kernels_folder().glob(".draft*"))


def test_packages_that_are_not_to_be_had(shop: Shop) -> None:
    shop.add("something-else")
    with pytest.raises(PackageError, match="knows no package linux-image-cloud-amd64"):
        newest_kernel()
    with pytest.raises(PackageError, match="Unable to locate package linux-image-nothing"):
        fetch_kernel("linux-image-nothing")
    shop.add("linux-image-empty", files=("usr/share/doc/readme",))
    with pytest.raises(PackageError, match="no kernel image in linux-image-empty"):
        fetch_kernel("linux-image-empty")
    assert sorted(path.name for path in kernels_folder().iterdir()) == [".lock"]


def test_two_at_once_fetch_it_once(shop: Shop) -> None:
    whole(shop)
    said: list[str] = []
    images: list[Path] = []
    threads = [
        threading.Thread(
            target=lambda: images.append(fetch_kernel(f"linux-image-{RELEASE}", said.append))
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(images)) == 1 and len(images) == 2
    assert sum(text.startswith("downloading") for text in said) <= 2


def test_a_draft_that_was_left_is_removed(shop: Shop) -> None:
    whole(shop)
    left = kernels_folder() / ".draft.left"
    (left / "boot").mkdir(parents=True)
    fetch_kernel(f"linux-image-{RELEASE}")
    assert not left.exists()
