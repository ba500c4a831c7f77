"""A handler's hypercall is held to the access that its instruction makes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tracer.confidential.agreement import Made, compared, differing
from tracer.confidential.handler import PROFILES, Member, Verdict, judge
from tracer.confidential.request import Mmio
from tracer.x86.decode import decode
from tracer.x86.state import Mode

KERNEL = 0xFFFF_C900_0000_0000
READ, WRITE = Made("read", 4, 0x1000, None), Made("write", 4, 0x1000, 5)
ASKED = Mmio("write", 4, 0x1000, 5)


def verdict(code: str, profile: str = "linux-tdx", linear: int = KERNEL) -> Verdict:
    insn = decode(bytes.fromhex(code), 0, Mode.LONG)
    return judge(PROFILES[profile], insn, linear=linear)


def test_the_same_access_agrees() -> None:
    assert differing(WRITE, ASKED) == differing(READ, Mmio("read", 4, 0x1000, None)) == set()


@pytest.mark.parametrize(
    ("asked", "members"),
    [
        (replace(ASKED, direction="read", value=None), {"direction", "value"}),
        (replace(ASKED, direction=None), {"direction"}),
        (replace(ASKED, width=2), {"width"}),
        (replace(ASKED, physical=0x1004), {"physical"}),
        (replace(ASKED, value=6), {"value"}),
    ],
)
def test_each_member_is_told(asked: Mmio, members: set[Member]) -> None:
    assert differing(WRITE, asked) == members


def test_a_value_that_is_not_known_is_not_compared() -> None:
    assert differing(replace(WRITE, value=None), ASKED) == set()


@pytest.mark.parametrize(
    ("code", "profile", "linear", "members"),
    [
        ("88 28", "linux-tdx", KERNEL, {"value"}),  # mov [rax], ch
        ("8a 28", "linux-tdx", KERNEL, {"registers"}),  # mov ch, [rax]
        ("0f b6 00", "linux-tdx", KERNEL, {"registers"}),  # movzx eax, byte [rax]
        ("48 0f b6 00", "linux-tdx", KERNEL, set()),  # movzx rax, byte [rax]
        ("89 00", "linux-tdx", KERNEL, set()),
        ("48 c7 00 ff ff ff ff", "linux-sev", KERNEL, {"value"}),
        ("48 c7 00 ff ff ff ff", "linux-tdx", KERNEL, set()),
        ("89 00", "linux-sev", KERNEL + 0xFFE, {"width", "value"}),
        ("64 a4", "linux-sev", KERNEL, {"physical", "value"}),
        ("67 a4", "linux-sev", KERNEL, {"physical", "value", "registers"}),
    ],
)
def test_a_note_says_what_it_is_about(
    code: str, profile: str, linear: int, members: set[Member]
) -> None:
    found = verdict(code, profile, linear)
    assert found.outcome == "emulated" and found.differs == members
    assert bool(found.note) == bool(members)


def test_a_difference_that_was_foretold_is_told_from_others() -> None:
    told = verdict("88 28")
    found = compared(frozenset({"value"}), told)
    assert not found.agrees and found.unforetold == set()
    assert compared(frozenset({"width", "value"}), told).unforetold == {"width"}
    assert compared(frozenset(), told).agrees
