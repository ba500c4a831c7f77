"""A guest kernel on disk: its image, symbols, types and modules.

What takes long to find out is kept in the cache folder under ``image/``, in one folder for each
image, named by the image's SHA-256.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from tracer.access import symbols
from tracer.access.symbols import KERNEL_HALF, SymbolTable
from tracer.confidential.kind import Kind
from tracer.confidential.support import kinds_of
from tracer.errors import KernelImageError
from tracer.host.cache import cache_folder
from tracer.host.package import CURRENT, kept_kernel
from tracer.host.whole_file import new_file
from tracer.linux import bzimage, kallsyms
from tracer.linux.btf import Btf, parse_btf
from tracer.text.file_error import unread

MAX_IMAGE = 1 << 30
"""Largest kernel image that is read, in bytes."""

_FACTS = "facts-1.json"  # the number changes with the fields of Facts
_MAP = "System.map"
_BTF = "BTF"
_DAMAGE = (
    ELFError,
    ValueError,
    OverflowError,
    LookupError,
    AttributeError,
    TypeError,
    struct.error,
)
"""What pyelftools raises for headers that cannot be: it checks little before it reads."""
_T = TypeVar("_T")


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Hold what the unpacked image says about itself.

    ``banner`` is the "Linux version ..." text and ``banner_links`` the linear link addresses of
    all its copies. ``link_start`` and ``link_end`` bound the linear link addresses,
    ``entry_physical`` is the ELF entry point, a physical address.
    """

    release: str
    banner: str
    banner_links: list[int]
    link_start: int
    link_end: int
    entry_physical: int
    has_btf: bool


@dataclass(frozen=True, slots=True)
class Kernel:
    """Hold one guest kernel, ready to boot and to name its addresses.

    ``symbols`` has link addresses: use :meth:`SymbolTable.moved` when KASLR moved the guest.
    ``modules`` is the folder ``lib/modules/RELEASE`` that belongs to it, if there is one.
    ``startable`` tells whether QEMU can start the image as it is. Its BTF section is in a file, or
    is given itself.
    """

    path: Path
    sha256: str
    startable: bool
    facts: Facts
    symbols: SymbolTable
    modules: Path | None
    btf_file: Path | None
    btf: bytes = b""

    @property
    def release(self) -> str:
        """Return the kernel's release, as ``uname -r`` prints it."""
        return self.facts.release

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Return the kinds of guest that it can be."""
        return kinds_of(lambda name: self.symbols.address_of(name) is not None)

    def types(self) -> Btf | None:
        """Read the kernel's BTF type information, or None when it was built without."""
        btf = self.btf if self.btf_file is None else self.btf_file.read_bytes()
        return parse_btf(btf) if btf else None


def default_kernel(kind: Kind = Kind.PLAIN) -> Path | None:
    """Return the image that ``vetrace setup`` left for a kind of guest in the cache folder, if any.

    A kind that it fetched none for has the one of the plain guest.
    """
    for name in (kind, CURRENT):
        image = kept_kernel(name)
        if image is not None:
            return image
    return None


