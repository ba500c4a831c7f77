"""tracer.host.named_file: names of files to write, and what is written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from full_disk import room_for

from tracer.errors import TracerError, UsageError
from tracer.host.named_file import at_home, check_output, file_named, replacing


@pytest.mark.parametrize("name", ["nof/", "nof//", "/"])
def test_name_of_a_folder_is_no_file(name: str) -> None:
    with pytest.raises(UsageError, match=f"^cannot write {name}: Is a directory; name a file"):
        file_named(name)


def test_empty_name_is_no_file() -> None:
    with pytest.raises(UsageError, match="empty name"):
        file_named("")


def test_home_of_nobody_is_told() -> None:
    with pytest.raises(UsageError, match=r"^~no-such-person/x: .* ~no-such-person$"):
        at_home(Path("~no-such-person/x"))


def test_home_is_put_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert at_home(Path("~/x")) == tmp_path / "x"


def test_disk_that_is_full_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with room_for(100), pytest.raises(TracerError, match="File too large"), replacing(path) as file:
        file.write(b"x" * 1000)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_disk_that_is_full_leaves_nothing(tmp_path: Path) -> None:
    with room_for(100), pytest.raises(TracerError), replacing(tmp_path / "new", over=False) as file:
        file.write(b"x" * 1000)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_kept_where_nothing_may_go_over_it(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_text("old")
    link.symlink_to("nowhere")
    for there in (path, link, tmp_path):
        with pytest.raises(TracerError, match="File exists"), replacing(there, over=False):
            pass
    assert path.read_text() == "old"


def test_pipe_is_written_as_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    check_output(tmp_path / "pipe")
    with replacing(tmp_path / "pipe") as file:
        file.write(b"as it is")
    assert os.read(reader, 100) == b"as it is"
    os.close(reader)


@pytest.mark.parametrize("name", ["nof/x", "file/x", "a" * 300, "a\0b"])
def test_place_where_nothing_can_be_written_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    for write in (check_output, lambda path: replacing(path).__enter__()):
        with pytest.raises(TracerError, match=r"^cannot write ") as caught:
            write(tmp_path / name)
        assert "\n" not in str(caught.value)
