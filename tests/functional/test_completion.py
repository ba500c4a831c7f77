"""Tab in bash, zsh and fish, and the man pages: as the package installs them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from vetrace_run import CHECKOUT, need

from scripts.terminal import Terminal
from tracer.cli.main import COMMANDS, whole_parsers

BASH = "bash-completion/completions/vetrace"
ZSH = "zsh/site-functions/_vetrace"
FISH = "fish/vendor_completions.d/vetrace.fish"

# What is typed before Tab, and the words that vetrace is then called with.
TYPED = (
    ("vetrace sho", ["show"]),
    ("vetrace -v --color never sho", ["-v", "--color", "never", "show"]),
    ("vetrace show --regio\t nvme run", ["show", "--region", "nvme", "run.vtrace"]),
    ("vetrace --color=never sho", ["--color=never", "show"]),
    ("vetrace show --color=al", ["show", "--color=always"]),
    ("vetrace show --registers=ru", ["show", "--registers=run.vtrace"]),
    ("vetrace export run.vtrace --format perf", ["export", "run.vtrace", "--format", "perfetto"]),
    ("vetrace audit --profile linux-tdx-v", ["audit", "--profile", "linux-tdx-v5"]),
    ("vetrace boot --kernel bz", ["boot", "--kernel", "bzImage"]),
    ("vetrace diff run.vtrace run", ["diff", "run.vtrace", "run.vtrace"]),
    ("vetrace doctor --gdb odd-deb", ["doctor", "--gdb", "odd-debugger"]),
)


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("share")
    command = [sys.executable, CHECKOUT / "scripts/share.py", folder]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with things to complete."""
    for name in ("run.vtrace", "bzImage"):
        (tmp_path / name).touch()
    program = tmp_path / "programs" / "odd-debugger"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return tmp_path


Shell = Callable[[Terminal, Path], None]


def start_bash(terminal: Terminal, share: Path) -> None:
    terminal.line(f"PS1='% '; . {share / BASH}")


def start_zsh(terminal: Terminal, share: Path) -> None:
    terminal.line(f"PS1='% '; fpath=({share / ZSH.partition('/_')[0]} $fpath)")
    terminal.line("autoload -U compinit; compinit -u -D; setopt no_beep")


SHELLS: dict[str, tuple[list[str], Shell]] = {
    "bash": (["bash", "--norc", "--noprofile"], start_bash),
    "zsh": (["zsh", "-f"], start_zsh),
}


@pytest.mark.parametrize("name", SHELLS)
def test_tab_completes(name: str, share: Path, place: Path) -> None:
    command, start = SHELLS[name]
    need(shutil.which(name) is not None, name)
    path = f"{place / 'programs'}:/usr/bin:/bin"
    environment = {"PATH": path, "HOME": str(place), "INPUTRC": "/dev/null"}
    with Terminal(command, environment=environment, folder=str(place)) as terminal:
        start(terminal, share)
        # Stands in for the program, and tells what it is called with.
        terminal.line("vetrace() { printf '<%s>' \"$@\"; echo; }; echo rea''dy")
        terminal.wait_for("^ready")
        for typed, words in TYPED:
            mark = terminal.mark
            terminal.type(f"{typed}\t")
            terminal.line("")
            terminal.wait_for(r"^<.*>\s*$", after=mark)
            called = next(x for x in reversed(terminal.text.splitlines()) if x.startswith("<"))
            assert called == "".join(f"<{word}>" for word in words), typed


def fish(share: Path, place: Path, commands: str) -> list[str]:
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source {share / FISH}; {commands}"],
        cwd=place, capture_output=True, text=True, check=True,
        env={"PATH": f"{place / 'programs'}:/usr/bin:/bin", "HOME": str(place)},
    )  # fmt: skip
    assert done.stderr == ""
    return [line.partition("\t")[0] for line in done.stdout.splitlines()]


def test_fish_completes(share: Path, place: Path) -> None:
    need(shutil.which("fish") is not None, "fish")
    for typed, words in TYPED:
        if "\t" not in typed:
            assert words[-1] in fish(share, place, f"complete -C '{typed}'"), typed
    assert fish(share, place, "complete -C 'vetrace sho'") == ["show"]
    assert set(fish(share, place, "complete -C 'vetrace '")) == set(COMMANDS)


def test_every_option_of_every_command_is_completed(share: Path) -> None:
    _, commands = whole_parsers("0")
    completions = {place: (share / place).read_text() for place in (BASH, ZSH, FISH)}
    for name, parser in commands.items():
        options = {word for action in parser._actions for word in action.option_strings}
        assert "--help" in options
        (listed,) = (
            line.partition("=(")[2].rstrip(")").split()
            for line in completions[BASH].splitlines()
            if line.startswith(f"_shtab_vetrace_{name.replace('-', '_')}_option_strings=(")
        )
        assert set(listed) == options
        for word in options:
            assert word in completions[ZSH], word
            dashes, letters = ("-l", word[2:]) if word.startswith("--") else ("-s", word[1:])
            assert f"{dashes} {letters} " in completions[FISH], word


# ---- man pages


def test_there_is_a_page_for_each_command(share: Path) -> None:
    pages = {path.name for path in (share / "man/man1").iterdir()}
    assert pages == {"vetrace.1", *(f"vetrace-{name}.1" for name in COMMANDS)}
    _, commands = whole_parsers("0")
    for name, parser in commands.items():
        text = (share / "man/man1" / f"vetrace-{name}.1").read_text().replace("\\-", "-")
        for action in parser._actions:
            # Of --help the page itself is the answer.
            words = set(action.option_strings) - {"-h", "--help"}
            assert all(word in text for word in words), (name, action)


def test_troff_has_nothing_to_say_of_the_pages(share: Path) -> None:
    need(shutil.which("groff") is not None, "groff-base")
    for path in sorted((share / "man/man1").iterdir()):
        done = subprocess.run(
            ["groff", "-man", "-ww", "-Tutf8", path], capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
        assert path.stem.upper() in done.stdout


def test_mandoc_has_nothing_to_warn_of(share: Path) -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("no mandoc here")
    pages = sorted((share / "man/man1").iterdir())
    command = ["mandoc", "-T", "lint", "-W", "warning", *pages]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
