"""`vetrace decode`: one instruction explained."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.diff.case import cases
from tracer.cli.main import main
from tracer.confidential.handler import PROFILES
from tracer.look.explanation import handled, touches
from tracer.x86.decode import decode
from tracer.x86.forms import FORMS, Access
from tracer.x86.state import Mode


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["decode", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_read(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "8b401c")
    assert found["text"] == "mov eax, dword ptr [rax + 0x1c]" and found["length"] == 3
    assert found["accesses"] == [{"direction": "read", "width": 4}]
    assert found["handled"] == "emulated"
    assert set(found["verdict"]) == set(PROFILES)
    assert found["verdict"]["linux-tdx"]["outcome"] == "emulated"
    assert found["result"] is None


@pytest.mark.parametrize(
    "words", [["8b401c"], ["8b", "40", "1c"], ["0x8b,0x40,0x1c"], ["8B 40 1C"], [r"\x8b\x40\x1c"]]
)
def test_bytes_may_be_written_in_many_ways(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(capsys, *words)["bytes"] == "8b401c"


def test_bytes_after_the_instruction_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "8b401c9090")["trailing_bytes"] == 2
    assert main(["decode", "8b401c9090"]) == 0
    assert "2 more not looked at" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "handler", "accesses"),
    [
        ("0103", "emulated", [("read", 4), ("write", 4)]),
        ("0fc70b", "emulated", [("read", 8), ("write", 8)]),
        ("f3a4", "emulated", [("read", 1), ("write", 1)]),
        ("a7", "emulated", [("read", 4), ("read", 4)]),
        ("ff33", "emulated", [("read", 8), ("write", 8)]),
        ("8f03", "emulated", [("read", 8), ("write", 8)]),
        ("ff13", "emulated", [("read", 8), ("write", 8)]),
        ("660f38f803", "emulated", [("read", 64), ("write", 64)]),
        ("0f5803", "stepped", [("read", 16)]),
        ("c5fd2903", "emulated", [("write", 32)]),
        ("c5fd2803", "emulated", [("read", 32)]),
        ("62f17c482903", "stepped", [("write", 64)]),
        ("0fae03", "stepped", [("write", 512)]),
        ("0fae1b", "stepped", [("write", 4)]),
        ("0fae23", "stepped", [("read", None), ("write", None)]),
        ("c5f92f03", "stepped", [("read", 8)]),
        ("660f3a140305", "emulated", [("write", 1)]),
        ("c4e26d8e03", "emulated", [("write", 32)]),
        ("f30f2b03", "emulated", [("write", 4)]),
        ("e800660000", "emulated", [("write", 8)]),
        ("e8f2f06667", "emulated", [("write", 8)]),
        ("6650", "emulated", [("write", 2)]),
        ("c9", "emulated", [("read", 8)]),
        ("c8100002", "emulated", [("read", 8), *[("write", 8)] * 3]),
        ("660ff7c1", "stepped", [("write", 16)]),
        ("0f01fc", "stepped", [("write", 64)]),
        ("f20f38f803", "stepped", [("read", 64), ("write", 64)]),
        ("0f38fc03", "stepped", [("read", 4), ("write", 4)]),
        ("cd80", "stepped", [("read", None), ("write", None)]),
        ("0f1b03", "stepped", [("unknown", None)]),
        ("50", "emulated", [("write", 8)]),
        ("c3", "emulated", [("read", 8)]),
        ("8d03", "none", []),
        ("f30fb8c1", "none", []),
        ("0f1f00", "none", []),
        ("90", "none", []),
        ("0fae3b", "none", []),
    ],
)
def test_accesses_and_who_handles_them(
    code: str, handler: str, accesses: list[tuple[str, int | None]]
) -> None:
    insn = decode(bytes.fromhex(code), 0, Mode.LONG)
    found = [(touch.direction, touch.width) for touch in touches(insn)]
    assert (handled(insn), found) == (handler, accesses)


@pytest.mark.parametrize(
    ("mode", "code", "accesses"),
    [
        (Mode.COMPAT32, "60", [("write", 4)] * 8),
        (Mode.COMPAT32, "6661", [("read", 2)] * 7),
        (Mode.COMPAT16, "50", [("write", 2)]),
        (Mode.COMPAT16, "66ff37", [("read", 4), ("write", 4)]),
        (Mode.COMPAT16, "c407", [("read", 4)]),
        (Mode.COMPAT32, "6207", [("read", 8)]),
        (Mode.COMPAT32, "cf", [("read", 4)] * 3),
        (Mode.COMPAT32, "0f0117", [("read", 6)]),
    ],
)
def test_accesses_of_code_that_is_not_of_64_bits(
    mode: Mode, code: str, accesses: list[tuple[str, int | None]]
) -> None:
    insn = decode(bytes.fromhex(code), 0, mode)
    assert [(touch.direction, touch.width) for touch in touches(insn)] == accesses


def test_what_is_not_known_of_an_access_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "62f1fe496f03")["accesses"] == [
        {"direction": "read", "width": 64, "some": True}
    ]
    assert told(capsys, "c4e26990048b")["accesses"] == [
        {"direction": "read", "width": 4, "lanes": 4, "some": True}
    ]
    nop = told(capsys, "0f1b03")
    assert nop["accesses"] == [{"direction": "unknown", "width": None}]
    assert {verdict["outcome"] for verdict in nop["verdict"].values()} == {"unknown"}
    assert {v["outcome"] for v in told(capsys, "0f01fc")["verdict"].values()} == {"oops"}
    for code, words in (
        ("62f1fe496f03", "read up to 64 bytes"),
        ("c4e26990048b", "read up to 4 times 4 bytes"),
        ("0fae23", "read of a width that the instruction alone does not tell"),
        ("0f1b03", "not known: it depends on the CPU"),
    ):
        assert main(["decode", code]) == 0
        assert words in capsys.readouterr().out


def test_every_form_of_the_table_that_has_an_access_is_emulated() -> None:
    for form in FORMS:
        mode = Mode.COMPAT32 if form.only == "i64" else Mode.LONG
        insn = decode(next(iter(cases(form, mode, 1, 1))).code, 0, mode)
        assert (handled(insn) == "none") is (form.access is Access.NONE), form.opcode.text


def test_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "2103")["flags"] == {
        "written": ["CF", "PF", "ZF", "SF", "OF"],
        "undefined": ["AF"],
    }


def test_modes(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "488b03", "--mode", "32")["length"] == 1  # 48 is DEC EAX there
    assert told(capsys, "8b07", "--mode", "16")["text"] == "mov ax, word ptr [bx]"


def test_the_exact_result(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(
        capsys, "0103", "--rip", "0x400000", "--set", "rax=1", "rbx=0x10", "--load", "0xffffffff"
    )["result"]
    assert found["accesses"] == [
        {"direction": "read", "linear": "0x10", "width": 4, "value": "0xffffffff"},
        {"direction": "write", "linear": "0x10", "width": 4, "value": "0x0"},
    ]
    # CF, PF, AF, ZF, and the bit that is always 1.
    assert found["after"] == {"rip": "0x400002", "rflags": "0x57"}
    assert found["exception"] is None and found["iterations"] == 1


def test_a_rep_instruction_goes_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "f3a4", "--set", "rcx=2", "rdi=0x20", "--load", "1", "2")["result"]
    assert found["iterations"] == 2 and found["after"]["rcx"] == "0x0"
    assert found["after"]["rip"] == "0x2" and len(found["accesses"]) == 4


def test_what_a_port_gives_is_given_like_a_load(capsys: pytest.CaptureFixture[str]) -> None:
    ports = ("--set", "rcx=2", "rdi=0x20", "rsi=0x40", "rdx=0x71")
    made = told(capsys, "f36c", *ports, "--load", "1", "2")["result"]["accesses"]
    assert [(a["direction"], a["linear"], a["value"]) for a in made] == [
        ("write", "0x20", "0x1"), ("write", "0x21", "0x2")
    ]  # fmt: skip
    made = told(capsys, "666f", *ports, "--load", "0x1234")["result"]["accesses"]
    assert [(a["direction"], a["width"], a["value"]) for a in made] == [("read", 2, "0x1234")]


def test_an_exception(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("f633", "--set", "rax=1", "--load", "0")
    assert told(capsys, *arguments)["result"]["exception"]["name"] == "#DE"
    assert main(["decode", *arguments]) == 0
    assert "raises #DE" in capsys.readouterr().out


def test_xmm_and_x87(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "0f1103", "--set", "xmm0=0x1122")["result"]
    assert found["accesses"][0]["value"] == "0x1122"
    found = told(capsys, "dd03", "--load", "0x3ff0000000000000")
    assert found["result"]["after"]["st0"] == "0x3fff8000000000000000"
    assert (found["handled"], found["live"]) == ("emulated", "stepped")


def test_what_is_left_to_the_cpu_has_no_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "0f5803", "--set", "rbx=1")["result"] is None
    assert main(["decode", "0f5803", "--set", "rbx=1"]) == 0
    assert "left to the CPU" in capsys.readouterr().out


def test_verdicts_use_what_is_set(capsys: pytest.CaptureFixture[str]) -> None:
    def outcome(*arguments: str) -> str:
        return str(told(capsys, "8b03", *arguments)["verdict"]["linux-tdx"]["outcome"])

    assert outcome() == outcome("--load", "1") == "emulated"
    assert outcome("--set", "rbx=0xffffc90000000000", "--load", "1") == "emulated"
    assert outcome("--set", "rbx=0xffffc90000000ffe", "--load", "1") == "oops"
    assert outcome("--set", "rbx=0x1000", "--load", "1") == "oops"
    assert outcome("--set", "cpl=3", "--load", "1") == "oops"


def test_verdict_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "8d03")["verdict"]["linux-tdx"]["outcome"] == "none"


@pytest.mark.parametrize(
    ("code", "word"), [("06", "not an instruction"), ("8b40", "truncated"), ("0f", "truncated"),
                       ("f08b00", "LOCK"), ("66" * 20, "15 bytes")],
)  # fmt: skip
def test_undecodable_bytes_are_one_line(
    code: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["decode", code]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and word in error


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["zz"], "hex digits"),
        (["8b4"], "hex digits"),
        (["8b03", "--set", "rax"], "rax=0x1"),
        (["8b03", "--set", "foo=1"], "no foo"),
        (["8b03", "--set", "rax=x"], "x is no value: 16 and 0x10 are"),
        (["8b03", "--set", "rax=0x10000000000000000"], "does not fit in 8 bytes"),
        (["8b03", "--set", "rbx=1"], "--load"),
        (
            ["6d", "--set", "rdx=0x71"],
            "4 bytes are read from port 0x71: give the value with --load",
        ),
        (["6e", "--load", "0x100"], "1 bytes"),
        (["8b03", "--load", "1", "2"], "left over"),
        (["8b03", "--load", "0x100000000"], "4 bytes"),
        (["8b03", "--rip", "here"], "--rip"),
        (["f3aa", "--set", "rcx=0x1000000"], "iterations"),
    ],
)
def test_wrong_usage(arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decode", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and word in error


def test_a_ymm_register_is_set_and_told_whole(capsys: pytest.CaptureFixture[str]) -> None:
    after = told(capsys, "c5f1fe03", "--set", "ymm0=-1", "xmm1=5", "--load", "7")["result"]["after"]
    assert after == {"rip": "0x4", "ymm0": "0xc"}  # vpaddd xmm0, xmm1, [rbx]
    after = told(capsys, "660fef03", "--set", "ymm0=-1", "--load", "1")["result"]
    assert after["after"]["xmm0"] == hex((1 << 128) - 2)  # pxor xmm0, [rbx]
    stored = told(capsys, "c5fe7f03", "--set", f"ymm0={1 << 200}")["result"]["accesses"]
    assert stored[0]["value"] == hex(1 << 200)
