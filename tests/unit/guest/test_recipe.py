"""The text of a machine definition as QEMU arguments; sizes of memory."""

from __future__ import annotations

from tracer.guest.recipe import command_line, parse_arguments


def test_arguments_one_option_a_line() -> None:
    text = "# a comment\n\n-nodefaults\n-machine q35,accel=tcg\n-append a b  c \n"
    assert parse_arguments(text, {}) == (
        "-nodefaults", "-machine", "q35,accel=tcg", "-append", "a b  c",
    )  # fmt: skip


def test_files_stand_for_their_names() -> None:
    text = "-drive if=none,file={disk}\n-drive if=none,file={other}\n"
    files = {"disk": "/a,b/disk.raw", "other": "/x"}
    assert parse_arguments(text, files) == (
        "-drive", "if=none,file=/a,,b/disk.raw", "-drive", "if=none,file=/x",
    )  # fmt: skip


def test_command_line_has_the_users_words_last() -> None:
    words = command_line("rdinit=/bin/x quiet").split()
    assert words[-2:] == ["rdinit=/bin/x", "quiet"]
    assert "nokaslr" in words
    assert "nokaslr" not in command_line(kaslr=True).split()
    assert not any(word.startswith("#") for word in words)
