"""Debian 12's 32-bit kernel and a guest for it, with the same script as the default guest's.

Later releases have none. Its packages are unpacked into the cache folder, apart from kernels that
are vetrace's own.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from debian_kernel import downloaded

from tracer.guest import recipe
from tracer.guest.initramfs import initramfs
from tracer.host.backports import suite_archive
from tracer.host.cache import cache_folder
from tracer.host.package import Archive, image_in, newest_kernel, run_program
from tracer.linux.module_folder import closure, read_folder

_SUITE, _FLAVOUR = "bookworm", "linux-image-686-pae"
# The default guest's have them built in, or come with what needs them.
_DRIVERS = "virtio_pci", "virtio_blk", "virtio_net", "nvme"


def kernel_i386() -> tuple[Path, Path]:
    """Return the kernel and an initramfs for it, downloaded the first time that they are wanted."""
    folder = cache_folder() / "i386"
    image = image_in(folder / "root") or downloaded("of 32 bits", lambda: _fetched(folder))
    busybox = folder / "root" / "bin" / "busybox"
    (release,) = (folder / "root" / "lib" / "modules").iterdir()
    modules = closure(read_folder(release), _DRIVERS).modules
    archive = folder / "initramfs.cpio"
    archive.write_bytes(initramfs(recipe.init_script().read_bytes(), busybox.read_bytes(), modules))
    return image, archive


def _fetched(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("lists/partial", "cache/archives/partial", "packages", "draft"):
        (folder / part).mkdir(parents=True)
    status = folder / "status"
    status.write_text("")
    own = {
        "APT::Architecture": "i386", "APT::Architectures": "i386", "Dir::State::status": status,
        "Dir::State::lists": f"{folder}/lists/", "Dir::Cache": f"{folder}/cache/",
    }  # fmt: skip
    words = [word for name, value in own.items() for word in ("-o", f"{name}={value}")]
    archive = Archive((*suite_archive(_SUITE).options, *words))
    archive.update()
    kernel = newest_kernel(_FLAVOUR, archives=[archive])
    for file in archive.download([kernel, "busybox-static"], folder / "packages"):
        run_program(["dpkg-deb", "-x", str(file), str(folder / "draft")])
    shutil.rmtree(folder / "packages")
    (folder / "draft").rename(folder / "root")
    image = image_in(folder / "root")
    assert image is not None
    return image
