"""tracer.host.cache: where the folder is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tracer.errors import TracerError
from tracer.host.cache import cache_folder


@pytest.mark.parametrize(
    ("own", "xdg", "expected"),
    [
        ("/own", "/xdg", "/own"),
        ("", "/xdg", "/xdg/vetrace"),
        (None, "/xdg", "/xdg/vetrace"),
        (None, "relative", "/home/me/.cache/vetrace"),
        (None, "", "/home/me/.cache/vetrace"),
        (None, None, "/home/me/.cache/vetrace"),
    ],
)
def test_cache_folder(
    own: str | None, xdg: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in (("VETRACE_CACHE", own), ("XDG_CACHE_HOME", xdg)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


def test_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VETRACE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 1 << 30)
    with pytest.raises(TracerError, match="name one with VETRACE_CACHE"):
        cache_folder()


def test_relative_cache_folder_is_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VETRACE_CACHE", "here")
    assert cache_folder() == tmp_path / "here"
