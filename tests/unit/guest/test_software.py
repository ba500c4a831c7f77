"""What a reader has put into the guest: where, with what it loads, and a script."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracer.errors import UsageError
from tracer.guest.initramfs import Entry, find_busybox, loader_of
from tracer.guest.software import SCRIPT, Software, entries, parse_added


@pytest.mark.parametrize(
    ("word", "source", "place"),
    [("/x/tool", "/x/tool", "bin/tool"), ("tool:/opt/", "tool", "opt/tool"),
     ("tool:/opt/other", "tool", "opt/other"), ("a:b", "a:b", "bin/a:b"),
     ("tool:/", "tool", "tool")],
)  # fmt: skip
def test_a_program_has_its_place(word: str, source: str, place: str) -> None:
    assert parse_added(word) == (Path(source), place)


@pytest.mark.parametrize("word", ["tool:/a/../b", ".."])
def test_a_place_that_is_none(word: str) -> None:
    with pytest.raises(UsageError, match="give a path in the guest"):
        parse_added(word)


def test_folders_come_before_what_is_in_them(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").write_bytes(b"words")
    (folder / "deep" / "file").chmod(0o640)
    (folder / "link").symlink_to("deep/file")
    script = tmp_path / "run"
    script.write_text("echo hello\n")
    made = entries(Software(added=(f"{folder}:/srv/data",), script=script))
    assert [(entry.name, entry.kind) for entry in made] == [
        ("srv", "folder"), (SCRIPT, "file"), ("srv/data", "folder"), ("srv/data/deep", "folder"),
        ("srv/data/deep/file", "file"), ("srv/data/link", "link"),
    ]  # fmt: skip
    by_name = {entry.name: entry for entry in made}
    assert (by_name["srv/data/deep/file"].mode, by_name["srv/data/deep/file"].content) == (
        0o640, b"words",
    )  # fmt: skip
    assert by_name["srv/data/link"].content == b"deep/file"
    assert by_name[SCRIPT].mode == 0o755
    assert entries(Software()) == ()


def test_a_dynamic_program_comes_with_what_it_loads(tmp_path: Path) -> None:
    program = Path("/usr/bin/env")
    loader = loader_of(program.read_bytes())
    assert loader is not None
    names = {entry.name for entry in entries(Software(added=(str(program),)))}
    assert {"bin/env", loader.lstrip("/")} <= names
    assert any("libc.so" in name for name in names)
    alone = entries(Software(added=(f"{find_busybox()}:/opt/box",)))
    assert [entry.name for entry in alone] == ["opt", "opt/box"]


def test_a_library_from_elsewhere_is_where_the_guest_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def libraries() -> dict[str, Entry]:
        made = entries(Software(added=("/usr/bin/env:/opt/env",)))
        return {entry.name: entry for entry in made if "libc.so" in entry.name}

    (usual,) = libraries().values()
    mine = tmp_path / "libc.so.6"
    mine.write_bytes(usual.content)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    there = libraries()
    assert there["lib/libc.so.6"].content == usual.content
    link = there[mine.as_posix().lstrip("/")]
    assert (link.kind, link.content) == ("link", b"/lib/libc.so.6")


def test_what_cannot_be_put_into_the_guest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot put .*none into the guest: No such file"):
        entries(Software(added=(f"{tmp_path}/none",)))
    with pytest.raises(UsageError, match=r"cannot put .*script into the guest"):
        entries(Software(script=tmp_path / "script"))
    foreign = bytearray(Path("/usr/bin/env").read_bytes())
    loader = loader_of(bytes(foreign))
    assert loader is not None
    at = foreign.index(loader.encode())
    foreign[at : at + len(loader)] = b"/none".ljust(len(loader), b"\0")
    (tmp_path / "foreign").write_bytes(foreign)
    with pytest.raises(UsageError, match=r"would not start in the guest: its loader /none"):
        entries(Software(added=(f"{tmp_path}/foreign",)))
