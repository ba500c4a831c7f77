"""The recipe of the default guest: the files in ``qemu/``, read and filled in."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from tracer.confidential.kind import Kind
from tracer.errors import GuestError, UsageError
from tracer.guest.disk import DISKS, disk_file
from tracer.guest.equipment import (
    Equipment,
    disk_arguments,
    has_pci,
    with_machine,
    without_devices,
    without_disks,
)
from tracer.host.own_code import read_text
from tracer.qemu.option import option_name
from tracer.qemu.refusal import taken

FOLDER = Path(str(files("tracer.guest"))) / "files"
"""The folder of ``machine.cfg``, ``microvm.cfg``, ``cmdline``, ``kinds`` and ``init``."""

_MACHINE = "machine.cfg"
_WITHOUT_PCI = "microvm.cfg"

_BRACED = ("cpu", "virtio")
DEFAULT = Equipment()
"""The default guest's machine, with its devices."""
_WORDS = "cmdline"


def init_script() -> Path:
    """Return the path of the guest's init script."""
    return FOLDER / "init"


def machine_arguments(kind: Kind = Kind.PLAIN, equipment: Equipment = DEFAULT) -> tuple[str, ...]:
    """Return the QEMU arguments for a machine: by default those of ``machine.cfg``.

    Raises UsageError for a file of the reader's that is no machine definition.
    """
    braced = parse_kinds(_read("kinds"), kind)
    words = {name: braced[name] for name in _BRACED}
    disks = {name: str(disk_file(name)) for name in DISKS}
    arguments = parse_arguments(_definition(equipment), disks, words)
    if equipment.file is None and equipment.machine is not None:
        arguments = with_machine(arguments, equipment.machine)
    if not equipment.default_devices:
        arguments = without_devices(arguments)
    if equipment.disks:
        arguments = without_disks(arguments, list(disks.values()))
        added = disk_arguments(equipment.disks, words["virtio"], pci=has_pci(arguments))
        arguments = (*arguments, *added)
    return (*arguments, *(word for value in equipment.devices for word in ("-device", value)))


def _definition(equipment: Equipment) -> str:
    # The text that the arguments are in.
    path, machine = equipment.file, equipment.machine
    if path is None:
        plain = machine is None or has_pci(("-machine", machine))
        return _read(_MACHINE if plain else _WITHOUT_PCI)
    if not equipment.default_devices:
        raise UsageError(f"{path} says which devices there are: drop --no-default-devices")
    text = read_text(path)
    check_definition(text, path)
    return text


def check_definition(text: str, path: Path) -> None:
    """Raise UsageError for a line of a machine definition that is no option of QEMU's."""
    for number, line in enumerate(text.splitlines(), 1):
        word = line.split(maxsplit=1)[0] if line.strip() and not line.startswith("#") else None
        if word is None:
            continue
        where = f"{path}, line {number}"
        if not option_name(word) or line != line.lstrip():
            raise UsageError(
                f"{where}: {line.strip()!r} is no option of QEMU's: a line is an option with its "
                "value, such as -device edu"
            )
        held = None if word.lstrip("-") == "m" else taken(word)
        if held is not None:
            raise UsageError(f"{where}: {word} cannot be in a machine definition: {held}")


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
