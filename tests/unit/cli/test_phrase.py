"""Texts that went without their quotes: each is told with the line that was meant."""

from __future__ import annotations

import pytest

from tracer.cli import main
from tracer.cli.phrase import Phrase, phrase
from tracer.query.condition import parse

Output = pytest.CaptureFixture[str]


def test_a_phrase_reads_where_it_surely_is_one() -> None:
    assert Phrase(parse).reads("register == CC")
    assert not Phrase(parse).reads("register == CC x.vtrace")
    assert not phrase.reads("any text")
    assert phrase("any text") == "any text"


@pytest.mark.parametrize(
    "line",
    [
        "show --if «register == CC» x.vtrace",
        "show x.vtrace --if «register == CC»",
        "show x.vtrace --if «register == CC» --json",
        "-v show --limit 3 --if «value & 1 and width == 4» x.vtrace",
        "show «--if=register == CC» x.vtrace",
        "show --if «register = CC» x.vtrace",
        "show --if «register == CC»",
        "show --limit x --if «register == CC» x.vtrace",
        "stats --if «value == -1» x.vtrace",
        "allow-list --if «register == CC» a.vtrace b.vtrace",
        "report --if «register == CC» a.vtrace b.vtrace",
        "report --if «register == CC» a.vtrace",
        "diff a.vtrace --if «register == CC» b.vtrace",
        "diff --if «register == CC and no sense» a.vtrace b.vtrace",
        "export --if «register == CC» perfetto x.vtrace",
        "audit --if «register == CC» x.vtrace --json",
    ],
)
def test_a_condition_without_its_quotes_is_told_with_them(line: str, capsys: Output) -> None:
    assert main.main(line.replace("«", "").replace("»", "").split()) == 2
    meant = line.replace("«", "'").replace("»", "'")
    assert capsys.readouterr().err == (
        f"vetrace: --if is one argument, in quotes: vetrace {meant}\n"
    )


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("show x.vtrace extra", "unrecognized arguments: extra"),
        ("open -e continue x.vtrace --foo bar", "unrecognized arguments: --foo bar"),
        ("tally x.vtrace count --limit 3 extra", "unrecognized arguments: extra"),
        ("show --if changes /no/such/trace", "cannot read trace"),
    ],
)
def test_quotes_are_not_blamed_where_none_are_missing(line: str, told: str, capsys: Output) -> None:
    assert main.main(line.split()) in (1, 2)
    assert f"vetrace: {told}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "tally --if register == CC x.vtrace count by register --json",
            "--if and TALLY are one argument each, in quotes: vetrace tally --if 'register == CC'"
            " x.vtrace 'count by register' --json",
        ),
        (
            "tally x.vtrace count by regsiter",
            "TALLY is one argument, in quotes: vetrace tally x.vtrace 'count by regsiter'",
        ),
        (
            "boot --append quiet single -e break nvme.CC if value & 1",
            "--append and -e are one argument each, in quotes: vetrace boot --append 'quiet single'"
            " -e 'break nvme.CC if value & 1'",
        ),
        (
            "tally x.vtrace count by register --limit 4",
            "TALLY is one argument, in quotes: vetrace tally x.vtrace 'count by register'"
            " --limit 4",
        ),
        (
            "open x.vtrace -e goto 10",
            "-e is one argument, in quotes: vetrace open x.vtrace -e 'goto 10'",
        ),
        (
            "boot -e break nvme.CC -- -smp 2",
            "-e is one argument, in quotes: vetrace boot -e 'break nvme.CC' -- -smp 2",
        ),
        (
            "boot --rule on read nvme",
            "--rule is one argument, in quotes: vetrace boot --rule 'on read nvme'",
        ),
        (
            "campaign --seeds 3 --mutate read nvme -- --json",
            "--mutate is one argument, in quotes: vetrace campaign --seeds 3 --mutate 'read nvme'"
            " -- --json",
        ),
    ],
)
def test_a_text_without_its_quotes_is_told_with_them(line: str, told: str, capsys: Output) -> None:
    assert main.main(line.split()) == 2
    assert capsys.readouterr().err == f"vetrace: {told}\n"
