"""What a reader wants in the guest beside its modules: programs, with what they load, and a script.

Ref: ld.so(8), ``--list``.
"""

from __future__ import annotations

import re
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tracer.errors import UsageError
from tracer.guest.initramfs import Entry, loader_of

SCRIPT = "script"
"""Where ``qemu/init`` looks for a script that takes the place of trying its devices."""

_FOLDER = "bin"
_LIST_TIMEOUT = 20
_LIBRARY = re.compile(r"(?:(?P<name>[^/\s]+) => )?(?P<path>/\S+) \(0x")
_SYSTEMS = re.compile(r"/(?:usr/)?lib(?:32|64|x32)?(?:/[^/]*-linux-gnu\w*)?")
"""A folder in which a loader looks by itself."""
_FIRST = Path("/lib")


@dataclass(frozen=True, slots=True)
class Software:
    """Name kernel modules, by name or file, what else is in the guest, and what it runs.

    ``added`` are words such as ``PROGRAM`` or ``PROGRAM:PATH``. ``script`` is what the guest runs
    in place of trying its devices, once its modules are loaded.
    """

    modules: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    script: Path | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """Return the words of the command line that say the same."""
        pairs = [("--module", name) for name in self.modules]
        pairs += [("--add", name) for name in self.added]
        pairs += [("--init", str(self.script))] if self.script is not None else []
        return tuple(word for pair in pairs for word in pair)


def entries(software: Software) -> tuple[Entry, ...]:
    """Return what is added to the guest's archive, each folder before what is in it.

    Raises UsageError for what cannot be read or put there.
    """
    files: dict[str, Entry] = {}
    if software.script is not None:
        files[SCRIPT] = _entry(SCRIPT, software.script, 0o755)
    for word in software.added:
        source, place = parse_added(word)
        for entry in _tree(source, place):
            files[entry.name] = entry
    folders = sorted({str(up) for name in files for up in PurePosixPath(name).parents} - {"."})
    made = (Entry(name, "folder") for name in folders if name not in files)
    return (*made, *(entry for _, entry in sorted(files.items())))


def parse_added(word: str) -> tuple[Path, str]:
    """Return the file or folder in ``PROGRAM[:PATH]``, and its place below the guest's root.

    Raises UsageError for a place that is none.
    """
    source, colon, target = word.rpartition(":")
    if not colon or not target.startswith("/"):
        source, target = word, f"/{_FOLDER}/"
    path = Path(source)
    place = PurePosixPath(target + path.name if target.endswith("/") else target)
    if ".." in place.parts or place == PurePosixPath("/"):
        raise UsageError(f"--add {word}: give a path in the guest, such as /bin/{path.name}")
    return path, str(place.relative_to("/"))


def _tree(source: Path, place: str) -> Iterator[Entry]:
    if not source.is_dir():
        yield _entry(place, source)
        yield from _loaded(source)
        return
    yield Entry(place, "folder")
    for path in sorted(source.rglob("*")):
        name = f"{place}/{path.relative_to(source)}"
        if path.is_symlink():
            yield Entry(name, "link", 0o777, str(path.readlink()).encode())
        elif path.is_dir():
            yield Entry(name, "folder")
        elif path.is_file():
            yield _entry(name, path)
            yield from _loaded(path)


def _entry(name: str, path: Path, mode: int | None = None) -> Entry:
    try:
        content = path.read_bytes()
        mode = stat.S_IMODE(path.stat().st_mode) if mode is None else mode
    except OSError as error:
        raise UsageError(f"cannot put {path} into the guest: {error.strerror}") from None
    return Entry(name, "file", mode, content)


def _loaded(program: Path) -> Iterator[Entry]:
    # The loader of a dynamic program, and the libraries that it finds here.
    loader = loader_of(program.read_bytes())
    if loader is None:
        return
    words = [loader, "--list", str(program.absolute())]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_LIST_TIMEOUT)
    except (OSError, subprocess.SubprocessError) as error:
        why = f"its loader {loader} does not run: {error}"
        raise UsageError(f"{program} would not start in the guest: {why}") from None
    if done.returncode or "not found" in done.stdout:
        missing = [line.strip() for line in done.stdout.splitlines() if "not found" in line]
        why = "; ".join(missing) or done.stderr.strip()
        raise UsageError(f"{program} would not start in the guest: {why}; link it statically")
    yield _entry(loader.lstrip("/"), Path(loader), 0o755)
    found = [(each["name"], Path(each["path"])) for each in _LIBRARY.finditer(done.stdout)]
    own = [path.parent for name, path in found if name and _SYSTEMS.fullmatch(str(path.parent))]
    for name, path in found:
        place = path.as_posix().lstrip("/")
        if name is None or path.parent in own:
            yield _entry(place, path, 0o755)
            continue
        # The guest has no LD_LIBRARY_PATH, and its program another $ORIGIN.
        in_guest = (own[0] if own else _FIRST) / name
        yield _entry(in_guest.as_posix().lstrip("/"), path, 0o755)
        yield Entry(place, "link", 0o777, in_guest.as_posix().encode())
