"""tracer.host.whole_file: files that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tracer.errors import TracerError
from tracer.host.whole_file import new_file


def test_new_file_appears_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    mask = os.umask(0o027)
    with new_file(path) as draft:
        draft.write_text("half")
        assert not path.exists()
        draft.write_text("whole")
    os.umask(mask)
    assert path.read_text() == "whole"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(path.parent.iterdir()) == [path]


def test_new_file_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), new_file(path) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(TracerError, match=r"cannot write .*file/x: .*VETRACE_CACHE"),
        new_file(tmp_path / "file" / "x"),
    ):
        pass
