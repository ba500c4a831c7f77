"""Golden traces in a test suite: the fixtures and the option that vetrace gives to pytest.

pytest imports this module in every run where vetrace is installed, so it imports nothing of vetrace
before a fixture asks for it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from tracer.check.golden import Held, Recording
    from tracer.confidential.kind import Kind


@dataclass
class _Goldens:
    # Those that this session wrote; wrote or saw match; and has left a page of.
    written: list[Path] = field(default_factory=list)
    settled: set[Path] = field(default_factory=set)
    reported: set[Path] = field(default_factory=set)


_goldens: pytest.StashKey[_Goldens] = pytest.StashKey()


class Boot(Protocol):
    """Boot a guest with these words of ``vetrace boot``; the same guest boots once a session.

    With pytest-xdist each of its workers is a session.

    ``guest`` is the option of that name, such as "tdx". ``rules`` are what ``--rule`` takes,
    ``host`` is the file of ``--host``: they say what becomes of accesses. ``timeout`` and
    ``guest_timeout`` are the options of these names, in seconds: a guest that takes longer ends,
    and the test fails with what it did last.
    """

    def __call__(
        self,
        *words: str | Path,
        guest: str | None = None,
        rules: Sequence[str] = (),
        host: str | Path | None = None,
        timeout: float | None = None,
        guest_timeout: float | None = None,
    ) -> Recording:
        """Return the boot's trace."""


