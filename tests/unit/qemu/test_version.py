"""tracer.qemu.version: what QEMU's -version tells."""

from __future__ import annotations

import pytest

from tracer.qemu.version import is_before

OLD = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright (c) 2003-2022"


@pytest.mark.parametrize(
    ("version", "before"), [((8, 1), True), ((7, 3), True), ((7, 2), False), ((6, 9), False)]
)
def test_a_version_is_told_from_later_ones(version: tuple[int, int], before: bool) -> None:
    assert is_before(version, OLD) is before


def test_numbers_are_no_words() -> None:
    assert not is_before((8, 1), "QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)")


def test_what_tells_no_version_is_taken_for_a_later_one() -> None:
    assert not is_before((8, 1), "")
