"""Kernel modules on disk, under ``lib/modules/RELEASE``: which there are, and what each needs.

Ref: Linux scripts/mod/modpost.c (add_depends), include/linux/module.h (MODULE_SOFTDEP), and
Documentation/kbuild/kbuild.rst (modules.builtin). A hyphen and an underscore in a module's name
are the same: its file and what depends on it may spell it either way.
"""

from __future__ import annotations

import gzip
import lzma
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import zstandard

from tracer.errors import GuestError, UsageError, suggestion
from tracer.text.file_error import unread

_SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")
_SMALL = "-cloud-amd64"
"""How a release of Debian's ends that is built without most drivers of hardware."""
_MAX_MODULE = 1 << 28  # bytes, unpacked


@dataclass(frozen=True, slots=True)
class ModuleFolder:
    """Hold the module files of one kernel by module name, and the names that are built into it.

    ``path`` is None for a kernel that has no such folder.
    """

    path: Path | None = None
    files: dict[str, Path] = field(default_factory=dict)
    built_in: frozenset[str] = frozenset()

    def with_own(self, words: Sequence[str]) -> ModuleFolder:
        """Return this folder with the module files among the reader's words in it.

        What lies beside such a file is there for what it needs, where the folder has it not.
        Raises UsageError for a file that cannot be read, that is no module, or one of another
        kernel, GuestError for a damaged one.
        """
        own: dict[str, Path] = {}
        beside: dict[str, Path] = {}
        for word in words:
            if not is_module_file(word):
                continue
            path = Path(word)
            self._check(path)
            own[_stem(path)] = path
            beside |= {_stem(file): file for file in path.parent.glob("*.ko")}
        files = {**beside, **self.files, **own}
        return ModuleFolder(self.path, files, self.built_in - set(own))

    def _check(self, path: Path) -> None:
        try:
            content = unpacked(path)
        except OSError as error:
            raise UsageError(unread(f"the module {path}", error)) from None
        magic = _said(content, b"vermagic")
        if not content.startswith(b"\x7fELF") or not magic:
            raise UsageError(f"{path} is no kernel module: it has no version magic")
        release = magic[0].split()[0]
        if self.path is not None and release != self.path.name:
            raise UsageError(
                f"the module {path} is built for Linux {release}, and the guest runs "
                f"{self.path.name}: build it with that kernel's headers, or give its --kernel"
            )

    def find(self, word: str) -> str | None:
        """Return the name of the module that the reader asks for, or None if it is built in.

        Raises UsageError when it is neither.
        """
        name = name_of(word)
        if name in self.files:
            return name
        if name in self.built_in:
            return None
        if self.path is None:
            raise UsageError(
                f"no module {word}: the kernel has no folder lib/modules/RELEASE beside its own"
            )
        near = suggestion(name, [*self.files, *self.built_in])
        more = ""
        if Path(word).exists():
            more = f"; a file of one is named by its path, ./{word}"
        elif self.path.name.endswith(_SMALL):
            more = (
                ", which is Debian's for clouds: vetrace setup --flavour full gets the full one, "
                "which has more drivers, for --kernel"
            )
        raise UsageError(f"no module {word} in {self.path}, nor built into that kernel{more}{near}")


@dataclass(frozen=True, slots=True)
class Needs:
    """Say what a module needs: ``before`` it, of that ``required``, and ``after`` it."""

    required: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Closure:
    """Hold modules with all that they need, in the order in which they load, unpacked.

    ``missing`` are the modules of which a required one is not there, each with that one's name.
    """

    modules: tuple[tuple[str, bytes], ...]
    missing: tuple[tuple[str, str], ...]


def module_name(text: str) -> str:
    """Return a module's name as the kernel spells it."""
    return text.replace("-", "_")


def is_module_file(word: str) -> bool:
    """Tell whether the reader's word is the path of a module file, and not a module's name."""
    return "/" in word or word.endswith(_SUFFIXES)


def name_of(word: str) -> str:
    """Return the name of the module that the reader's word asks for, by name or file."""
    return _stem(Path(word)) if is_module_file(word) else module_name(word)


def _stem(path: Path) -> str:
    return module_name(path.name.partition(".ko")[0])


def read_folder(path: Path | None) -> ModuleFolder:
    """List the modules under ``lib/modules/RELEASE``. Raises OSError."""
    if path is None:
        return ModuleFolder()
    files = {}
    for file in sorted(path.rglob("*.ko*")):
        stem, dot, suffix = file.name.partition(".ko")
        if dot and dot + suffix in _SUFFIXES:
            files[module_name(stem)] = file
    listing = path / "modules.builtin"
    lines = listing.read_text("ascii", "replace").split() if listing.is_file() else []
    built_in = frozenset(module_name(Path(line).name.removesuffix(".ko")) for line in lines)
    return ModuleFolder(path, files, built_in)


def needs(module: bytes) -> Needs:
    """Return what a module says it needs, in its ``.modinfo`` section.

    What it names as soft dependencies it can do without, or so it says; modprobe loads them too.
    """
    required = [module_name(name) for text in _said(module, b"depends") for name in text.split(",")]
    required = [name for name in required if name]
    soft: dict[str, list[str]] = {"": [], "pre:": [], "post:": []}
    for text in _said(module, b"softdep"):
        kind = ""
        for word in text.split():
            if word in soft:
                kind = word
            else:
                soft[kind].append(module_name(word))
    return Needs(tuple(required), (*required, *soft["pre:"]), tuple(soft["post:"]))


def _said(module: bytes, key: bytes) -> list[str]:
    # The section holds `key=value` texts, each with a NUL behind it.
    values = re.findall(rb"\0" + key + rb"=([^\0]*)(?=\0)", module)
    return [value.decode("ascii", "replace") for value in values]


def closure(folder: ModuleFolder, wanted: Sequence[str]) -> Closure:
    """Return the wanted modules and all they need.

    Dependencies are read from the modules themselves, because ``modules.dep`` exists only once
    a package has been installed. A wanted module that is not there is left out: it may be built
    into the kernel. Raises GuestError for a damaged module file.
    """
    done: dict[str, bytes] = {}
    missing: list[tuple[str, str]] = []

    def add(name: str) -> None:
        if name in done or name not in folder.files:
            return
        done[name] = b""  # before its dependencies, so that a circle ends
        content = unpacked(folder.files[name])
        need = needs(content)
        for other in need.before:
            add(other)
        del done[name]  # to the end: after what it needs
        done[name] = content
        for other in need.after:
            add(other)
        absent = (other for other in need.required if other not in folder.files)
        missing.extend((name, other) for other in absent if other not in folder.built_in)

    for name in wanted:
        add(module_name(name))
    return Closure(tuple(done.items()), tuple(missing))


def unpacked(path: Path) -> bytes:
    """Return a module file as the kernel loads it. Raises GuestError for a damaged one."""
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
