"""tracer.qemu.option: which words of QEMU's command line belong together."""

from __future__ import annotations

from tracer.qemu.option import option_name, options


def test_each_option_comes_with_its_value() -> None:
    words = ["-nodefaults", "--device", "edu", "-S"]
    assert list(options(words)) == [("-nodefaults",), ("--device", "edu"), ("-S",)]
    assert list(options([])) == []


def test_an_option_is_spelt_with_one_hyphen_or_two() -> None:
    assert option_name("-device") == option_name("--device") == "device"
    assert option_name("edu") == ""
