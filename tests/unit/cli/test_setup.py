"""``vetrace setup`` refuses some arguments before it fetches anything."""

from __future__ import annotations

import pytest

from tracer.cli.main import main


def test_a_flavour_and_a_kind_of_guest_are_two_kernels(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["setup", "--flavour", "full", "--guest", "tdx"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "give one of them" in told
