"""The guest's initramfs: busybox, kernel modules and an init script in a cpio archive.

Ref: Linux Documentation/driver-api/early-userspace/buffer-format.rst (the "newc" format).
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import re
import shutil
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import zstandard

from tracer.cache import cache_folder, new_file
from tracer.errors import GuestError

MODULES = ("virtio_pci", "virtio_blk", "virtio_net")
"""Modules that ``qemu/init`` loads; what they depend on comes with them."""

MODULE_FOLDER = "lib/modules"
"""Folder of the modules in the guest; its file ``order`` names them, dependencies first."""

_KINDS = {"file": stat.S_IFREG, "folder": stat.S_IFDIR, "link": stat.S_IFLNK, "char": stat.S_IFCHR}
_SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")
_MAX_MODULE = 1 << 28  # bytes, unpacked


@dataclass(frozen=True, slots=True)
class Entry:
    """Describe one entry of the archive: ``kind`` is file, folder, link or char.

    ``content`` is a file's bytes or a link's target; ``device`` is major and minor.
    """

    name: str
    kind: str
    mode: int = 0o755
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def cpio(entries: Iterable[Entry]) -> bytes:
    """Write entries as a newc archive: the same entries give the same bytes."""
    out = bytearray()
    for number, entry in enumerate((*entries, Entry("TRAILER!!!", "file", 0)), 1):
        name = entry.name.encode() + b"\0"
        last = entry.name == "TRAILER!!!"
        fields = (
            0 if last else number,  # inode
            0 if last else _KINDS[entry.kind] | entry.mode,
            0,  # owner: root
            0,  # group: root
            2 if entry.kind == "folder" else 1,  # links
            0,  # modification time: none, so that the archive is reproducible
            len(entry.content),
            0,  # device that holds the archive's files
            0,
            *entry.device,
            len(name),
            0,  # checksum: unused in newc
        )
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        out += bytes(-len(out) % 4)
        out += entry.content
        out += bytes(-len(out) % 4)
    return bytes(out)


def depends(module: bytes) -> list[str]:
    """Return the names of the modules a module needs, from its ``.modinfo`` section.

    Ref: Linux scripts/mod/modpost.c, add_depends.
    """
    match = re.search(rb"\0depends=([^\0]*)\0", module)
    names = match[1].decode("ascii", "replace") if match else ""
    return [name for name in names.split(",") if name]


def module_files(folder: Path) -> dict[str, Path]:
    """Return the module files under ``lib/modules/RELEASE`` by module name (``-`` as ``_``)."""
    found = {}
    for path in sorted(folder.rglob("*.ko*")):
        stem, dot, suffix = path.name.partition(".ko")
        if dot and dot + suffix in _SUFFIXES:
            found[stem.replace("-", "_")] = path
    return found


def closure(folder: Path, wanted: Sequence[str]) -> list[tuple[str, bytes]]:
    """Return the wanted modules and all they need, each after what it needs, unpacked.

    Dependencies are read from the modules themselves, because ``modules.dep`` exists only once
    a package has been installed. A wanted module that is not there is left out: it may be built
    into the kernel. Raises GuestError for a damaged module file.
    """
    files = module_files(folder)
    done: dict[str, bytes] = {}

    def add(name: str, path: Path) -> None:
        done[name] = b""  # before its dependencies, so that a circle ends
        content = _unpacked(path)
        for need in depends(content):
            if need in files and need not in done:
                add(need, files[need])
        del done[name]  # to the end: after what it needs
        done[name] = content

    for name in wanted:
        if name in files and name not in done:
            add(name, files[name])
    return list(done.items())


def initramfs(init: bytes, busybox: bytes, modules: Sequence[tuple[str, bytes]]) -> bytes:
    """Return the archive of a guest that runs ``init`` with a static busybox."""
    folders = ("bin", "dev", "lib", MODULE_FOLDER, "proc", "sys", "tmp")
    order = "".join(f"{name}.ko\n" for name, _ in modules)
    return cpio(
        (
            *(Entry(name, "folder") for name in folders),
            # The kernel opens it as init's standard input and output before /dev is mounted.
            Entry("dev/console", "char", 0o600, device=(5, 1)),
            Entry("bin/busybox", "file", content=busybox),
            Entry("bin/sh", "link", 0o777, content=b"busybox"),
            Entry("init", "file", content=init),
            Entry(f"{MODULE_FOLDER}/order", "file", 0o644, order.encode()),
            *(
                Entry(f"{MODULE_FOLDER}/{name}.ko", "file", 0o644, content)
                for name, content in modules
            ),
        )
    )


def find_busybox() -> Path:
    """Return the static busybox to put into the guest. Raises GuestError when there is none."""
    for candidate in ("busybox", "busybox.static"):
        found = shutil.which(candidate, path="/bin:/usr/bin:/usr/local/bin") or shutil.which(
            candidate
        )
        if found is not None and is_static(Path(found).read_bytes()):
            return Path(found)
    raise GuestError(
        "there is no static busybox to put into the guest: run scripts/setup, "
        "or install your system's busybox-static package"
    )


def is_static(program: bytes) -> bool:
    """Tell whether an ELF64 program needs no loader: it has no PT_INTERP segment."""
    if not program.startswith(b"\x7fELF\x02"):
        return False
    start = int.from_bytes(program[32:40], "little")
    size = int.from_bytes(program[54:56], "little")
    count = int.from_bytes(program[56:58], "little")
    kinds = [program[start + i * size : start + i * size + 4] for i in range(count)]
    return b"\x03\0\0\0" not in kinds


def build_initramfs(init: Path, modules: Path | None) -> Path:
    """Return the initramfs for a guest, made anew when anything in it changed.

    ``init`` is the script to run, ``modules`` the folder ``lib/modules/RELEASE`` or None. The
    archive is kept in the cache folder by the hash of its content. Raises GuestError when the
    script, busybox or a module cannot be read, TracerError when the archive cannot be written.
    """
    try:
        chosen = closure(modules, MODULES) if modules is not None else []
        archive = initramfs(init.read_bytes(), find_busybox().read_bytes(), chosen)
    except OSError as error:
        raise GuestError(
            f"cannot build the initramfs: {error.filename}: {error.strerror}"
        ) from error
    digest = hashlib.sha256(archive).hexdigest()
    path = cache_folder() / "initramfs" / f"{digest[:32]}.cpio"
    if not path.is_file() or path.stat().st_size != len(archive):
        with new_file(path) as draft:
            draft.write_bytes(archive)
    return path


def _unpacked(path: Path) -> bytes:
    content = path.read_bytes()
    try:
        match path.suffix:
            case ".xz":
                return lzma.LZMADecompressor().decompress(content, _MAX_MODULE)
            case ".gz":
                return gzip.decompress(content)
            case ".zst":
                return zstandard.ZstdDecompressor().decompressobj().decompress(content)
            case _:
                return content
    except (lzma.LZMAError, EOFError, OSError, zstandard.ZstdError) as error:
        raise GuestError(f"cannot unpack the kernel module {path}: {error}") from error