def open_kernel(
    path: Path,
    symbol_file: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Kernel:
    """Read a kernel image (bzImage or vmlinux) and find its symbols, types and modules.

    ``symbol_file`` is a vmlinux with a symbol table or a System.map; without it the symbols are
    the image's own if it is a vmlinux that has them, else those of its kallsyms. ``progress`` is
    called with one line of text before anything that takes long. Raises KernelImageError, naming
    the file, for anything that is not a usable kernel.
    """
    image = _read(path)
    digest = hashlib.sha256(image).hexdigest()
    folder = cache_folder() / "image" / digest
    facts = _facts(path, image, folder, progress)
    if symbol_file is None and _has_symbols(image):
        symbol_file = path
    if symbol_file is not None:
        table = _named(symbol_file, lambda: read_symbols(symbol_file))
        _named(symbol_file, lambda: _check(table, facts))
    else:
        cached = _cached_symbols(folder / _MAP, facts)
        if cached is None:
            progress(f"reading the symbols of {path.name}")
            vmlinux = _named(path, lambda: bzimage.unpack(image))
            cached = _named(path, lambda: _recover(vmlinux, folder / _MAP, facts))
        table = cached
    return Kernel(
        path=path,
        sha256=digest,
        startable=not bzimage.is_elf(image) or bzimage.has_pvh_entry(image),
        facts=facts,
        symbols=table,
        modules=find_modules(path, facts.release),
        btf_file=folder / _BTF if facts.has_btf else None,
    )


def read_facts(path: Path) -> Facts:
    """Return what an image says about itself, without its symbols. Raises KernelImageError."""
    image = _read(path)
    folder = cache_folder() / "image" / hashlib.sha256(image).hexdigest()
    return _facts(path, image, folder, lambda text: None)


def find_modules(image: Path, release: str) -> Path | None:
    """Return the folder of an image's modules, looked for as packages lay them out.

    That is ``lib/modules/RELEASE`` (or ``usr/lib/modules/RELEASE``) beside the folder the image
    is in, as for ``/boot/vmlinuz-RELEASE``, or beside the image itself; or the image's own folder,
    as for ``/usr/lib/modules/RELEASE/vmlinuz``.
    """
    real = image.resolve()
    if real.parent.name == release and real.parent.parent.name == "modules":
        return real.parent
    for root in (real.parent.parent, real.parent):
        for lib in ("lib/modules", "usr/lib/modules"):
            folder = root / lib / release
            if folder.is_dir():
                return folder
    return None


def read_symbols(path: Path) -> SymbolTable:
    """Read the symbols of a vmlinux (its ELF symbol table) or of a System.map.

    Raises KernelImageError when the file has none.
    """
    content = _read(path)
    if not bzimage.is_elf(content):
        try:
            return symbols.parse_system_map(content.decode("ascii"))
        except UnicodeDecodeError as error:
            raise KernelImageError("neither a vmlinux (ELF) nor a System.map") from error
    try:
        elf = ELFFile(io.BytesIO(content))
        section = elf.get_section_by_name(".symtab")
        if section is None:
            raise KernelImageError("this ELF file is stripped: it has no symbol table")
        names = elf.get_section(section["sh_link"]).data()
        table = section.data()
    except _DAMAGE as error:
        raise KernelImageError(f"a damaged ELF file: {error}") from error
    return symbols.table_of(symbols.elf_symbols(table, names))


def _has_symbols(image: bytes) -> bool:
    if not bzimage.is_elf(image):
        return False
    try:
        return ELFFile(io.BytesIO(image)).get_section_by_name(".symtab") is not None
    except _DAMAGE:
        return False  # what is wrong with it has been said by now


def _named(path: Path, step: Callable[[], _T]) -> _T:
    # Puts the file's name before an error of the pure modules, which know only its bytes.
    try:
        return step()
    except KernelImageError as error:
        named = f"{path}:" in str(error)  # a file may be called by a word of the text
        raise KernelImageError(str(error) if named else f"{path}: {error}") from error


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            what = "it is not a file" if path.exists() else "no such file"
            raise KernelImageError(f"cannot read {path}: {what}")
        if path.stat().st_size > MAX_IMAGE:
            raise KernelImageError(f"cannot use {path}: too large for a kernel")
        return path.read_bytes()
    except OSError as error:
        raise KernelImageError(unread(str(path), error)) from error


def _facts(path: Path, image: bytes, folder: Path, progress: Callable[[str], None]) -> Facts:
    facts = _cached_facts(folder)
    if facts is not None:
        return facts
    progress(f"unpacking {path}")
    return _named(path, lambda: _examine(bzimage.unpack(image), folder))


def _cached_facts(folder: Path) -> Facts | None:
    try:
        facts = msgspec.json.decode((folder / _FACTS).read_bytes(), type=Facts)
    except (OSError, msgspec.DecodeError):
        return None
    return facts if not facts.has_btf or (folder / _BTF).is_file() else None


def _cached_symbols(path: Path, facts: Facts) -> SymbolTable | None:
    try:
        table = symbols.parse_system_map(path.read_text("ascii"))
        _check(table, facts)
    except (OSError, UnicodeDecodeError, KernelImageError):
        return None  # absent or damaged: make it again
    return table


def _examine(vmlinux: bytes, folder: Path) -> Facts:
    # Finds the facts, and leaves them and the BTF section in the cache folder.
    try:
        elf = ELFFile(io.BytesIO(vmlinux))
        if elf["e_machine"] != "EM_X86_64":
            raise KernelImageError(f"a kernel for {elf['e_machine']}, not for x86-64")
        loads = [s.header for s in elf.iter_segments("PT_LOAD")]
        section = elf.get_section_by_name(".BTF")
        btf = section.data() if section is not None else b""
        entry = elf["e_entry"]
    except _DAMAGE as error:
        raise KernelImageError(f"the vmlinux inside is a damaged ELF file: {error}") from error
    kernel = [load for load in loads if load["p_vaddr"] >= KERNEL_HALF]
    found = bzimage.banners(vmlinux)
    if not kernel or not found:
        raise KernelImageError("not a Linux kernel: no `Linux version` text in its upper half")
    links = [
        load["p_vaddr"] + offset - load["p_offset"]
        for offset, _ in found
        for load in kernel
        if load["p_offset"] <= offset < load["p_offset"] + load["p_filesz"]
    ]
    facts = Facts(
        release=bzimage.release_of(found[0][1]),
        banner=max((text for _, text in found), key=len),
        banner_links=links,
        link_start=min(load["p_vaddr"] for load in kernel),
        link_end=max(load["p_vaddr"] + load["p_memsz"] for load in kernel),
        entry_physical=entry,
        has_btf=bool(btf),
    )
    if btf:
        with new_file(folder / _BTF) as draft:
            draft.write_bytes(btf)
    with new_file(folder / _FACTS) as draft:
        draft.write_bytes(msgspec.json.encode(facts))
    return facts


def _check(table: SymbolTable, facts: Facts) -> None:
    # The text "Linux version" is in the image itself, so its address tells whether the symbols
    # are of this very image, and whether recovery guessed the base address right.
    banner = table.address_of("linux_banner")
    if banner is not None and banner not in facts.banner_links:
        raise KernelImageError(
            f"symbols of another kernel: linux_banner at {banner:#x} is not where "
            f"{facts.release} has it"
        )
    if table.address_of("_text") is None and table.address_of("_stext") is None:
        raise KernelImageError("not the symbols of a kernel: neither _text nor _stext is there")


def _recover(vmlinux: bytes, target: Path, facts: Facts) -> SymbolTable:
    try:
        table = symbols.table_of(kallsyms.find_symbols(vmlinux, _links(vmlinux)))
    except KernelImageError as error:
        raise KernelImageError(
            f"no symbols could be recovered: {error}; give them with --symbols FILE, "
            "a vmlinux or a System.map"
        ) from error
    _check(table, facts)
    with new_file(target) as draft:
        draft.write_text(symbols.serialise(table), "ascii")
    return table


def _links(vmlinux: bytes) -> Callable[[int], int]:
    # Gives the linear link address of a file offset.
    loads = [s.header for s in ELFFile(io.BytesIO(vmlinux)).iter_segments("PT_LOAD")]

    def link_of(offset: int) -> int:
        for load in loads:
            if load["p_offset"] <= offset < load["p_offset"] + load["p_filesz"]:
                return int(load["p_vaddr"] + offset - load["p_offset"])
        return 0

    return link_of
