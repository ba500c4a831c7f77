"""tracer.host.cache: where the folder is."""

from __future__ import annotations

from pathlib import Path

import pytest

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


def test_relative_cache_folder_is_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VETRACE_CACHE", "here")
    assert cache_folder() == tmp_path / "here"
