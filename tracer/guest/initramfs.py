"""The guest's initramfs: busybox, kernel modules and an init script in a cpio archive.

Ref: Linux Documentation/driver-api/early-userspace/buffer-format.rst (the "newc" format).
"""

from __future__ import annotations

import hashlib
import shutil
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tracer.errors import GuestError
from tracer.host.cache import cache_folder
from tracer.host.whole_file import new_file
from tracer.linux.module_folder import closure, read_folder

MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "nvme")
MODULES_WITHOUT_PCI = ("virtio_mmio", "virtio_blk", "virtio_net")
"""Modules that ``qemu/init`` loads where they are not built in: the default guest's drivers. What
they need comes with them."""

MODULE_FOLDER = "lib/modules"
"""Folder of the modules in the guest; its file ``order`` names them, dependencies first."""

_KINDS = {"file": stat.S_IFREG, "folder": stat.S_IFDIR, "link": stat.S_IFLNK, "char": stat.S_IFCHR}


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


def initramfs(
    init: bytes,
    busybox: bytes,
    modules: Sequence[tuple[str, bytes]],
    added: Sequence[Entry] = (),
) -> bytes:
    """Return the archive of a guest that runs ``init`` with a static busybox.

    What is ``added`` comes last, in the place of what has its name.
    """
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
            *added,
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
        "there is no static busybox to put into the guest: run vetrace setup --install, "
        "or install your system's busybox-static package"
    )


def is_static(program: bytes) -> bool:
    """Tell whether an ELF64 program needs no loader: it has no PT_INTERP segment."""
    return program.startswith(b"\x7fELF\x02") and loader_of(program) is None


def loader_of(program: bytes) -> str | None:
    """Return the path of the loader that an ELF64 program wants, None for what wants none.

    Ref: System V ABI, chapter 5 (PT_INTERP).
    """
    if not program.startswith(b"\x7fELF\x02"):
        return None
    start = int.from_bytes(program[32:40], "little")
    size = int.from_bytes(program[54:56], "little")
    count = int.from_bytes(program[56:58], "little")
    for at in range(start, start + count * size, size or 1):
        header = program[at : at + size]
        if header[:4] == b"\x03\0\0\0":
            place = int.from_bytes(header[8:16], "little")
            length = int.from_bytes(header[32:40], "little")
            return program[place : place + length].rstrip(b"\0").decode(errors="replace")
    return None


def build_initramfs(
    init: Path,
    modules: Path | None,
    wanted: Sequence[str] = (),
    tell: Callable[[str], None] = lambda _: None,
    drivers: Sequence[str] = MODULES,
    added: Sequence[Entry] = (),
) -> Path:
    """Return the initramfs for a guest, made anew when anything in it changed.

    ``init`` is the script to run, ``modules`` the folder ``lib/modules/RELEASE`` or None,
    ``wanted`` what the reader wants of it beside ``drivers``, by name or as a file, and ``added``
    what else is in the guest. The archive is kept in the cache folder by the hash of its content.
    ``tell`` is called with a line of text for each module that will not be as asked. Raises
    UsageError when one that is wanted is not there, GuestError when the script, busybox or a
    module cannot be read, TracerError when the archive cannot be written.
    """
    try:
        folder = read_folder(modules).with_own(wanted)
        names = [folder.find(word) for word in wanted]
        for word, found in zip(wanted, names, strict=True):
            if found is None:
                tell(f"{word} needs no loading: it is built into the kernel")
        chosen = closure(folder, (*drivers, *(name for name in names if name)))
        for name, need in chosen.missing:
            tell(f"the module {name} needs {need}, which is not in {modules}, nor built in")
        busybox = find_busybox().read_bytes()
        archive = initramfs(init.read_bytes(), busybox, chosen.modules, added)
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
