"""Rules, files of rules and a person's Python come from the command line and the prompt."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from guest_sample import Talk
from talk_sample import refused, run, told

from tracer.cli import main
from tracer.cli.hosting import add_host_arguments
from tracer.confidential.kind import Kind
from tracer.errors import MarkedError, UsageError
from tracer.repl.hosting import Hosting, RuleText, hosting, install
from tracer.repl.names import known_of
from tracer.trace.record import UserRecord

FILE = """\
# A hostile host does this.
on read nvme.CSTS once do give 0xffffffff  # surprise removal

on read nvme#2 pending do give 1
on if function ~ "a # b" do give 1 #
"""


def test_a_command_line(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_host_arguments(parser)
    args = parser.parse_args(["--rule", "on do give 1", "--host", "x", "--rule", "on do give 2"])
    assert (args.rule, args.host) == (["on do give 1", "on do give 2"], Path("x"))
    args = parser.parse_args([])
    assert hosting(args.rule, args.host) == Hosting() and not Hosting().asked


def test_rules_come_in_the_order_of_the_command_line_then_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "hostile.rules"
    path.write_text(FILE)
    asked = hosting(["on do give 1", "on do give 2"], path)
    assert asked.asked and asked.own is None
    assert [(item.owner, item.text) for item in asked.rules] == [
        ("--rule 1", "on do give 1"),
        ("--rule 2", "on do give 2"),
        (f"{path}:2", "on read nvme.CSTS once do give 0xffffffff"),
        (f"{path}:4", "on read nvme#2 pending do give 1"),
        (f"{path}:5", 'on if function ~ "a # b" do give 1'),
    ]


def test_a_mistake_is_told_with_its_line_before_there_is_a_guest(tmp_path: Path) -> None:
    path = tmp_path / "hostile.rules"
    path.write_text("on do give 1\n   on nvme do gve 2\n")
    with pytest.raises(MarkedError) as caught:
        hosting((), path)
    assert caught.value.detail.splitlines() == [
        f"{path}:2: nothing can gve an access; did you mean give?",
        "  on nvme do gve 2",
        "             ^",
    ]
    with pytest.raises(UsageError, match=r"^--rule 2: the rule is empty"):
        hosting(["on do give 1", " "])
    with pytest.raises(UsageError, match=r"^--rule 1: refuse is an answer to a guest that asks"):
        hosting(["on nvme do refuse"])
    for kind in (Kind.TDX, Kind.SEV_ES):
        assert hosting(["on nvme do refuse"], kind=kind).asked
    assert hosting(["on nvme do retry"], kind=Kind.TDX).asked
    with pytest.raises(UsageError, match="host of an SEV-ES guest grants an access, or it refuses"):
        hosting(["on nvme do retry"], kind=Kind.SEV_ES)
    with pytest.raises(UsageError, match="cannot read"):
        hosting((), tmp_path / "none")
    path.write_bytes(b"\xef\xbb\xbfon nvme do give 1\r\n")
    assert len(hosting((), path).rules) == 1
    path.write_bytes(b"on \xff")
    with pytest.raises(UsageError, match="is no UTF-8 text"):
        hosting((), path)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("def mmio(access): return 1", "mmio"),
        ("class Host:\n    on = 'read nvme'\n    def mmio(self, access): return 1", "mmio"),
        ("def hypercall(call): return None", "hypercall"),
    ],
)
def test_python_is_a_module_or_a_class(text: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.py"
    path.write_text(text)
    own = hosting((), path).own
    assert own is not None and getattr(own, name) is not None
    assert (own.name, own.path) == ("hostile.py", str(path))


def test_an_object_is_a_host(tmp_path: Path) -> None:
    class Hostile:
        on = ("read nvme", "ioapic")

        def mmio(self, access: object) -> int:
            return 7

    own = hosting((), Hostile()).own
    assert own is not None and (own.name, own.on) == ("Hostile", ("read nvme", "ioapic"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "has no mmio"), ("Host = 3", "Host is no class"),
        ("raise KeyError(1)", ":1: Key"),
        ("class Host:\n    pass", "has no mmio"), ("def mmio(:", ":1: "),
        ("on = 'read nvme if valu == 3'\ndef mmio(access): pass", ": on: unknown name valu"),
    ],
)  # fmt: skip
def test_what_is_no_host(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.py"
    path.write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        hosting((), path)
    assert str(path) in str(caught.value)


def test_names_are_held_against_those_of_the_guest() -> None:
    async def test(talk: Talk) -> None:
        host, session = talk.control.host, talk.session
        known = known_of(session, talk.context.names)
        for text, words in (
            ("on nvmee do give 1", "--rule 1: no region is called nvmee; did you mean nvme?"),
            ("on nvme.CSTSS do give 1", "--rule 1: nvme has no register CSTSS"),
        ):
            with pytest.raises(MarkedError, match="`pending` waits for one that is to come") as it:
                install(Hosting((RuleText("--rule 1", text),)), host, known)
            assert str(it.value).startswith(words)
        install(Hosting((RuleText("--rule 1", "on nvmee pending do give 1"),)), host, known)
        assert [rule.number for rule in host.rules.items] == [1]

    run(test)


def test_a_command_line_that_makes_no_sense_has_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (
        ["--rule", "on nvme do gve 1"], ["--rule", "on nvme do retry"],
        ["--host", str(tmp_path / "none")],
        ["--untraced", "--rule", "on nvme do give 1"],
    ):  # fmt: skip
        assert main.main(["boot", *words]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[:3] == [
        "vetrace: --rule 1: nothing can gve an access; did you mean give?",
        "  on nvme do gve 1",
        "             ^",
    ]
    assert "takes --guest tdx" in said[3] and "cannot read" in said[4]
    assert "--untraced leaves nothing to decide about" in said[5]


# ---- at the prompt


def test_rules_at_the_prompt() -> None:
    talk = told(
        "rule", "rule on read nvme.CSTS once do give 7", "rule on write nvme do give 0x55",
        "continue", "rule", "info rules", "rule off 1", "rule", "rule off", "rule off",
    )  # fmt: skip
    assert [value for _, value in talk.made] == [7, 0x55, 1, 0x55, 1, 0x55]
    assert talk.said[0] == "there are no rules; `help rule` tells how to make one"
    assert talk.said[1] == "rule 1: on read nvme.CSTS once do give 7"
    listed = [
        "1   1 applied  on read nvme.CSTS once do give 7  (used up)",
        "2   3 applied  on write nvme do give 0x55",
    ]
    at = talk.said.index(listed[0])
    assert talk.said[at:] == [
        *listed, *listed, "deleted rule 1", listed[1], "deleted rule 2", "there are no rules",
    ]  # fmt: skip
    deeds = [record.text for record in talk.records if isinstance(record, UserRecord)]
    assert deeds[-2:] == ["rule 1: off", "rule 2: off"]


def test_a_person_goes_before_the_rules() -> None:
    rules = ("rule on read nvme do give 7", "rule on write nvme do give 8")
    assert told(*rules, "step", "set value 5", "step").made == [("read", 5)]
    assert told(*rules, "step", "step", "skip").made == [("read", 7), ("skip", 0)]
    assert told(*rules, "step", "step", "set value 5", "step").made[1] == ("write", 5)
    # A break on the value sees that of the device.
    talk = told(*rules, "break read nvme if value == 1", "continue", "step")
    assert talk.made == [("read", 7)]
    assert told(
        *rules, "break read nvme if value == 1", "continue", "set value 9", "step"
    ).made == [("read", 9)]


def test_a_guest_that_is_left_alone_has_no_host() -> None:
    async def test(talk: Talk) -> None:
        assert await talk.type("rule on read do give 7", "detach") == 0
        await talk.control.wait()
        assert talk.made == []

    run(test)


def test_the_access_that_waits_may_be_late() -> None:
    talk = told("step", "delay 20us", "step")
    assert "the guest will wait 2e-05 s for the answer" in talk.said
    deeds = [record.text for record in talk.records if isinstance(record, UserRecord)]
    assert deeds == ["delay 20000ns"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("rule nvme do give 1", "a rule begins with on"),
        ("rule on nvme do refuse", "--guest tdx"),
        ("rule on nvmee do give 1", "`pending` waits"),
        ("rule on nvme do gve 1", "did you mean give?"),
        ("rule off 3", "there is no rule 3"),
        ("rule off x", "x is no number of a rule"),
        ("delay", "nothing is no time"),
        ("delay 0", "above 0"),
        ("delay 2h", "2h is no time"),
        ("delay 1ms", "no access waits here"),
    ],
)
def test_what_makes_no_rule_at_the_prompt(line: str, words: str) -> None:
    assert words in refused(line)
