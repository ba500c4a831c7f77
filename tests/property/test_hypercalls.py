"""Any registers and fields of a call are understood or refused, and the answer has 64 bits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tracer.confidential import ghcb, sev_host, tdx_module
from tracer.confidential.hypercall import WIDTHS, ghcb_exit, tdvmcall
from tracer.confidential.request import Give, Mmio, Refuse, Reply, Retry
from tracer.confidential.sev_exit import EXITS, PROTOCOLS
from tracer.confidential.sev_state import SevState, describe_exit, patched
from tracer.confidential.tdx_host import CALLS
from tracer.confidential.tdx_leaf import LEAVES
from tracer.confidential.tdx_module import Nested, describe_call
from tracer.confidential.tdx_state import TdxState
from tracer.x86.bus import Direction
from tracer.x86.state import GPR

TOP = (1 << 64) - 1
ADDRESS = 0x12_3000

WORDS = st.one_of(
    st.integers(0, TOP),
    st.integers(0, 0x1_1000),
    st.sampled_from([0, 1, 4, 8, 1 << 47, 1 << 51, TOP, 0xFE00_1000 | 1 << 47, 0xFFCC]),
)
DIRECTIONS = st.sampled_from(["read", "write"])
REPLIES: st.SearchStrategy[Reply] = st.one_of(
    st.builds(Give, WORDS, st.tuples(WORDS, WORDS, WORDS)),
    st.builds(Refuse, st.none() | WORDS),
    st.builds(Retry, WORDS),
)


@st.composite
def accesses(draw: st.DrawFn) -> tuple[Direction, int, int, int]:
    """Draw an access that one call can ask for: direction, width, address, value."""
    width = draw(st.sampled_from(WIDTHS))
    value = draw(st.integers(0, (1 << 8 * width) - 1))
    return draw(DIRECTIONS), width, draw(st.integers(0, (1 << 40) - 16)), value


@given(accesses())
def test_tdx_an_access_that_is_encoded_is_decoded(access: tuple[Direction, int, int, int]) -> None:
    direction, width, physical, value = access
    call, state = tdvmcall(*access), TdxState(gpaw=52)
    asked = tdx_module.answer(state, 0, dict.fromkeys(GPR, 0) | call.given)
    told = value if direction == "write" else None
    assert asked.event.request == Mmio(direction, width, physical, told)
    assert tdx_module.usual(state, asked.event.request) is None
    assert asked.event.note == ""
    assert tdx_module.reply(state, asked.event, Give(value)).changes == call.returned


@given(accesses(), st.integers(0x800, 0xFE8))
def test_sev_an_access_that_is_encoded_is_decoded(
    access: tuple[Direction, int, int, int], at: int
) -> None:
    direction, width, physical, value = access
    physical &= ~(1 << 38)
    leave, state = ghcb_exit(direction, width, physical, value), SevState()
    fields = {
        "sw_exit_code": leave.exit_code, "sw_exit_info_1": leave.info1,
        "sw_exit_info_2": leave.info2, "sw_scratch": ADDRESS + at,
    }  # fmt: skip
    assert leave.buffer is not None
    data = leave.buffer if direction == "write" else b""
    page = ghcb.patch(bytes(4096), fields, data, at)
    asked = sev_host.exit(state, 0, ADDRESS, page)
    told = value if direction == "write" else None
    assert asked.event.request == Mmio(direction, width, physical, told)
    done = patched(page, sev_host.reply(state, asked.event, Give(value)))
    assert done[at : at + width] == leave.buffer


@given(st.sampled_from([*LEAVES, 77]) | WORDS, st.lists(WORDS, min_size=16, max_size=16), REPLIES)
def test_tdx_whatever_is_asked_is_answered(leaf: int, values: list[int], said: Reply) -> None:
    state = TdxState().converted(0x1000, 0x5000, shared=True)
    registers = dict(zip(GPR, values, strict=True)) | {"rax": leaf}
    for mask in (registers["rcx"], 0xFFCC):
        asked = tdx_module.answer(state, 0, registers | {"rcx": mask})
        if asked.event.waits:
            asked = tdx_module.reply(asked.state, asked.event, said)
        assert set(asked.changes) <= set(GPR) - {"rsp"} and "rax" in asked.changes
        assert all(0 <= value <= TOP for value in asked.changes.values())
        assert describe_call(asked.event).isprintable() and asked.event.note.isprintable()


@given(st.sampled_from([*CALLS, 0x10005]) | WORDS, st.lists(WORDS, min_size=4, max_size=4))
def test_tdx_whatever_the_host_is_asked_it_says_something(number: int, values: list[int]) -> None:
    given_ = dict(zip(("r12", "r13", "r14", "r15"), values, strict=True))
    registers = dict.fromkeys(GPR, 0) | {"rcx": 0xFFCC, "r11": number} | given_
    state = TdxState()
    event = tdx_module.answer(state, 0, registers).event
    assert event.request is not None
    said = tdx_module.usual(state, event.request)
    done = tdx_module.reply(state, event, Give() if said is None else said)
    assert done.changes["rax"] == 0 and 0 <= done.changes["r10"] <= TOP
    assert all(start < end <= 1 << 47 for start, end in done.state.shared), "only what is legal"


@given(
    st.sampled_from([*EXITS, 0x400]) | WORDS,
    st.lists(WORDS, min_size=3, max_size=3),
    st.integers(0, TOP),
    st.binary(max_size=64),
    REPLIES.filter(lambda said: not isinstance(said, Retry)),
)
def test_sev_whatever_is_asked_is_answered(
    code: int, words: list[int], valid: int, noise: bytes, said: Reply
) -> None:
    fields = dict(zip(("sw_exit_info_1", "sw_exit_info_2", "sw_scratch"), words, strict=True))
    page = bytearray(ghcb.patch(bytes(4096), fields | {"sw_exit_code": code, "rax": valid}))
    page[0x3F8:0x400] = valid.to_bytes(8, "little")
    page[0x300 : 0x300 + len(noise)] = noise
    for blob in (bytes(page), (noise * 4096)[:4096].ljust(4096, b"\xff")):
        asked = sev_host.exit(SevState(), 0, ADDRESS, blob)
        if asked.event.waits:
            asked = sev_host.reply(asked.state, asked.event, said)
        assert {"sw_exit_info_1", "sw_exit_info_2"} <= set(asked.changes)
        assert len(patched(blob, asked)) == 4096
        assert describe_exit(asked.event).isprintable() and asked.event.note.isprintable()


@given(WORDS, st.sampled_from([*PROTOCOLS, 0x16]), REPLIES)
def test_sev_whatever_the_msr_asks_is_answered(data: int, code: int, said: Reply) -> None:
    asked = sev_host.msr(SevState(), 0, data & ~0xFFF | code)
    if asked.event.waits and not isinstance(said, Retry):
        asked = sev_host.reply(asked.state, asked.event, said)
    if not asked.event.waits:
        assert 0 <= asked.changes["msr"] <= TOP
    assert describe_exit(asked.event).isprintable()


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=12))
def test_tdx_no_ve_is_lost(steps: list[tuple[bool, bool, bool]]) -> None:
    """A #VE that was injected is fetched once, and no second one comes before that."""
    state, waiting = TdxState(), None
    for fetches, write, is_ram in steps:
        if fetches:
            fetched = tdx_module.answer(state, 0, dict.fromkeys(GPR, 0) | {"rax": 3})
            assert (fetched.changes["rax"] == 0) == (waiting is not None)
            state, waiting = fetched.state, None
            continue
        state, outcome = tdx_module.fault(
            state, 0, gla=0x1000, gpa=0x2000 | 1 << 47, write=write, is_ram=is_ram
        )
        if not is_ram:
            assert isinstance(outcome, Nested) == (waiting is not None)
            waiting = waiting or outcome
