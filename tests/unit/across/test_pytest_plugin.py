"""The plugin, as a suite of its user's has it: an inner pytest runs each of these."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import trace_sample as sample
from kernel_sample import vmlinux

from tracer import pytest_plugin
from tracer.linux import kernel

CHECKOUT = Path(__file__).parents[3]
TEST = """
    def test_nvme(vetrace_trace):
        trace = vetrace_trace("run.vtrace")
        assert trace.kernel == "vmlinuz" and len(trace.records()) == 12
        trace.assert_matches_trace("golden/nvme-probe.vtrace", region="nvme")
"""


def run(pytester: pytest.Pytester, *words: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess(
        "-p", "tracer.pytest_plugin", "-p", "no:cacheprovider", "-rs", *words
    )


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no other plugins in the inner pytest than this one."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.fixture
def project(pytester: pytest.Pytester) -> Path:
    """A driver's project: its test lies in a folder of its own, with a trace of its boot."""
    pytester.makepyfile(**{"tests/test_driver": TEST})
    sample.write(pytester.path / "tests" / "run.vtrace")
    return pytester.path


def test_the_option_records_and_the_next_run_compares(
    project: Path, pytester: pytest.Pytester
) -> None:
    golden = project / "tests" / "golden" / "nvme-probe.vtrace"
    missing = run(pytester)
    missing.assert_outcomes(failed=1)
    missing.stdout.fnmatch_lines(["E *there is no golden *: make it with pytest --vetrace-record"])
    assert not golden.exists()

    recorded = run(pytester, "--vetrace-record")
    recorded.assert_outcomes(passed=1)
    recorded.stdout.fnmatch_lines([f"vetrace: recorded {golden}"])

    compared = run(pytester)
    compared.assert_outcomes(passed=1)
    compared.stdout.no_fnmatch_line("vetrace: recorded *")
    again = run(pytester, "--vetrace-record")
    again.stdout.no_fnmatch_line("vetrace: recorded *")


def test_a_failure_is_the_diff_without_our_own_frames(
    project: Path, pytester: pytest.Pytester
) -> None:
    run(pytester, "--vetrace-record").assert_outcomes(passed=1)
    path = project / "tests" / "run.vtrace"
    path.write_bytes(path.read_bytes().replace(b'"0x460001"', b'"0x460000"'))
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *GoldenMismatch: *run.vtrace does not match the golden *nvme-probe.vtrace",
            "E *nvme: 1 changed, 0 only in the golden, 0 only in this trace, 1 alike",
            "E *~ W4  +0x14 *0x00460001 → 0x00460000  nvme_enable_ctrl+0x10 #1 → #1",
        ]
    )
    result.stdout.no_fnmatch_line("*golden.py*")


def test_a_page_lies_beside_a_golden_that_does_not_match_and_goes_again(
    project: Path, pytester: pytest.Pytester
) -> None:
    pytest.importorskip("bokeh")
    run(pytester, "--vetrace-record").assert_outcomes(passed=1)
    path = project / "tests" / "run.vtrace"
    good = path.read_bytes()
    path.write_bytes(good.replace(b'"0x460001"', b'"0x460000"'))
    result = run(pytester)
    result.assert_outcomes(failed=1)
    page = project / "tests" / "golden" / "nvme-probe.report.html"
    result.stdout.fnmatch_lines([f"what differs, as a page for a browser: {page}"])
    text = page.read_text()
    assert '"fields":"EN 1→0"' in text
    assert "hpet" not in text.partition('"accesses":')[2].partition('"statistics":')[0]
    path.write_bytes(good)
    run(pytester).assert_outcomes(passed=1)
    assert not page.exists()


