"""The sources of a machine's apt, as those of the backports of its release."""

from __future__ import annotations

import pytest

from tracer.host.backports import moved


@pytest.mark.parametrize(
    ("line", "backports"),
    [
        ("deb http://a.example/debian one main", "deb http://a.example/debian one-backports main"),
        (
            "deb\t[signed-by=/k.gpg arch=amd64] http://a.example one main contrib # mine",
            "deb [signed-by=/k.gpg arch=amd64] http://a.example one-backports main",
        ),
        (
            "deb [ trusted=yes ] file:/a one contrib main",
            "deb [ trusted=yes ] file:/a one-backports main",
        ),
        ("deb http://a.example one-updates main", ""),
        ("deb http://a.example one-backports main", ""),
        ("deb http://a.example one/updates main", ""),
        ("deb http://a.example one contrib", ""),
        ("deb http://a.example one maintained", ""),
        ("deb file:/flat ./", ""),
        ("deb-src http://a.example one main", ""),
        ("# deb http://a.example one main", ""),
        ("deb", ""),
        ("", ""),
    ],
)
def test_a_line(line: str, backports: str) -> None:
    # A line that the one before it must not change.
    text = f"{line}\ndeb file:/last two main\n"
    expected = f"{backports}\n" if backports else ""
    assert moved(".list", text) == f"{expected}deb file:/last two-backports main\n"


STANZA = """\
# Debian's own
Types: deb deb-src
URIs: http://a.example/debian
Suites: one one-updates two
Components: contrib main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc=
"""
LIKE_IT = """\
types: deb
uris: http://a.example/debian
suites: one-backports two-backports
components: main
signed-by:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc=
"""


def test_a_stanza_keeps_its_mirror_and_its_keys() -> None:
    assert moved(".sources", STANZA) == LIKE_IT
    assert moved(".sources", f"\n\n{STANZA}\n \n{STANZA}") == f"{LIKE_IT}\n{LIKE_IT}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("deb deb-src", "deb-src"),
        ("one one-updates two", "one-updates one-security ./"),
        ("contrib main", "contrib"),
        ("Components:", "Enabled: no\nComponents:"),
    ],
)
def test_a_stanza_of_something_else(old: str, new: str) -> None:
    assert old in STANZA
    assert moved(".sources", STANZA.replace(old, new)) == ""


def test_another_suite_takes_the_place_of_the_release() -> None:
    line = "deb [signed-by=/k] http://a.example one main contrib\ndeb file:/b two-updates main\n"
    assert moved(".list", line, "later-backports") == (
        "deb [signed-by=/k] http://a.example later-backports main\n"
    )
    suites = "suites: one-backports two-backports"
    assert moved(".sources", STANZA, "later") == LIKE_IT.replace(suites, "suites: later")


@pytest.mark.parametrize("text", ["", "\n\n", ":", "Types", "no field\n: at all\n continued"])
@pytest.mark.parametrize("suffix", [".list", ".sources"])
def test_a_file_with_no_source(suffix: str, text: str) -> None:
    assert moved(suffix, text) == ""
