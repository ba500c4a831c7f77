"""The recipe of the default guest: the files in ``qemu/``, read and filled in."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from tracer.confidential.kind import Kind
from tracer.errors import GuestError
from tracer.guest.disk import DISKS, disk_file

FOLDER = Path(str(files("tracer.guest"))) / "files"
"""The folder of ``machine.cfg``, ``cmdline``, ``kinds`` and ``init``."""

_BRACED = ("cpu", "virtio")
_WORDS = "cmdline"


def init_script() -> Path:
    """Return the path of the guest's init script."""
    return FOLDER / "init"


def machine_arguments(kind: Kind = Kind.PLAIN) -> tuple[str, ...]:
    """Return the QEMU arguments of ``machine.cfg``, with the disks' files filled in."""
    disks = {name: str(disk_file(name)) for name in DISKS}
    words = parse_kinds(_read("kinds"), kind)
    return parse_arguments(_read("machine.cfg"), disks, {name: words[name] for name in _BRACED})


def command_line(append: str | None = None, *, kaslr: bool = False, kind: Kind = Kind.PLAIN) -> str:
    """Return the guest kernel's command line: the recipe's words, then the user's."""
    lines = [line for line in _read("cmdline").splitlines() if not line.startswith("#")]
    words = [word for word in " ".join(lines).split() if not (kaslr and word == "nokaslr")]
    words += parse_kinds(_read("kinds"), kind)[_WORDS].split()
    return " ".join([*words, *([append] if append else [])])


def parse_kinds(text: str, kind: Kind) -> dict[str, str]:
    """Return the words of each name for a kind of guest, empty where it has none.

    ``text`` has lines of a kind, a name and words, as ``qemu/kinds`` has them.
    """
    words = dict.fromkeys((*_BRACED, _WORDS), "")
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        of, name, value = line.split(maxsplit=2)
        if Kind(of) is kind:
            words[name] = value
    return words


def parse_arguments(
    text: str, files: Mapping[str, str], words: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the arguments in the text of a machine definition.

    ``files`` and ``words`` are what stands for the names in braces. A comma in a file's name is
    doubled, as QEMU wants it.
    """
    braced = {**words} | {name: path.replace(",", ",,") for name, path in files.items()}
    arguments: list[str] = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        option, _, value = line.partition(" ")
        for name, replacement in braced.items():
            value = value.replace(f"{{{name}}}", replacement)
        arguments += [option, *([value.strip()] if value else [])]
    return tuple(arguments)


def _read(name: str) -> str:
    try:
        return (FOLDER / name).read_text()
    except OSError as error:
        raise GuestError(
            f"the guest recipe is incomplete: {error.filename}: {error.strerror}"
        ) from error