def test_no_page_can_be_written_is_no_failure_of_its_own(
    project: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(pytester, "--vetrace-record").assert_outcomes(passed=1)
    path = project / "tests" / "run.vtrace"
    path.write_bytes(path.read_bytes().replace(b'"0x460001"', b'"0x460000"'))
    # Ahead of a Bokeh that may be installed.
    (project / "bokeh.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(project))
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["no page of this: a report needs bokeh, which is not installed: *vetrace?report?*"]
    )
    result.stdout.fnmatch_lines(["E *nvme: 1 changed, 0 only in the golden, *"])
    assert list((project / "tests" / "golden").iterdir()) == [
        project / "tests" / "golden" / "nvme-probe.vtrace"
    ]


def test_what_could_never_match_is_not_recorded(project: Path, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(**{"tests/test_driver": TEST.replace('region="nvme"', 'region="hpet"')})
    result = run(pytester, "--vetrace-record")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *run.vtrace: no access is left to compare: `ignore` leaves *"])
    assert not (project / "tests" / "golden").exists()


def test_workers_of_xdist_tell_what_was_recorded_and_take_no_page_of_anothers(
    project: Path, pytester: pytest.Pytester
) -> None:
    pytest.importorskip("bokeh")

    def run(*words: str) -> pytest.RunResult:
        plugins = "-p", "tracer.pytest_plugin", "-p", "xdist", "-p", "no:cacheprovider"
        return pytester.runpytest_subprocess(*plugins, "-n", "2", "--dist", "load", *words)

    golden = project / "tests" / "golden" / "nvme-probe.vtrace"
    recorded = run("--vetrace-record")
    recorded.stdout.fnmatch_lines([f"vetrace: recorded {golden}"])
    path = project / "tests" / "run.vtrace"
    good = path.read_bytes()
    # One of them matches, on a worker of its own, and the other does not.
    (project / "tests" / "other.vtrace").write_bytes(good.replace(b'"0x460001"', b'"0x460000"'))
    pytester.makepyfile(**{"tests/test_other": TEST.replace("run.vtrace", "other.vtrace")})
    run().assert_outcomes(passed=1, failed=1)
    page = golden.with_name("nvme-probe.report.html")
    assert page.exists()
    (project / "tests" / "other.vtrace").write_bytes(good)
    run().assert_outcomes(passed=2)
    assert not page.exists()


def test_two_tests_do_not_overwrite_each_others_golden(
    project: Path, pytester: pytest.Pytester
) -> None:
    other = TEST.replace('region="nvme"', 'region="hpet"')
    pytester.makepyfile(**{"tests/test_other": other, "tests/test_same": TEST})
    golden = project / "tests" / "golden" / "nvme-probe.vtrace"
    result = run(pytester, "--vetrace-record")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines([f"E *TraceError: {golden} has not an access to hpet *"])
    assert result.outlines.count(f"vetrace: recorded {golden}") == 1
    run(pytester).assert_outcomes(passed=2, failed=1)


def test_a_golden_that_is_no_trace_is_told_without_our_own_frames(
    project: Path, pytester: pytest.Pytester
) -> None:
    golden = project / "tests" / "golden" / "nvme-probe.vtrace"
    golden.parent.mkdir()
    golden.write_text("garbage\n")
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"E *TraceError: {golden}: line 1: not a vetrace trace: *"])
    for own in ("*golden.py*", "*reader.py*", "*codec.py*"):
        result.stdout.no_fnmatch_line(own)
    run(pytester, "--vetrace-record").assert_outcomes(passed=1)


BOOTS = """
    import shutil
    import pytest
    import tracer.pytest_plugin as plugin

    @pytest.fixture(scope="session", autouse=True)
    def guest():
        booted = []
        def boot(path, words):
            booted.append(words)
            shutil.copy({source!r}, path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plugin, "need_guest", lambda words: None)
            patch.setattr(plugin, "_run", boot)
            yield booted
"""


def test_the_same_words_boot_once(pytester: pytest.Pytester) -> None:
    source = sample.write(pytester.path / "source.vtrace")
    pytester.makeconftest(BOOTS.format(source=str(source)))
    pytester.makepyfile(
        """
        def test_a(vetrace_boot):
            trace = vetrace_boot("--region", "nvme")
            assert vetrace_boot("--region", "nvme").path == trace.path
            assert trace.header.kernel == "vmlinuz"
        def test_b(vetrace_boot, guest):
            vetrace_boot("--region", "nvme").assert_matches_trace("a.vtrace", region="nvme")
            assert guest == [["--region", "nvme"]]
            assert vetrace_boot().path != vetrace_boot("--region", "nvme").path
            assert guest == [["--region", "nvme"], []]
        """
    )
    run(pytester, "--vetrace-record").assert_outcomes(passed=2)
    assert (pytester.path / "a.vtrace").exists()


