"""A confidential guest's calls at the prompt: where it is held, what is shown, what can be said."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
import stop_sample
from guest_sample import Talk
from talk_sample import run

from tracer.access.decision import NO_LEEWAY, Called, Delay, Go, Postpone, Refuse, Retry
from tracer.access.transfer import Transfer
from tracer.confidential.kind import Kind
from tracer.confidential.request import FatalError, Halt, MapGpa, Mmio, Request
from tracer.look.call import call_object
from tracer.trace.record import UserRecord

START, SHARED = 0x20_0000, 1 << 47
MAP_GPA = {"rax": 0, "rcx": 0xFFCC, "r10": 0, "r11": 0x10001, "r12": START | SHARED, "r13": 0x4000}
MMIO = {
    "rax": 0, "rcx": 0xFFCC, "r10": 0, "r11": 48, "r12": 4, "r13": 0, "r14": 0xFEBF001C | SHARED,
    "r15": 0,
}  # fmt: skip
READ = Transfer(
    "read", stop_sample.LINEAR, 0xFEBF001C, 4, None, stop_sample.NVME, traced=True, ram=False
)


def call(
    given: Mapping[str, int] = MAP_GPA,
    request: Request | None = MapGpa(START, 0x4000, True),  # noqa: B008 (it is a value)
    **others: Any,
) -> Called:
    name = "TDG.VP.VMCALL" if request else "TDG.VP.INFO"
    return Called(
        time_ns=5, vcpu=0, symbol="nvme_reset_work+0x1e", leaf=given["rax"], name=name, given=given,
        request=request, cpu=stop_sample.state(**given), space=stop_sample.space(), **others,
    )  # fmt: skip


INFO = call({"rax": 1}, None, usual={"rax": 0, "rcx": 48})


async def held(talk: Talk, called: Called) -> asyncio.Task[Any]:
    """Let a confidential guest make a call, at which it is held."""
    talk.session.system.kind = Kind.TDX  # type: ignore[misc]
    talk.control.host.kind = Kind.TDX
    task = asyncio.create_task(talk.control.custody.called(called))
    while talk.control.halt is None or talk.control.halt.call is not called:
        assert not task.done(), "it was not held"
        await asyncio.sleep(0)
    return task


async def answer(talk: Talk, called: Called, *lines: str) -> Any:
    """Hold a guest at a call, type lines, let it go on; return what the call is told."""
    task = await held(talk, called)
    assert await talk.type(*lines) == 0, talk.complaints
    talk.control.resume()
    return await task


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("plan", Go()),
        ("refuse", Refuse()),
        ("retry", Postpone()),
        ("retry 0x202000", Postpone(physical=0x20_2000)),
        ("delay 1us", Delay(1000)),
    ],
)
def test_a_person_answers_a_hypercall(line: str, said: Any) -> None:
    async def test(talk: Talk) -> None:
        talk.session.system.kind = Kind.TDX  # type: ignore[misc]
        assert await talk.type("break hypercall MapGPA once") == 0, talk.complaints
        assert await answer(talk, call(), line) == said
        texts = [r.text for r in talk.records if isinstance(r, UserRecord)]
        wanted = line.replace("1us", "1000ns")
        assert (wanted in texts) is (line != "plan")
        # The break is used up.
        assert await talk.control.custody.called(call()) == Go()

    run(test)


@pytest.mark.parametrize(
    ("called", "line", "why"),
    [
        (INFO, "refuse", "TDG.VP.INFO asks the TDX module"),
        (call(), "retry 0x204000", "is no page of what is asked for: MapGPA 0x200000-0x203fff"),
        (call(), "retry 0x200800", "is no page of what is asked for"),
        (call(MMIO, Mmio("read", 4, 0xFEBF001C, None)), "retry 0x200000", "where MapGPA waits"),
        (call(MAP_GPA, FatalError(1, "bad")), "refuse", "no answer is waited for"),
        (call(MAP_GPA, Halt(False)), "retry", "HLT has no such answer"),
        (call(), "set value 1", "no access waits here"),
    ],
)
def test_what_is_no_answer_is_refused(called: Called, line: str, why: str) -> None:
    async def test(talk: Talk) -> None:
        talk.session.system.kind = Kind.TDX  # type: ignore[misc]
        assert await talk.type("break tdcall") == 0
        task = await held(talk, called)
        assert await talk.type(line) != 0 and why in "\n".join(talk.complaints)
        talk.control.resume()
        assert await task == Go()

    run(test)


def test_a_call_starts_over_from_other_registers_and_is_held_again() -> None:
    async def test(talk: Talk) -> None:
        talk.session.system.kind = Kind.TDX  # type: ignore[misc]
        assert await talk.type("break hypercall MapGPA") == 0
        task = await held(talk, call())
        setting = asyncio.create_task(talk.type("set $r13 0x1000"))
        said = await task
        assert isinstance(said, Retry) and said.cpu.gpr[13] == 0x1000
        again = await held(talk, call(MAP_GPA | {"r13": 0x1000}, MapGpa(START, 0x1000, True)))
        assert await setting == 0
        talk.control.resume()
        assert await again == Go()

    run(test)


def test_both_sides_of_a_hypercall_stand_in_words_and_in_objects() -> None:
    asked = call(MMIO, Mmio("read", 4, 0xFEBF001C, None), access=READ)
    other = call(MMIO, Mmio("read", 2, 0xFEBF001C, None), access=READ)

    async def test(talk: Talk) -> None:
        talk.session.system.kind = Kind.TDX  # type: ignore[misc]
        assert await talk.type("break hypercall MMIO") == 0
        for called, words in ((asked, ", as decoded"), (other, ", not as decoded")):
            task = await held(talk, called)
            assert await talk.type("plan") == 0
            text = " ".join(" ".join(talk.said).split())
            talk.said.clear()
            assert "decoded vetrace: MMIO read 0xfebf001c, 4 bytes (nvme+0x1c)" in text
            width = 4 if called is asked else 2
            assert f"asked the guest: MMIO read 0xfebf001c, {width} bytes{words}" in text
            assert call_object(called)["agrees"] is (called is asked)
            talk.control.resume()
            await task

    run(test)


@pytest.mark.parametrize(
    ("words", "takes"),
    [
        ("tdcall", True),
        ("tdcall VP.VMCALL", True),
        ("tdcall tdg.vp.info", False),
        ("tdcall 0", True),
        ("hypercall", True),
        ("hypercall mapgpa", True),
        ("hypercall 0x10001", True),
        ("hypercall HLT", False),
        ("hypercall if $r13 == 0x4000 and address == 0x200000", True),
        ("hypercall if function == nvme_reset_work and cpl == 0 and vcpu == 0", True),
        ("hypercall MapGPA if $r13 < 0x4000", False),
        ("hypercall MapGPA after 1", False),
    ],
)
def test_a_break_takes_the_calls_that_it_names(words: str, takes: bool) -> None:
    async def test(talk: Talk) -> None:
        talk.session.system.kind = Kind.TDX  # type: ignore[misc]
        assert await talk.type(f"break {words}") == 0, talk.complaints
        assert talk.control.custody.free(talk.session.view.regions, 0) == NO_LEEWAY
        if takes:
            assert await answer(talk, call()) == Go()
        else:
            assert await talk.control.custody.called(call()) == Go()

    run(test)


def test_calls_are_those_of_a_tdx_guest_alone() -> None:
    async def test(talk: Talk) -> None:
        for words in ("tdcall", "hypercall MapGPA"):
            assert await talk.type(f"break {words}") == 2
            assert "--guest tdx" in talk.complaints[-1]

    run(test)
