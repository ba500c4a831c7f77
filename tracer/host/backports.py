"""Debian's backports, or another suite: an archive for vetrace alone, beside the machine's own.

The machine's own sources say which mirror it is, and by which keys its lists are signed.

Ref: sources.list(5), apt-config(8), apt.conf(5) (Dir::Etc, APT::Update::Error-Mode).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from tracer.host.cache import cache_folder
from tracer.host.package import (
    METAPACKAGE,
    Archive,
    PackageError,
    Progress,
    only_one,
    run_program,
)

_LINE = re.compile(r"^\s*deb\s+(\[[^]]*\]\s+)?(\S+)\s+([^\s/-]+)\s+((?:\S+\s+)*?main\b.*)$")
_FIELD = re.compile(r"^([A-Za-z0-9-]+):(.*)$")
_SUITE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_NO = ("no", "false", "without", "off", "disable")  # apt's StringToBool


def backports(progress: Progress = lambda _: None) -> Archive:
    """Return the backports of the machine's release, with lists that were fetched just now.

    Raises PackageError.
    """
    return _archive(None, progress)


def suite_archive(suite: str, progress: Progress = lambda _: None) -> Archive:
    """Return a suite, such as ``trixie-backports``, of the machine's own mirror, likewise.

    Raises PackageError.
    """
    if not _SUITE.fullmatch(suite):
        raise PackageError(f"{suite} is no name of a suite: give one such as trixie-backports")
    return _archive(suite, progress)


def _archive(suite: str | None, progress: Progress) -> Archive:
    folder = cache_folder() / f"apt-{suite or 'backports'}"
    with only_one(progress):
        parts = folder / "sources"
        shutil.rmtree(parts, ignore_errors=True)
        for made in (parts, folder / "lists/partial", folder / "cache/archives/partial"):
            made.mkdir(parents=True, exist_ok=True)
        written = [
            (parts / f"{number}{file.suffix}").write_text(text)
            for number, file in enumerate(_source_files())
            if (text := moved(file.suffix, _text(file), suite))
        ]
        if not written:
            raise PackageError(
                "apt's sources name no release of Debian, of which the mirror is taken"
            )
        archive = Archive(
            (
                "-o", "Dir::Etc::sourcelist=/dev/null",
                "-o", f"Dir::Etc::sourceparts={parts}",
                "-o", "Dir::Etc::preferences=/dev/null",
                "-o", "Dir::Etc::preferencesparts=/dev/null",
                "-o", f"Dir::State::lists={folder}/lists/",
                "-o", f"Dir::Cache={folder}/cache/",
                "-o", "Acquire::Languages=none",
                "-o", "APT::Update::Error-Mode=any",
            )
        )  # fmt: skip
        progress(f"fetching the package lists of {suite or 'backports'}")
        try:
            archive.update()
        except PackageError:
            # An archive of somebody else's may have no backports: it is not the one that is needed.
            if not archive.depends(METAPACKAGE):
                raise
    return archive


def moved(suffix: str, text: str, suite: str | None = None) -> str:
    """Return the same sources for a suite, and by default for the backports of their release.

    ``suffix`` tells the form of the text, ``.list`` or ``.sources``. The result is empty where none
    is the source of a release.
    """
    if suffix == ".list":
        return "".join(
            f"deb {found[1] or ''}{found[2]} {suite or _backports(found[3])} main\n"
            for line in text.splitlines()
            if (found := _LINE.match(line.partition("#")[0]))
        )
    stanzas = re.split(r"\n\s*\n", text)
    return "\n".join(filter(None, (_stanza(stanza, suite) for stanza in stanzas)))


def _backports(suite: str) -> str:
    return f"{suite}-backports"


def _stanza(text: str, suite: str | None) -> str:
    fields: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if found := _FIELD.match(line):
            name = found[1].lower()
            fields[name] = found[2]
        elif name:
            fields[name] += f"\n{line}"
    suites = [name for name in fields.get("suites", "").split() if not re.search("[-/]", name)]
    if (
        not suites
        or "deb" not in fields.get("types", "").split()
        or "main" not in fields.get("components", "").split()
        or fields.get("enabled", "yes").strip().lower() in _NO
    ):
        return ""
    fields["types"], fields["components"] = " deb", " main"
    fields["suites"] = " " + (suite or " ".join(map(_backports, suites)))
    return "".join(f"{name}:{value}\n" for name, value in fields.items())


def _source_files() -> Iterator[Path]:
    told = run_program(
        [
            "apt-config",
            "shell",
            "LIST",
            "Dir::Etc::sourcelist/f",
            "PARTS",
            "Dir::Etc::sourceparts/d",
        ]
    )
    places = dict(re.findall(r"^(\w+)='(.*)'$", told, re.MULTILINE))
    yield Path(places.get("LIST", ""))
    folder = Path(places.get("PARTS", ""))
    yield from _sorted(folder.glob("*.list"))
    yield from _sorted(folder.glob("*.sources"))


def _sorted(files: Iterable[Path]) -> list[Path]:
    try:
        return sorted(files)
    except OSError:
        return []


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
