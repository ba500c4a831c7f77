"""Instructions that are inputs, as the handlers of confidential guests take them."""

from __future__ import annotations

import struct

import pytest

from tracer.compiled.monitor_image import IMAGES
from tracer.confidential.handler import PROFILES, Verdict
from tracer.confidential.input_verdict import TDX_MSRS, judge_input
from tracer.trace.member import Space
from tracer.x86.bus import Direction
from tracer.x86.decode import decode
from tracer.x86.state import Mode

TDX, SEV = "linux-tdx", "linux-sev"


def verdict(
    profile: str, code: str, space: Space = "port", number: int = 0x3F8,
    direction: Direction = "read", *, width: int = 1, cpl: int = 0, count: int = 0,
    backwards: bool = False,
) -> Verdict:  # fmt: skip
    insn = decode(bytes.fromhex(code), 0xFFFF_FFFF_8100_0000, Mode.LONG)
    return judge_input(
        PROFILES[profile], insn, space, number, direction, width=width, cpl=cpl, count=count,
        backwards=backwards,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("profile", "code", "width", "note"),
    [
        (TDX, "ec", 1, "bit 8 of rax is what the host says"),
        (TDX, "66ed", 2, "bit 16 of rax is what the host says"),
        (TDX, "ed", 4, "bit 32 of rax is what the host says, bits 63:33 keep their old value"),
        (SEV, "ec", 1, "bits 63:8 of rax are zeroed"),
        (SEV, "66ed", 2, "bits 63:16 of rax are zeroed"),
        (SEV, "ed", 4, ""),
    ],
)
def test_what_is_read_from_a_port_is_not_always_what_the_cpu_leaves(
    profile: str, code: str, width: int, note: str
) -> None:
    found = verdict(profile, code, width=width)
    assert found.outcome == "emulated" and found.note.startswith(note)
    assert found.differs == (frozenset({"registers"}) if note else frozenset())
    assert bool(found.note) == bool(note)
    assert verdict(profile, code, direction="write", width=width).note == ""


def test_strings_are_refused_by_one_and_repeated_by_the_other() -> None:
    assert verdict(TDX, "f36e", direction="write").outcome == "oops"
    assert verdict(SEV, "f36e", direction="write", count=9).outcome == "emulated"
    # Without REP the handler looks at RCX all the same.
    assert verdict(SEV, "6e", direction="write", count=9).outcome == "oops"
    assert verdict(SEV, "6e", direction="write").outcome == "emulated"
    assert "segment override is ignored" in verdict(SEV, "64f36e", direction="write", count=1).note


def test_a_string_that_goes_backwards_is_lost_behind_its_first_element() -> None:
    assert verdict(SEV, "f36c", count=2, backwards=True).outcome == "oops"
    assert verdict(SEV, "f36c", count=1, backwards=True).outcome == "emulated"
    assert verdict(SEV, "f36c", count=2).outcome == "emulated"


def test_a_programs_ports() -> None:
    found = verdict(TDX, "ec", cpl=3)
    assert found.outcome == "oops" and "SIGSEGV" in found.reason
    assert verdict(SEV, "ec", cpl=3).outcome == "emulated"


@pytest.mark.parametrize(
    ("profile", "number", "outcome"),
    [
        (TDX, 0x1B, "emulated"), (TDX, 0x10, "none"), (TDX, 0xC000_0102, "none"),
        (SEV, 0x1B, "emulated"), (SEV, 0x10, "emulated"), (SEV, 0xC001_0131, "none"),
    ],
)  # fmt: skip
def test_msrs_of_a_guests_own_are_no_exit(profile: str, number: int, outcome: str) -> None:
    assert verdict(profile, "0f32", "msr", number, width=8).outcome == outcome
    assert verdict(profile, "0f30", "msr", number, "write", width=8).outcome == outcome


@pytest.mark.parametrize(
    ("profile", "number", "outcome"),
    [(TDX, 0x4000_0000, "emulated"), (TDX, 0x4FFF_FFFF, "emulated"), (TDX, 1, "none"),
     (TDX, 0x5000_0000, "none"), (SEV, 1, "emulated")],
)  # fmt: skip
def test_leaves_that_a_host_answers(profile: str, number: int, outcome: str) -> None:
    assert verdict(profile, "0fa2", "cpuid", number).outcome == outcome
    assert verdict(profile, "0fa2", "cpuid", number, cpl=3).outcome == outcome


def test_the_counter_is_read_in_the_guest() -> None:
    assert {verdict(name, "0f31", "tsc", 0).outcome for name in PROFILES} == {"none"}


def test_the_monitor_has_the_same_msrs_of_a_trust_domain() -> None:
    table = b"".join(struct.pack("<2I", span.start, span.stop - 1) for span in TDX_MSRS)
    assert all(table.hex() in code for code, _ in IMAGES.values())
