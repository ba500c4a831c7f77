"""The text of a machine definition as QEMU arguments; sizes of memory."""

from __future__ import annotations

import pytest

from tracer.confidential.kind import Kind
from tracer.guest.recipe import (
    command_line,
    machine_arguments,
    parse_arguments,
    parse_kinds,
)


def test_arguments_one_option_a_line() -> None:
    text = "# a comment\n\n-nodefaults\n-machine q35,accel=tcg\n-append a b  c \n"
    assert parse_arguments(text, {}, {}) == (
        "-nodefaults", "-machine", "q35,accel=tcg", "-append", "a b  c",
    )  # fmt: skip


def test_files_stand_for_their_names() -> None:
    text = "-drive if=none,file={disk}\n-drive if=none,file={other}\n"
    files = {"disk": "/a,b/disk.raw", "other": "/x"}
    assert parse_arguments(text, files, {}) == (
        "-drive", "if=none,file=/a,,b/disk.raw", "-drive", "if=none,file=/x",
    )  # fmt: skip


def test_command_line_has_the_users_words_last() -> None:
    words = command_line("rdinit=/bin/x quiet").split()
    assert words[-2:] == ["rdinit=/bin/x", "quiet"]
    assert "nokaslr" in words
    assert "nokaslr" not in command_line(kaslr=True).split()
    assert not any(word.startswith("#") for word in words)


KINDS = "# a comment\n\ntdx cpu ,x=y z\ntdx cmdline one two\nsev-es cpu ,other\n"


def test_words_of_a_kind_are_empty_where_it_has_none() -> None:
    assert parse_kinds(KINDS, Kind.TDX) == {"cpu": ",x=y z", "virtio": "", "cmdline": "one two"}
    assert set(parse_kinds(KINDS, Kind.PLAIN).values()) == {""}


def test_words_stand_for_their_names_as_they_are() -> None:
    text = "-cpu max{cpu}\n-drive file={disk}\n"
    assert parse_arguments(text, {"disk": "/a,b"}, {"cpu": ",la57=off"}) == (
        "-cpu", "max,la57=off", "-drive", "file=/a,,b",
    )  # fmt: skip


@pytest.mark.parametrize("kind", [Kind.TDX, Kind.SEV_ES])
def test_every_virtio_device_of_a_confidential_guest_keeps_to_bounce_buffers(kind: Kind) -> None:
    virtio = [word for word in machine_arguments(kind) if word.startswith("virtio-")]
    assert virtio
    assert all("iommu_platform=on" in word.split(",") for word in virtio)
    assert not any("iommu_platform" in word for word in machine_arguments())
    assert not any("{" in word for word in machine_arguments(kind))


def test_a_kind_of_guest_adds_its_words_before_the_users() -> None:
    assert command_line("quiet", kind=Kind.TDX).split()[-2:] == ["nopti", "quiet"]
    assert "nopti" not in command_line(kind=Kind.SEV_ES).split()
