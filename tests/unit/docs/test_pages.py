"""The pages that people read: commands parse, links lead somewhere, nothing is of one machine."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from vetrace_run import need

from tracer.cli import main

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
CODE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
MACHINE = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|Users|srv)/\w")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands(text: str) -> Iterator[str]:
    """Yield the shell commands of a page: the lines of its sh blocks."""
    for language, block in CODE.findall(text):
        if language == "sh":
            yield from (line for line in block.splitlines() if line and not line.startswith("#"))


def mentions(text: str) -> Iterator[str]:
    """Yield what the text of a page says of commands: `vetrace boot --check`, `scripts/setup`."""
    yield from re.findall(r"`((?:vetrace\b|scripts/)[^`]*)`", CODE.sub("", text))


def anchors(page: Path) -> set[str]:
    """Return what a link to a heading of a page may end in."""
    text = CODE.sub("", page.read_text())
    plain = (re.sub(r"[`*]", "", heading).strip().lower() for heading in HEADING.findall(text))
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def parsers(command: str) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """Return the parser of ``vetrace`` and that of one command, with its arguments declared."""
    parser, subparsers = main.whole_parsers("0")
    assert command in subparsers, f"no command {command}"
    return parser, subparsers[command]


def each(find: Callable[[str], Iterator[str]]) -> list[ParameterSet]:
    return [
        pytest.param(found, id=f"{name(page)}: {found}")
        for page in PAGES
        for found in find(page.read_text())
    ]


@pytest.mark.parametrize("example", each(commands))
def test_commands_parse(example: str) -> None:
    program, *arguments = shlex.split(example, comments=True)
    if Path(program).name != "vetrace":
        file = arguments[0] if program == "bash" else program
        need((ROOT / file).is_file() or shutil.which(program) is not None, program)
        return
    try:
        parsers(arguments[0])[0].parse_args(arguments)
    except SystemExit as error:
        raise AssertionError(f"`{example}` does not parse") from error


@pytest.mark.parametrize("mention", each(mentions))
def test_what_is_mentioned_exists(mention: str) -> None:
    program, *words = mention.split()
    if program != "vetrace":
        assert (ROOT / program).exists(), f"no {program}"
    elif words and not words[0].startswith("-"):
        _, command = parsers(words[0])
        known = {option for action in command._actions for option in action.option_strings}
        assert {word for word in words if word.startswith("--") and word != "--"} <= known


def test_readme_opens_with_the_two_commands() -> None:
    blocks = [block for language, block in CODE.findall((ROOT / "README.md").read_text())]
    assert [line.split()[0] for line in blocks[0].splitlines()] == ["scripts/demo", "scripts/test"]


def test_there_are_examples_of_every_command() -> None:
    text = (ROOT / "README.md").read_text()
    shown = {words[1] for words in map(str.split, commands(text)) if words[0] == "vetrace"}
    assert set(main.COMMANDS) - shown == set()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(CODE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name(page)} links to {target}"
        assert file.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(file), f"{name(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_nothing_is_of_one_machine(page: Path) -> None:
    assert MACHINE.search(page.read_text()) is None


@pytest.mark.parametrize(
    "script", ["scripts/setup", "scripts/demo", "scripts/test", "scripts/bench", ".ci/run"]
)
def test_scripts_are_programs(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    assert path.read_text().startswith("#!/usr/bin/env bash\n")
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_no_page_is_missing_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    linked = {(ROOT / target.partition("#")[0]).resolve() for target in LINK.findall(text)}
    pages = [page for page in PAGES if page.parent == ROOT / "docs"]
    assert [name(page) for page in pages if page not in linked] == []
