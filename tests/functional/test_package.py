"""Kernel packages, fetched by a real apt from an archive that the test makes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from kernel_sample import CAN_SEV_ES, CAN_TDX, RELEASE, vmlinux

from tracer.cli import main
from tracer.confidential.kind import Kind
from tracer.host.backports import backports, suite_archive
from tracer.host.package import (
    PackageError,
    fetch_kernel,
    image_in,
    kernels_folder,
    make_default,
    newest_kernel,
)
from tracer.linux.kernel import default_kernel, find_modules

ARCHITECTURE = "amd64"

pytestmark = pytest.mark.skipif(
    not (shutil.which("apt-get") and shutil.which("dpkg-deb")), reason="no apt on this machine"
)


class Shop:
    """An archive of Debian packages in a folder, and an apt that knows no other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "archive"
        self.sources = folder / "etc/sources.list"
        self.index = ""
        for part in ("etc/apt.conf.d", "etc/preferences.d", "lists/partial", "cache/archives"):
            (folder / part).mkdir(parents=True)
        self.folder.mkdir()
        (folder / "status").touch()
        self.sources.write_text(f"deb [trusted=yes] file:{self.folder} ./\n")
        self.configuration = folder / "apt.conf"
        self.configuration.write_text(
            f'Dir::Etc "{folder}/etc";\nDir::State "{folder}";\nDir::Cache "{folder}/cache";\n'
            f'Dir::State::status "{folder}/status";\nAPT::Sandbox::User "root";\n'
        )

    def add(
        self, name: str, depends: str = "", files: Sequence[str] | Mapping[str, bytes] = ()
    ) -> None:
        """Build a package and list it; a file without a content has the package's name in it."""
        tree = self.folder / name
        (tree / "DEBIAN").mkdir(parents=True)
        fields = (
            f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: A Test <a@b.example>\n"
        )
        fields += f"Depends: {depends}\n" if depends else ""
        (tree / "DEBIAN/control").write_text(f"{fields}Description: for a test\n")
        contents = files if isinstance(files, Mapping) else dict.fromkeys(files, name.encode())
        for file, content in contents.items():
            (tree / file).parent.mkdir(parents=True, exist_ok=True)
            (tree / file).write_bytes(content)
        package = self.folder / f"{name}.deb"
        subprocess.run(["dpkg-deb", "-b", tree, package], check=True, capture_output=True)
        content = package.read_bytes()
        self.index += (
            f"{fields}Filename: ./{package.name}\nSize: {len(content)}\n"
            f"SHA256: {hashlib.sha256(content).hexdigest()}\nDescription: for a test\n\n"
        )
        (self.folder / "Packages").write_text(self.index)

    def publish(self, suite: str) -> None:
        """List what there is by now in a suite of the archive, too."""
        lists = self.folder / f"dists/{suite}/main/binary-{ARCHITECTURE}"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / "Packages").write_text(self.index)


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


