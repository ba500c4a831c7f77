"""The recipe of the default guest: the files in ``qemu/``, read and filled in."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from tracer.errors import GuestError
from tracer.guest.disk import DISKS, disk_file

FOLDER = Path(str(files("tracer.guest"))) / "files"
"""Where ``machine.cfg``, ``cmdline`` and ``init`` are."""


def init_script() -> Path:
    """Return the path of the guest's init script."""
    return FOLDER / "init"


def machine_arguments() -> tuple[str, ...]:
    """Return the QEMU arguments of ``machine.cfg``, with the disks' files filled in."""
    disks = {name: str(disk_file(name)) for name in DISKS}
    return parse_arguments(_read("machine.cfg"), disks)


def command_line(append: str | None = None, *, kaslr: bool = False) -> str:
    """Return the guest kernel's command line: the recipe's words, then the user's."""
    lines = [line for line in _read("cmdline").splitlines() if not line.startswith("#")]
    words = [word for word in " ".join(lines).split() if not (kaslr and word == "nokaslr")]
    return " ".join([*words, *([append] if append else [])])


def parse_arguments(text: str, files: dict[str, str]) -> tuple[str, ...]:
    """Return the arguments in the text of a machine definition.

    ``files`` are what stands for the names in braces. A comma in a file's name is doubled, as
    QEMU wants it.
    """
    arguments: list[str] = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        option, _, value = line.partition(" ")
        for name, path in files.items():
            value = value.replace(f"{{{name}}}", path.replace(",", ",,"))
        arguments += [option, *([value.strip()] if value else [])]
    return tuple(arguments)


def _read(name: str) -> str:
    try:
        return (FOLDER / name).read_text()
    except OSError as error:
        raise GuestError(
            f"the guest recipe is incomplete: {error.filename}: {error.strerror}"
        ) from error
