#!/usr/bin/env python3
"""Write what a package of vetrace has under share: shell completions and man pages.

``scripts/share.py FOLDER`` writes them below the folder, as ``pip install`` puts them below the
prefix of an environment. A build of the wheel does it through the hook at the end. All of it comes
from the parsers of the command line.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import shtab  # noqa: E402 - needs the path above
from argparse_manpage.manpage import Manpage  # noqa: E402
from hatchling.builders.hooks.plugin.interface import BuildHookInterface  # noqa: E402

from tracer.cli.audit import ALL  # noqa: E402
from tracer.cli.main import COMMANDS, whole_parsers  # noqa: E402
from tracer.cli.parser import Parser, program_parser  # noqa: E402
from tracer.confidential.handler import PROFILES  # noqa: E402


def _completed(name: str, bash: str, zsh: str, fish: str) -> dict[str, str | dict[str, str]]:
    # For Bash it is a function of its own.
    function = f'_vetrace_{name}() {{\n  compgen {bash} -- "$1"\n}}'
    return {
        "bash": f"_vetrace_{name}", "zsh": zsh, "fish": fish, "preamble": {"bash": function}
    }  # fmt: skip


# For fish 4 the word of --option=FILE begins behind the equals sign.
_FILE = {
    **shtab.FILE,
    "fish": "(__fish_complete_path (commandline -ct | string replace -r -- '^-[^=]*=' ''))",
}
_PROFILES = " ".join((*PROFILES, ALL))
_COMPLETED = {
    **dict.fromkeys(("TRACE", "A", "B", "FILE", "FILE.py", "LOG", "BZIMAGE"), _FILE),
    "PROGRAM": _completed("programs", "-c", "_command_names -e", "(__fish_complete_command)"),
    "PROFILE": _completed("profiles", f"-W '{_PROFILES}'", f"({_PROFILES})", _PROFILES),
}
"""What completes an argument, by how it is called in the help."""

_BASH_END = """
# Bash takes --option=value apart at the equals sign, which the function above does not expect.
_vetrace() {
  local -a words=()
  local -i at=0 i
  for i in "${!COMP_WORDS[@]}"; do
    if [[ ${COMP_WORDS[i]} != = ]]; then
      words+=("${COMP_WORDS[i]}")
    elif ((i == COMP_CWORD)); then
      words+=("")
    fi
    ((i != COMP_CWORD)) || at=${#words[@]}-1
  done
  local -a COMP_WORDS=("${words[@]}")
  local -i COMP_CWORD=$at
  _shtab_vetrace
}
complete -o bashdefault -F _vetrace vetrace
"""

_ZSH_VALUED = re.compile(r'(--[\w-]+)(}"|)\[(?=.*[^\\]\]:)')
"""An option of Zsh's ``_arguments`` with a value, which ``=`` lets stand in the same word."""

_WIDE = partial(argparse.HelpFormatter, width=1 << 20)
"""Breaks no line: a reader's terminal does, and none begins with what roff takes for a request."""


def files(version: str) -> dict[str, str]:
    """Return the text of each file, by its place below share."""
    return {**completions(version), **pages(version)}


def completions(version: str) -> dict[str, str]:
    """Return the completions of each shell, by place."""
    parser, commands = whole_parsers(version)
    for made in commands.values():
        for action in made._actions:
            kind = _COMPLETED.get(str(action.metavar))
            # An option's A is an address.
            if kind is not None and not (action.metavar == "A" and action.option_strings):
                setattr(action, "complete", kind)  # noqa: B010 - where shtab looks for it
    return {
        "bash-completion/completions/vetrace": shtab.complete(parser, "bash") + _BASH_END,
        "zsh/site-functions/_vetrace": _ZSH_VALUED.sub(r"\1=\2[", shtab.complete(parser, "zsh")),
        "fish/vendor_completions.d/vetrace.fish": shtab.complete(parser, "fish"),
    }


def pages(version: str) -> dict[str, str]:
    """Return the man page of vetrace and one a command, by place."""
    _, commands = whole_parsers(version)
    program = program_parser(version)
    names = {f"vetrace-{name}": line for name, line in COMMANDS.items()}
    listed = "\n".join(f".TP\n.BR {_roff(name)} (1)\n{_roff(line)}" for name, line in names.items())
    synopsis = ".B vetrace\n.RI [ options ]\\ command\\ [ arguments ]"
    found = {
        "vetrace": page(
            program, "trace every MMIO access of an x86-64 guest, from outside", version,
            [("synopsis", synopsis), ("commands", listed)], see=list(names),
        )
    }  # fmt: skip
    for name, line in COMMANDS.items():
        found[f"vetrace-{name}"] = page(commands[name], line, version, [], see=["vetrace"])
    return {f"man/man1/{name}.1": text for name, text in found.items()}


def page(
    parser: Parser,
    line: str,
    version: str,
    sections: Sequence[tuple[str, str]],
    *,
    see: Sequence[str],
) -> str:
    """Return one page: what the parser says, sections in roff, and the pages to see also."""
    parser.formatter_class = _WIDE
    notes = [("notes", _roff(parser.epilog))] if parser.epilog else []
    parser.epilog = None
    data = {"project_name": "vetrace", "version": version, "manual_title": "vetrace"}
    made = Manpage(parser, data)
    made.prog = parser.prog.replace(" ", "-")
    made.description = line
    made.date = _date()
    also = ", ".join(f"\\fB{_roff(name)}\\fR(1)" for name in see)
    for heading, text in (*sections, *notes, ("see also", also)):
        made.add_section(heading, "=", text)
    # A quote that begins a line would begin a request of roff's.
    text = re.sub(r"^'", r"\\&'", str(made), flags=re.MULTILINE)
    # Letters beyond ASCII by number, which no version of roff misreads.
    return re.sub(r"[^\x00-\x7f]", lambda found: f"\\[u{ord(found[0]):04X}]", text)


def _date() -> str:
    # Packagers set the variable, so that two builds are one (reproducible-builds.org).
    stamp = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    return f"{datetime.fromtimestamp(stamp, UTC):%B %d, %Y}"


def _roff(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-")


def write(folder: Path, version: str) -> Mapping[Path, str]:
    """Write all files below a folder; return their places below share, by path."""
    written = {}
    for place, text in files(version).items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        written[path] = place
    return written


class ShareHook(BuildHookInterface):  # type: ignore[type-arg]
    """Give a wheel that is being built its files under share."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write them into the build folder, and tell hatchling where they go."""
        for path, place in write(ROOT / "build" / "share", self.metadata.version).items():
            build_data["shared_data"][str(path)] = f"share/{place}"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: scripts/share.py FOLDER")
    for path in write(Path(sys.argv[1]), "0"):
        print(path)
