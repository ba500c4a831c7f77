"""``vetrace audit --live``: what it takes, before a guest is started."""

from __future__ import annotations

import pytest

from tracer.cli import main


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "give a TRACE, or --live"),
        (["x.vtrace", "--live"], "--live reads no trace: drop TRACE, or --live"),
        (["--live", "--profile", "all"], "--live takes one profile: linux-tdx,"),
        (["--live", "--profile", "mine"], "--live takes one profile: linux-tdx,"),
        (["--live", "-n", "0"], "-n 0: there is nothing to try"),
        (["--live", "-n", "-1"], "-n"),
        (["--live", "--guest", "plain"], "invalid choice"),
        (["--live", "--region", "nvme"], "filters are for a trace: drop --region"),
        (["--live", "--if", "width == 4", "--read"], "filters are for a trace: drop --if, --read"),
        (["--live", "--profile", "linux-sev"], "is no handler of a TDX guest: linux-tdx,"),
        (
            ["--live", "--guest", "sev-es", "--profile", "linux-tdx"],
            "is no handler of an SEV-ES guest: linux-sev, linux-sev-5.10",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["audit", *words]) == 2
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("vetrace")]
    assert told in line