class Open(Protocol):
    """Open a trace file; a relative name starts from the test file's folder."""

    def __call__(self, path: str | Path) -> Recording:
        """Return the trace."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare ``--vetrace-record``."""
    parser.getgroup("vetrace").addoption(
        "--vetrace-record",
        action="store_true",
        help="write golden traces that are missing or do not match, instead of failing",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make room for the goldens of this session."""
    config.stash[_goldens] = _Goldens()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Leave a page beside a golden that does not match, and name it."""
    report = yield
    # A module that is not loaded has raised nothing, and other suites do not wait for it.
    known = sys.modules.get("tracer.check.golden")
    if known is not None and call.excinfo is not None:
        error = call.excinfo.value
        if isinstance(error, known.GoldenMismatch) and error.held is not None:
            report.sections.append(("vetrace", _leave_page(error.held, item.config)))
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Take the pages away of goldens that match again; a worker of pytest-xdist leaves it to all's.

    Another worker may have left a page of the same golden.
    """
    goldens = session.config.stash[_goldens]
    output: dict[str, object] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["vetrace"] = {name: list(map(str, paths)) for name, paths in vars(goldens).items()}
        return
    for golden in {*goldens.settled, *goldens.written} - goldens.reported:
        # A folder that cannot be written has no page of ours, and fails no session.
        with contextlib.suppress(OSError):
            page_of(golden).unlink(missing_ok=True)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over the goldens of a worker of pytest-xdist; one that crashed tells of none."""
    told = getattr(node, "workeroutput", {}).get("vetrace", {})
    goldens = node.config.stash[_goldens]
    goldens.written.extend(map(Path, told.get("written", ())))
    goldens.settled.update(map(Path, told.get("settled", ())))
    goldens.reported.update(map(Path, told.get("reported", ())))


def page_of(golden: Path) -> Path:
    """Return where the page is left of a golden that does not match."""
    name = golden.name.removesuffix(".zst").removesuffix(".vtrace")
    return golden.with_name(f"{name}.report.html")


# Returns what to tell of it. A page that cannot be written fails no test.
def _leave_page(held: Held, config: pytest.Config) -> str:
    config.stash[_goldens].reported.add(held.golden)
    page = page_of(held.golden)
    files = (str(held.golden), str(held.trace), "-o", str(page))
    done = _vetrace("report", *files, *held.words)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        return f"no page of this: {said[0].removeprefix('vetrace: ')}"
    return f"what differs, as a page for a browser: {page}"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Name the goldens that were written."""
    for path in dict.fromkeys(config.stash[_goldens].written):
        terminalreporter.write_line(f"vetrace: recorded {path}")


@pytest.fixture
def vetrace_trace(request: pytest.FixtureRequest) -> Open:
    """Return a function that opens a trace file for ``assert_matches_trace``."""
    from tracer.check.golden import Recording

    folder, goldens = request.path.parent, request.config.stash[_goldens]
    record = bool(request.config.getoption("--vetrace-record"))

    def open_trace(path: str | Path) -> Recording:
        return Recording(folder / path, folder, record, goldens.written, goldens.settled)

    return open_trace


@pytest.fixture
def vetrace_boot(
    request: pytest.FixtureRequest,
    vetrace_trace: Open,
    _vetrace_boots: Callable[[Sequence[str]], Path],
) -> Boot:
    """Return a function that boots a guest and gives its trace.

    Where QEMU, GDB or a kernel is missing the test is skipped; with ``CI`` in the environment it
    fails. It also fails when the boot does, with the last lines of what that said.
    """

    def boot(
        *words: str | Path,
        guest: str | None = None,
        rules: Sequence[str] = (),
        host: str | Path | None = None,
        timeout: float | None = None,
        guest_timeout: float | None = None,
    ) -> Recording:
        __tracebackhide__ = True
        single = {
            "guest": guest,
            "host": None if host is None else request.path.parent / host,
            "timeout": timeout,
            "guest-timeout": guest_timeout,
        }
        options = [f"--rule={rule}" for rule in rules]
        options += [f"--{name}={value}" for name, value in single.items() if value is not None]
        return vetrace_trace(_vetrace_boots([*options, *map(str, words)]))

    return boot


@pytest.fixture(scope="session")
def _vetrace_boots(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Sequence[str]], Path]:
    done: dict[tuple[str, ...], Path] = {}

    def boot(words: Sequence[str]) -> Path:
        __tracebackhide__ = True
        key = _guest_of(words)
        if key not in done:
            need_guest(words)
            path = tmp_path_factory.mktemp("vetrace") / "boot.vtrace.zst"
            _run(path, words)
            done[key] = path
        return done[key]

    return boot


# Returns what tells one boot from another: the default kernel by its name is the default kernel.
def _guest_of(words: Sequence[str]) -> tuple[str, ...]:
    from tracer.launch.plan import parse_kind
    from tracer.linux.kernel import default_kernel

    kernel = _value("--kernel", words)
    if kernel is None or "--" in words:
        return tuple(words)
    if Path(kernel).resolve() != default_kernel(parse_kind(_value("--guest", words) or "plain")):
        return tuple(words)
    pairs = zip(words, ("", *words), strict=False)
    return tuple(
        word for word, before in pairs
        if before != "--kernel" and word.partition("=")[0] != "--kernel"
    )  # fmt: skip


def need_guest(words: Sequence[str] = ()) -> None:
    """Skip the test, or fail it in CI, when what a boot with these words needs is not there."""
    __tracebackhide__ = True
    from tracer.confidential.kind import Kind
    from tracer.confidential.support import setup_command
    from tracer.launch.plan import parse_kind

    kind = parse_kind(_value("--guest", words) or "plain")
    missing = [
        program
        for option, program in (("--qemu", "qemu-system-x86_64"), ("--gdb", "gdb"))
        if not _given(option, words) and shutil.which(program) is None
    ]
    advice = "`vetrace doctor` tells what to install"
    if not _given("--kernel", words) and not _has_kernel(kind):
        missing.append("a guest kernel")
        if kind is not Kind.PLAIN:
            advice = f"`{setup_command(kind)}` gets one that can be a {kind.label} guest"
    if not missing:
        return
    reason = f"missing: {', '.join(missing)}; {advice}"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _has_kernel(kind: Kind) -> bool:
    from tracer.linux.kernel import default_kernel, open_kernel

    image = default_kernel(kind)
    return image is not None and (kind == "plain" or kind in open_kernel(image).kinds)


def _given(option: str, words: Sequence[str]) -> bool:
    return _value(option, words) is not None


def _value(option: str, words: Sequence[str]) -> str | None:
    # The last one counts, as it does on a command line.
    found = None
    for word, following in zip(words, (*words[1:], ""), strict=False):
        if word == option:
            found = following
        elif word.startswith(f"{option}="):
            found = word.partition("=")[2]
    return found


def _run(path: Path, words: Sequence[str]) -> None:
    __tracebackhide__ = True
    done = _vetrace("boot", "--quiet", "-o", str(path), *words)
    if done.returncode:
        said = "\n".join(done.stderr.splitlines()[-15:])
        asked = " ".join(["vetrace boot", *words])
        pytest.fail(f"`{asked}` ended with status {done.returncode}:\n{said}", pytrace=False)


# A process of its own: a guest that is out of hand, or a signal, ends that and not the tests. It
# finds this very vetrace, even where only pytest's own settings put it on the path.
def _vetrace(*words: str) -> subprocess.CompletedProcess[str]:
    checkout = str(Path(__file__).parents[1])
    inherited = os.environ.get("PYTHONPATH")
    places = [checkout, inherited] if inherited else [checkout]
    return subprocess.run(
        [sys.executable, "-m", "tracer", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
    )
