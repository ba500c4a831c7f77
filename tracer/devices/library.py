"""Find the files that describe registers: those that come with vetrace, and the user's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from importlib.resources import files as package_files
from pathlib import Path

from tracer.devices.file import parse, parse_applies
from tracer.devices.map import RegisterMap, RegisterMaps, Unread
from tracer.errors import UsageError
from tracer.text.encoding import decoded
from tracer.text.file_error import unread

_BIGGEST = 1 << 22  # a map of the largest device takes a hundredth of it


def load(files: Sequence[Path] = ()) -> RegisterMaps:
    """Return the maps of these files, in their order, and after them those of vetrace itself.

    The files are read and checked at once, each map of vetrace when a region comes that it is for.
    Raise :exc:`UsageError`, naming the file and what is wrong with it.
    """
    return RegisterMaps([*map(_read, files), *built_in()])


@cache
def built_in() -> tuple[Unread, ...]:
    """Return the maps that come with vetrace, unread, in the order of their names."""
    folder = package_files("tracer.devices") / "maps"
    names = sorted(item.name for item in folder.iterdir() if item.name.endswith(".toml"))
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in names}
    return tuple(
        Unread(parse_applies(text, name), cache(partial(_parse, text, name)))
        for name, text in texts.items()
    )


def _parse(text: str, name: str) -> RegisterMap:
    return parse(text, name, name.removesuffix(".toml"))


def description(path: Path, biggest: int) -> bytes:
    """Return the bytes of a file that describes registers. Raises UsageError.

    ``biggest`` is how many bytes such a file has at most.
    """
    try:
        with path.open("rb") as file:
            data = file.read(biggest + 1)
    except (OSError, ValueError) as error:  # a name with a NUL is the latter
        raise UsageError(unread(str(path), error)) from None
    if len(data) > biggest:
        raise UsageError(f"{path} is no description of registers: it is above {biggest >> 20} MiB")
    return data


def _read(path: Path) -> RegisterMap:
    text = decoded(description(path, _BIGGEST), str(path))
    return parse(text.replace("\r\n", "\n"), str(path), path.stem)