def test_limits_are_words_of_the_boot(pytester: pytest.Pytester) -> None:
    source = sample.write(pytester.path / "source.vtrace")
    pytester.makeconftest(BOOTS.format(source=str(source)))
    pytester.makepyfile(
        """
        def test_a(vetrace_boot, guest):
            vetrace_boot("--realtime", "--", "-smp", "2", timeout=90, guest_timeout=2.5)
            asked = ["--timeout=90", "--guest-timeout=2.5", "--realtime", "--", "-smp", "2"]
            assert guest == [asked]
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_a_kind_of_guest_is_a_word_of_the_boot(pytester: pytest.Pytester) -> None:
    source = sample.write(pytester.path / "source.vtrace")
    pytester.makeconftest(BOOTS.format(source=str(source)))
    pytester.makepyfile(
        """
        def test_a(vetrace_boot, guest):
            trace = vetrace_boot("--region", "nvme", guest="tdx")
            assert guest == [["--guest=tdx", "--region", "nvme"]]
            trace.assert_survives("linux-tdx", region="nvme")
        """
    )
    run(pytester).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    "word", ["guest='tdx'", "'--guest', 'tdx'", "'--guest=plain', '--guest=tdx'"]
)
def test_without_a_kernel_that_can(
    word: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "")
    monkeypatch.setenv("VETRACE_CACHE", str(pytester.path / "cache"))
    image = pytester.path / "cache/kernel/current/boot/vmlinuz-1"
    image.parent.mkdir(parents=True)
    image.write_bytes(vmlinux())
    pytester.makepyfile(BOOT.format(words=f"'--qemu=none', '--gdb=none', {word}"))
    result = run(pytester)
    result.assert_outcomes(skipped=1)
    told = "*missing: a guest kernel; `vetrace setup --guest tdx` gets one that can*"
    result.stdout.fnmatch_lines([told])


BOOT = "def test_boot(vetrace_boot):\n    vetrace_boot({words})\n"


@pytest.mark.parametrize(("ci", "outcome"), [("", "skipped"), ("true", "failed")])
def test_without_qemu(
    ci: str, outcome: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(pytester.path))
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("VETRACE_CACHE", str(pytester.path / "cache"))
    for words, lacking in (("'--kernel=bzImage'", ""), ("", ", a guest kernel")):
        pytester.makepyfile(BOOT.format(words=words))
        result = run(pytester)
        result.assert_outcomes(**{outcome: 1})
        missing = (
            f"*missing: qemu-system-x86_64, gdb{lacking}; `vetrace doctor` tells what to install"
        )
        result.stdout.fnmatch_lines([missing])


def test_a_boot_that_fails_says_why(pytester: pytest.Pytester) -> None:
    words = "'--kernel', 'none', '--qemu', 'none', '--gdb', 'none', '--memory', 'much'"
    pytester.makepyfile(BOOT.format(words=words))
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["`vetrace boot --kernel none *` ended with status 2:", "vetrace: *much*"]
    )


def test_unused_it_costs_no_import() -> None:
    code = "import sys, tracer.pytest_plugin; print(*(m for m in sys.modules if 'tracer' in m))"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["tracer", "tracer.pytest_plugin"]


def test_the_command_needs_no_pytest() -> None:
    code = (
        "import sys; sys.modules['pytest'] = None;"
        "import tracer.check.golden, tracer.cli.main as c;"
        "sys.exit(c.main(['decode', '8b401c']))"
    )
    words = [sys.executable, "-c", code]
    subprocess.run(words, cwd=CHECKOUT, capture_output=True, check=True)


def test_the_default_kernel_by_its_name_boots_no_second_guest(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = pytester.mkdir("kernels")
    for name in ("vmlinuz-1", "vmlinuz-2"):
        (kernels / name).touch()
    (kernels / "current").symlink_to("vmlinuz-1")
    booted: list[list[str]] = []

    def start(path: Path, words: list[str]) -> None:
        booted.append(words)
        sample.write(path)

    monkeypatch.setattr(kernel, "default_kernel", lambda kind: kernels / "vmlinuz-1")
    monkeypatch.setattr(pytest_plugin, "need_guest", lambda words: None)
    monkeypatch.setattr(pytest_plugin, "_run", start)
    pytester.makepyfile(
        """
        def test_boots(vetrace_boot):
            for kernel in ((), ("--kernel", "kernels/current"), ("--kernel=kernels/vmlinuz-1",)):
                assert vetrace_boot("--region", "nvme", *kernel, "--stacks").kernel == "vmlinuz"
            vetrace_boot("--region", "nvme", "--kernel", "kernels/vmlinuz-2", "--stacks")
            vetrace_boot("--region", "nvme", "--kernel", "kernels/current", "--", "--stacks")
        """
    )
    run(pytester).assert_outcomes(passed=1)
    assert booted == [
        ["--region", "nvme", "--stacks"],
        ["--region", "nvme", "--kernel", "kernels/vmlinuz-2", "--stacks"],
        ["--region", "nvme", "--kernel", "kernels/current", "--", "--stacks"],
    ]
