"""Tallies and pipes at the prompt, on a simulated guest."""

from __future__ import annotations

import json
from typing import Any

import pytest
from guest_sample import Talk
from talk_sample import refused, run, told


def result(talk: Talk) -> Any:
    return json.loads(talk.said[-1])["result"]


def test_a_tally_counts_what_was_and_what_comes() -> None:
    talk = told("step 3", "tally count by register", json=True)
    (begun,) = result(talk)
    assert begun["accesses"] == 2 and begun["number"] == 1
    talk = told("step 3", "tally count by register", "continue", "tally", json=True)
    (ended,) = result(talk)
    assert ended["accesses"] == len(talk.made) == 6
    counts = {group["key"]["register"]: group["count"] for group in ended["groups"]}
    assert sum(counts.values()) == 6 and counts["CSTS"] >= 1


def test_several_go_on_each_by_its_number() -> None:
    lines = "tally count", "tally hist(width) if direction == write", "continue"
    talk = told(*lines, "tally 2", json=True)
    (writes,) = result(talk)
    assert writes["number"] == 2
    assert writes["accesses"] == sum(kind == "write" for kind, _ in talk.made) > 0
    assert [each["number"] for each in result(told(*lines, "tally", json=True))] == [1, 2]
    talk = told(*lines, "tally off 1", "tally", json=True)
    assert [each["number"] for each in result(talk)] == [2]
    assert (
        told(*lines, "tally off", "tally").said[-1] == "nothing is tallied; `help tally` tells how"
    )


def test_a_person_gets_a_table() -> None:
    talk = told("step 3", "tally count by register, function")
    assert "tally 1: count by register, function" in talk.said
    assert any(line.split() == ["register", "function", "count"] for line in talk.said)
    assert talk.said[-1].startswith("2 accesses in 2 group")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("tally conut by register", "no tally is called conut"),
        ("tally count by regster", "unknown name regster"),
        ("tally count if region == nmve", "no region is called nmve"),
        ("tally 3", "there is no tally 3"),
        ("tally off 3", "there is no tally 3"),
        ("tally count by callers is start_kernel", "are not known"),
    ],
)
def test_what_cannot_be_is_refused(line: str, why: str) -> None:
    said = refused(line)
    assert why in said
    if "count" in line and "callers" not in line:
        assert said.splitlines()[-1].strip() == "^"


def test_a_name_that_is_to_come_is_waited_for() -> None:
    (waiting,) = result(told("tally count if region == nmve pending", json=True))
    assert waiting["accesses"] == 0


def test_one_without_an_answer_ends_and_the_guest_goes_on() -> None:
    async def test(talk: Talk) -> None:
        talk.context.complain = talk.complaints.append
        assert await talk.type("tally sum(1 // (width - 4))", "continue", "tally") == 0
        assert len(talk.made) == 6
        assert any(
            "division by zero" in text and "counts no more" in text for text in talk.complaints
        )
        assert "division by zero" in talk.said[-1]

    run(test)
    assert "division by zero" in refused("tally sum(1 // (width - 4))", before=("step 2",))


def test_what_a_command_tells_goes_through_a_program() -> None:
    talk = told("step 3", "pipe show last 10 | wc -l")
    assert talk.said[-1].strip().isdigit() and int(talk.said[-1]) >= 2
    talk = told("step 3", "pipe tally count by register | grep -c CSTS | cat")
    assert talk.said[-1] == "1"
    talk = told("step 3", "pipe show last if (value | 1) == 1 || width == 8 | head -1", json=True)
    assert result(talk)["status"] == 0 and result(talk)["output"].count("\n") == 1
    talk = told("step 3", "pipe -d : show last if value | 1 == 1 or width == 4 : head -1")
    assert "nvme+0x" in talk.text


def test_a_program_that_fails_is_told() -> None:
    talk = told("step", "pipe info breaks | exit 3")
    assert talk.said[-1] == "exit 3: exit status 3"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("pipe info breaks", "a command and a program are needed"),
        ("pipe | cat", "a command and a program are needed"),
        ("pipe continue | cat", "continue does something"),
        ("pipe nosuch | cat", "there is no command nosuch"),
        ("pipe -d : info breaks | cat", "there is no :"),
    ],
)
def test_what_cannot_be_piped_is_refused(line: str, why: str) -> None:
    assert why in refused(line)
