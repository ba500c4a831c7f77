"""A trial is foretold: the handler's work is held to the CPU's, and what came to that."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tracer.confidential.expectation import Came, Expected, differences, foretold
from tracer.confidential.handler import PROFILES
from tracer.confidential.request import Mmio
from tracer.confidential.trial import Ground, Trial, trials
from tracer.x86.decode import decode
from tracer.x86.state import GPR, CpuState, Mode

PHYSICAL = 0xFE00_0000
GROUND = Ground(
    code=0xFFFF_FFFF_81C0_1000,
    stack=0xFFFF_C900_0000_3800,
    device=0xFFFF_C900_0010_0000,
    user=0x7F00_0000_0000,
    physical=PHYSICAL,
    span=1,
)
ANSWER = 0xF1F2_F3F4_F5F6_F7F8
TDX, SEV = PROFILES["linux-tdx"], PROFILES["linux-sev"]
REGISTERS = {
    "rax": 0x1111_2222_3333_4444, "rcx": 0x5555_6666_7777_8899, "rbx": GROUND.device,
    "rbp": 0xAAAA_BBBB_CCCC_DDEE,
}  # fmt: skip


def trial(code: str, **registers: int) -> Trial:
    gpr = tuple((REGISTERS | registers).get(name, 0) for name in GPR)
    insn = decode(bytes.fromhex(code), GROUND.code, Mode.LONG)
    return Trial(0, insn, CpuState(gpr=gpr, rip=GROUND.code), GROUND.device, "device", ANSWER)


def after(expected: Expected, register: str) -> int:
    assert expected.handled is not None
    return expected.handled.cpu.gpr[GPR.index(register)]


# Each with [rbx]; tdx.c handle_mmio, vc-handle.c vc_handle_mmio.
LOADS = (
    ("8b 03", "rax", 0xF5F6_F7F8),  # mov eax: zero-extended
    ("66 8b 03", "rax", 0x1111_2222_3333_F7F8),  # mov ax: the rest stays
    ("8a 03", "rax", 0x1111_2222_3333_44F8),  # mov al
    ("48 8b 03", "rax", ANSWER),
    ("0f b6 03", "rax", 0x1111_2222_0000_00F8),  # movzx eax: bits 63:32 stay, unlike the CPU's
    ("48 0f b6 03", "rax", 0xF8),
    ("66 0f b6 03", "rax", 0x1111_2222_3333_00F8),
    ("0f be 03", "rax", 0x1111_2222_FFFF_FFF8),  # movsx eax
    ("48 0f bf 03", "rax", 0xFFFF_FFFF_FFFF_F7F8),
    ("66 0f be 03", "rax", 0x1111_2222_3333_FFF8),
    ("8a 2b", "rbp", 0xAAAA_BBBB_CCCC_DDF8),  # mov ch: BPL is written in its place
    ("8a 2b", "rcx", 0x5555_6666_7777_8899),
    ("40 8a 2b", "rbp", 0xAAAA_BBBB_CCCC_DDF8),  # mov bpl
)  # fmt: skip


@pytest.mark.parametrize(("code", "register", "value"), LOADS)
@pytest.mark.parametrize("profile", [TDX, SEV], ids=["tdx", "sev"])
def test_what_a_load_leaves_behind(code: str, register: str, value: int, profile: object) -> None:
    expected = foretold(trial(code), profile)  # type: ignore[arg-type] - one of two
    assert after(expected, register) == value
    assert expected.handled is not None
    assert [wish.direction for wish in expected.handled.wishes] == ["read"]
    assert not expected.agreement.unforetold


STORES = (
    ("89 03", TDX, 0x3333_4444, 0xFFFF_FFFF),
    ("88 2b", TDX, 0xEE, 0xFF),  # mov [rbx], ch: BPL is written
    ("40 88 2b", TDX, 0xEE, 0xFF),
    ("c6 03 80", TDX, 0x80, 0xFF),
    ("48 c7 03 fe ff ff ff", TDX, 0xFFFF_FFFF_FFFF_FFFE, (1 << 64) - 1),
    ("48 c7 03 fe ff ff ff", SEV, 0xFFFF_FFFF_FFFF_FFFE, 0xFFFF_FFFF),
)  # fmt: skip


@pytest.mark.parametrize(("code", "profile", "value", "known"), STORES)
def test_what_a_store_asks_for(code: str, profile: object, value: int, known: int) -> None:
    expected = foretold(trial(code), profile)  # type: ignore[arg-type] - one of two
    assert expected.handled is not None
    (wish,) = expected.handled.wishes
    assert (wish.direction, wish.value, wish.known) == ("write", value, known)
    assert not expected.agreement.unforetold


def test_what_is_unlike_the_cpus_is_told() -> None:
    assert foretold(trial("0f b6 03"), TDX).agreement.differs == {"registers"}
    assert foretold(trial("88 2b"), TDX).agreement.differs == {"value"}
    assert foretold(trial("48 c7 03 fe ff ff ff"), SEV).agreement.differs == {"value"}
    assert foretold(trial("89 03"), TDX).agreement.agrees


@pytest.mark.parametrize(("code", "count", "width"), [("a4", 1, 1), ("f3 48 a5", 3, 8)])
def test_a_string_is_moved_one_element_at_a_time(code: str, count: int, width: int) -> None:
    begin, end = GROUND.device, GROUND.user
    one = trial(code, rsi=begin, rdi=end, rcx=count if count > 1 else 7)
    work = foretold(one, SEV).handled
    assert work is not None and foretold(one, SEV).agreement.agrees
    value = ANSWER & (1 << 8 * width) - 1
    assert [(it.direction, it.linear, it.width, it.value) for it in work.wishes] == [
        told
        for n in range(count)
        for told in (
            ("read", begin + n * width, width, None),
            ("write", end + n * width, width, value),
        )
    ]
    moved = {
        "rsi": begin + count * width,
        "rdi": end + count * width,
        "rcx": 7 if count == 1 else 0,
    }
    assert {name: after(foretold(one, SEV), name) for name in moved} == moved
    assert work.cpu.rip == one.insn.next_rip
    good = came(foretold(one, SEV))
    assert differences(one, foretold(one, SEV), good, GROUND.translate) == []
    short = replace(good, asked=good.asked[:-1])
    (told,) = differences(one, foretold(one, SEV), short, GROUND.translate)
    assert told == f"{2 * count - 1} hypercalls, not {2 * count}"


@pytest.mark.parametrize("code", ["01 03", "0f c3 03", "a4", "f3 a5", "0f ae 03", "87 03"])
def test_what_a_handler_gives_up_on(code: str) -> None:
    expected = foretold(trial(code), TDX)
    assert expected.verdict.outcome == "oops" and expected.handled is None
    gone = Came((), None)
    assert differences(trial(code), expected, gone, GROUND.translate) == []
    back = replace(gone, cpu=trial(code).cpu)
    (told,) = differences(trial(code), expected, back, GROUND.translate)
    assert told.startswith("carried out, not rejected")


def came(expected: Expected) -> Came:
    """Return the outcome of a handler that does as foretold."""
    work = expected.handled
    if work is None:
        return Came((), None)
    asked = (Mmio(wish.direction, wish.width, PHYSICAL, wish.value) for wish in work.wishes)
    return Came(tuple(asked), work.cpu)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
def test_a_handler_that_does_as_foretold_differs_in_nothing(profile: object) -> None:
    for one in trials(11, 400, GROUND):
        expected = foretold(one, profile)  # type: ignore[arg-type] - one of all
        assert not expected.agreement.unforetold, (one.insn.text, expected.agreement)
        assert differences(one, expected, came(expected), GROUND.translate) == []


def test_one_profiles_handler_is_not_anothers() -> None:
    older, found = PROFILES["linux-tdx-5.19"], set()
    for one in trials(11, 400, GROUND):
        told = differences(one, foretold(one, TDX), came(foretold(one, older)), GROUND.translate)
        if told:
            found.add(one.place)
    assert found == {"user"}, "the check of user addresses alone tells them apart"


def test_each_difference_is_told() -> None:
    load, store = trial("8b 03"), trial("89 03")
    expected, written = foretold(load, TDX), foretold(store, TDX)
    good, sent = came(expected), came(written)
    assert good.cpu is not None

    def told(changed: Came) -> list[str]:
        return differences(load, expected, changed, GROUND.translate)

    (asked,) = good.asked
    assert told(replace(good, asked=())) == ["0 hypercalls, not 1"]
    assert told(replace(good, asked=(asked, asked))) == ["2 hypercalls, not 1"]
    assert told(Came(good.asked, None)) == ["rejected, not carried out (decoded as READ)"]
    assert told(replace(good, asked=(replace(asked, width=8),))) == ["width 8, not 4"]
    assert told(replace(good, asked=(replace(asked, direction=None),))) == [
        "direction None, not read"
    ]
    assert told(replace(good, asked=(replace(asked, physical=0x5000),))) == [
        "physical 0x5000, not 0xfe000000"
    ]
    wrong = replace(good.cpu, gpr=load.cpu.gpr)
    assert told(replace(good, cpu=wrong)) == [
        "rax 0x1111222233334444, not 0xf5f6f7f8 (before 0x1111222233334444)"
    ]
    assert told(replace(good, cpu=replace(good.cpu, rip=1))) == ["rip 0x1, not 0xffffffff81c01002"]
    assert told(replace(good, cpu=replace(good.cpu, rflags=0x47))) == ["rflags 0x47, not 0x2"]
    assert told(replace(good, cpu=replace(good.cpu, rflags=0x10202))) == [], "RF and IF may be set"
    (stored,) = sent.asked
    assert differences(
        store, written, replace(sent, asked=(replace(stored, value=1),)), GROUND.translate
    ) == ["value 0x1, not 0x33334444"]
    beyond = replace(stored, value=0xFFFF_FFFF_3333_4444)
    assert differences(store, written, replace(sent, asked=(beyond,)), GROUND.translate) == []