def test_a_full_disk_is_told_in_the_words_of_the_program_that_met_it(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole(shop)
    program = tmp_path / "bin/dpkg-deb"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n"
        "echo 'tar: ./boot/x: Cannot write: No space left on device' >&2\n"
        "echo 'dpkg-deb: error: tar subprocess returned error exit status 2' >&2\n"
        "exit 2\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    with pytest.raises(PackageError, match="No space left on device"):
        fetch_kernel(f"linux-image-{RELEASE}")
    assert [path.name for path in kernels_folder().iterdir()] == [".lock"]


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


@pytest.fixture
def old(shop: Shop) -> Shop:
    """Give a shop whose machine has an old release, with sources as Debian writes them."""
    shop.add("linux-image-old", files=("boot/vmlinuz-old",))
    shop.add("linux-image-cloud-amd64", "linux-image-old (= 1)")
    shop.publish("one")
    shop.sources.write_text(f"deb [trusted=yes] file:{shop.folder} one main\n")
    shop.index = ""
    shutil.rmtree(shop.folder / "linux-image-cloud-amd64")
    return shop


@pytest.mark.parametrize("pack", [whole, in_parts])
def test_a_kernel_of_backports_is_fetched_beside_the_machines_own(
    pack: Callable[[Shop], None], old: Shop
) -> None:
    pack(old)
    old.publish("one-backports")
    assert newest_kernel() == "linux-image-old"
    archives = [backports()]
    package = newest_kernel(archives=archives)
    assert package == f"linux-image-{RELEASE}"
    with pytest.raises(PackageError, match=f"linux-image-{RELEASE}"):
        fetch_kernel(package)  # the machine itself knows nothing of it
    image = fetch_kernel(package, archives=archives)
    make_default(package, "tdx")
    assert default_kernel() is None
    assert default_kernel(Kind.TDX) == image
    modules = find_modules(image, RELEASE)
    assert modules is not None and (modules / "kernel/a.ko").is_file()


def test_a_kernel_of_another_suite(old: Shop) -> None:
    whole(old)
    old.publish("two")
    archives = [suite_archive("two")]
    assert newest_kernel(archives=archives) == f"linux-image-{RELEASE}"
    assert fetch_kernel(f"linux-image-{RELEASE}", archives=archives).is_file()
    for name in ("../two", "", "two main", "-two", "two/updates"):
        with pytest.raises(PackageError, match="no name of a suite"):
            suite_archive(name)
    with pytest.raises(PackageError, match="dists/three"):
        suite_archive("three")


def test_somebody_elses_archive_has_no_backports(old: Shop) -> None:
    whole(old)
    old.publish("one-backports")
    with old.sources.open("a") as sources:
        sources.write("deb [trusted=yes] file:/nowhere one main\n")
    assert newest_kernel(archives=[backports()]) == f"linux-image-{RELEASE}"


def test_the_machine_may_have_its_own_mind_about_backports(old: Shop) -> None:
    whole(old)
    old.publish("one-backports")
    preferences = old.sources.with_name("preferences")
    preferences.write_text("Package: *\nPin: release *\nPin-Priority: -1\n")
    with pytest.raises(PackageError):
        fetch_kernel("linux-image-old")
    archives = [backports()]
    assert fetch_kernel(newest_kernel(archives=archives), archives=archives).is_file()


def test_backports_that_are_not_to_be_had(shop: Shop, old: Shop) -> None:
    with pytest.raises(PackageError, match="one-backports"):
        backports()
    shop.sources.write_text("deb file:/flat ./\n")
    with pytest.raises(PackageError, match="name no release of Debian"):
        backports()


# ---- vetrace setup --guest

Output = pytest.CaptureFixture[str]
GUESTS = {"tdx": CAN_TDX, "sev-es": CAN_SEV_ES}


def packed(shop: Shop, symbols: Sequence[str]) -> None:
    """Add a kernel with these symbols."""
    shop.add(f"linux-image-{RELEASE}", files={f"boot/vmlinuz-{RELEASE}": vmlinux(symbols)})
    shop.add("linux-image-cloud-amd64", f"linux-image-{RELEASE} (= 1)")


@pytest.fixture
def here(old: Shop) -> Path:
    """Give the plain guest a kernel that can be no other; return its image."""
    image = kernels_folder() / "linux-image-here/boot/vmlinuz-here"
    image.parent.mkdir(parents=True)
    image.write_bytes(vmlinux(release="5.1.0"))
    make_default("linux-image-here")
    return image


@pytest.mark.parametrize("guest", GUESTS)
def test_setup_gets_a_kernel_that_can_beside_the_default_one(
    guest: str, here: Path, old: Shop, capsys: Output
) -> None:
    packed(old, GUESTS[guest])
    old.publish("one-backports")
    for _ in range(2):
        assert main.main(["setup", "--guest", guest]) == 0
        said = capsys.readouterr().out
        assert f"{RELEASE} without modules" in said
        assert f"ready: vetrace boot --guest {guest}" in said
        assert default_kernel() == here
        image = default_kernel(Kind(guest))
        assert image == kernels_folder() / f"linux-image-{RELEASE}/boot/vmlinuz-{RELEASE}"
        shutil.rmtree(old.folder / "dists", ignore_errors=True)  # the second time asks for nothing


@pytest.mark.parametrize("guest", GUESTS)
def test_setup_takes_the_default_kernel_where_that_can(
    guest: str, here: Path, capsys: Output
) -> None:
    here.write_bytes(vmlinux(GUESTS[guest], "5.2.0"))
    assert main.main(["setup", "--guest", guest]) == 0
    assert f"{Kind(guest).label} guest kernel: 5.2.0" in capsys.readouterr().out
    assert default_kernel(Kind(guest)) == here
    assert not (kernels_folder() / guest).exists()


@pytest.mark.parametrize(("words", "kind"), [([], Kind.PLAIN), (["--guest", "tdx"], Kind.TDX)])
def test_setup_takes_the_kernel_of_a_suite_that_is_named(
    words: list[str], kind: Kind, here: Path, old: Shop, capsys: Output
) -> None:
    here.write_bytes(vmlinux(CAN_TDX, "5.2.0"))
    packed(old, CAN_TDX)
    old.publish("two")
    for _ in range(2):
        assert main.main(["setup", "--suite", "two", *words]) == 0
        assert RELEASE in capsys.readouterr().out
        image = default_kernel(kind)
        assert image == kernels_folder() / f"linux-image-{RELEASE}/boot/vmlinuz-{RELEASE}"
    assert (default_kernel() == here) == (kind is not Kind.PLAIN)
    assert main.main(["setup", "--suite", "none", *words]) == 1
    assert "dists/none" in capsys.readouterr().err
    assert default_kernel(kind) == image


@pytest.mark.parametrize("guest", GUESTS)
def test_setup_takes_no_kernel_that_cannot(
    guest: str, here: Path, old: Shop, capsys: Output
) -> None:
    packed(old, ["something_else"])
    old.publish("one-backports")
    assert main.main(["setup", "--guest", guest]) == 1
    said = capsys.readouterr()
    assert f"linux-image-{RELEASE} has no {Kind(guest).label} guest support either" in said.err
    assert "ready" not in said.out
    assert default_kernel(Kind(guest)) == here


@pytest.mark.parametrize(
    ("sources", "reason"),
    [
        ("deb file:/flat ./\n", "name no release of Debian"),
        ("deb [trusted=yes] file:/nowhere one main\n", "/nowhere/dists/one-backports"),
        # Nobody listens there, as on a machine without a network.
        (
            "deb [trusted=yes] http://127.0.0.1:9/x one main\n",
            "Failed to fetch http://127.0.0.1:9/",
        ),
    ],
)
def test_setup_tells_in_a_line_that_there_are_no_backports(
    sources: str, reason: str, here: Path, old: Shop, capsys: Output
) -> None:
    old.sources.write_text(sources)
    assert main.main(["setup", "--guest", "tdx"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "no guest kernel" in line]
    assert reason in line
    assert default_kernel(Kind.TDX) == here


@pytest.mark.parametrize("guest", GUESTS)
def test_boot_refuses_a_kernel_that_cannot_before_it_starts_anything(
    guest: str, here: Path, capsys: Output
) -> None:
    words = ["boot", "--guest", guest, "--qemu", "/nowhere/qemu", "--gdb", "/nowhere/gdb"]
    for kernel in ([], ["--kernel", str(here)]):
        assert main.main([*words, *kernel]) == 1
        line = capsys.readouterr().err.splitlines()[-1]
        assert f"(5.1.0) has no {Kind(guest).label} guest support" in line
        assert f"vetrace setup --guest {guest}" in line


@pytest.mark.parametrize("guest", GUESTS)
def test_boot_without_any_kernel_says_to_run_setup(guest: str, old: Shop, capsys: Output) -> None:
    assert main.main(["boot", "--guest", guest]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"run vetrace setup --guest {guest} " in line
