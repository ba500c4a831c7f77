"""What each handler makes of an instruction, held against the kernels' own sources.

The opcodes are those of `insn_decode_mmio` (Linux arch/x86/lib/insn-eval.c), written down here a
second time, as bytes.
"""

from __future__ import annotations

import itertools

import pytest

from tracer.confidential.handler import CURRENT, PROFILES, Verdict, alike, judge, own_profile
from tracer.errors import EmulationError
from tracer.x86.decode import decode
from tracer.x86.state import Mode

KERNEL = 0xFFFF_C900_0000_0000
TDX = ("linux-tdx", "linux-tdx-5.19", "linux-tdx-v5")
SEV = ("linux-sev", "linux-sev-5.10")

# Opcode bytes, and whether an immediate of the operand size follows; [rbx] throughout.
KNOWN = {
    "8803": 0, "8903": 0, "8a03": 0, "8b03": 0, "c603": 1, "c703": 4,
    "0fb603": 0, "0fb703": 0, "0fbe03": 0, "0fbf03": 0,
}  # fmt: skip


def verdict(
    code: str, profile: str = CURRENT, linear: int | None = KERNEL, cpl: int = 0
) -> Verdict:
    insn = decode(bytes.fromhex(code), 0x1000, Mode.LONG)
    return judge(PROFILES[profile], insn, cpl=cpl, linear=linear)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(("code", "immediate"), KNOWN.items())
def test_every_handler_knows_what_readl_and_writel_compile_to(
    code: str, immediate: int, profile: str
) -> None:
    assert verdict(code + "00" * immediate, profile).outcome == "emulated"


@pytest.mark.parametrize("profile", PROFILES)
def test_every_handler_knows_nothing_else(profile: str) -> None:
    """All one- and two-byte opcodes with [rbx], with and without REX.W and 66."""
    strings = {"a4", "a5", "6c", "6d", "6e", "6f"}
    known = {code[:-2] for code in KNOWN} | (strings if profile in SEV else set())
    emulated = set()
    for prefix, escape, byte in itertools.product(("", "66", "48"), ("", "0f"), range(256)):
        opcode = f"{escape}{byte:02x}"
        try:
            insn = decode(bytes.fromhex(f"{prefix}{opcode}03") + bytes(12), 0x1000, Mode.LONG)
        except EmulationError:
            continue
        if judge(PROFILES[profile], insn, linear=KERNEL).outcome == "emulated":
            emulated.add(opcode)
    assert emulated == known


@pytest.mark.parametrize(
    "code",
    ["a100000000000000f0", "6303", "f3aa", "ac", "0103", "f00103", "8703", "0fb10b", "0fc303",
     "0f38f003", "0f1003", "c5f82803", "0fae3b"],
)  # fmt: skip
@pytest.mark.parametrize("profile", PROFILES)
def test_other_ways_to_touch_a_device_are_fatal(code: str, profile: str) -> None:
    assert verdict(code, profile).outcome == "oops"


def test_movs_is_rejected_by_tdx_and_carried_out_by_sev() -> None:
    for profile in TDX:
        assert "MOVS" in verdict("f3a5", profile).reason
        assert verdict("f3a5", profile).outcome == "oops"
    for profile in SEV:
        assert verdict("f3a5", profile).outcome == "emulated"


@pytest.mark.parametrize("code", ["6c", "f36d", "666f", "f36e"])
def test_string_io_is_refused_by_tdx_and_carried_out_by_sev(code: str) -> None:
    for profile in TDX:
        assert verdict(code, profile) == Verdict("oops", "string I/O, which handle_io refuses")
    for profile in SEV:
        assert verdict(code, profile).outcome == "emulated"
        assert "the port" in verdict(code, profile).reason and not verdict(code, profile).note
        assert "64 bits wide" in verdict("67" + code, profile).note
    assert "override" in verdict("646f", "linux-sev").note


@pytest.mark.parametrize("code", ["8b03", "8903", "488b03"])
def test_an_access_across_a_page_end(code: str) -> None:
    width = 8 if code.startswith("48") else 4
    last, first = KERNEL + 0x1000 - width, KERNEL + 0x1000 - width + 1
    for profile in PROFILES:
        assert verdict(code, profile, last) == Verdict(
            "emulated", "decoded as READ" if "8b" in code else "decoded as WRITE"
        )
    for profile in ("linux-tdx", "linux-tdx-5.19"):
        assert verdict(code, profile, first).outcome == "oops"
        assert "page" in verdict(code, profile, first).reason
    for profile in ("linux-tdx-v5", *SEV):
        assert verdict(code, profile, first).outcome == "emulated"
        assert "second page" in verdict(code, profile, first).note


@pytest.mark.parametrize("linear", [0x7FFF_FFFF_E000, 0x1000, 0xFFFF_FFFF_FF60_0000])
def test_a_user_space_address_in_the_kernels_hands(linear: int) -> None:
    assert verdict("8b03", "linux-tdx", linear).outcome == "oops"
    for profile in ("linux-tdx-5.19", "linux-tdx-v5", *SEV):
        assert verdict("8b03", profile, linear).outcome == "emulated"


def test_user_mode() -> None:
    for profile in TDX:
        assert "SIGSEGV" in verdict("8b03", profile, 0x1000, cpl=3).reason
    assert "SIGBUS" in verdict("8b03", "linux-sev", 0x1000, cpl=3).reason
    assert verdict("8b03", "linux-sev-5.10", 0x1000, cpl=3).outcome == "emulated"


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    ("code", "note"),
    [
        ("0fb603", "bits 63:32 of rax"),
        ("0fb70b", "bits 63:32 of rcx"),
        ("440fbe03", "bits 63:32 of r8"),
        ("0fbf03", "bits 63:32 of rax"),
        ("8a23", "ah is taken for spl"),
        ("882b", "ch is taken for bpl"),
        ("8833", "dh is taken for sil"),
        ("883b", "bh is taken for dil"),
    ],
)
def test_results_that_differ_from_the_cpus(code: str, note: str, profile: str) -> None:
    found = verdict(code, profile)
    assert found.outcome == "emulated" and note in found.note


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    "code", ["480fb603", "660fb603", "480fbe03", "8b03", "408823", "8a03", "c70301000080", "668b03"]
)
def test_results_that_do_not_differ(code: str, profile: str) -> None:
    assert verdict(code, profile).note == ""


def test_a_64_bit_immediate() -> None:
    assert verdict("48c70301000080", "linux-tdx").note == ""
    assert "sign" in verdict("48c70301000080", "linux-sev").note


def test_movs_of_sev_takes_no_override_and_no_short_count() -> None:
    assert "override" in verdict("64f3a4", "linux-sev").note
    assert "64 bits" in verdict("67f3a4", "linux-sev").note


def test_a_prefetch_asks_nobody() -> None:
    assert verdict("0f180b").outcome == "none"


@pytest.mark.parametrize(
    ("release", "sev", "profile"),
    [
        ("6.12.95+deb12-cloud-amd64", False, "linux-tdx"),
        ("7.3.4+deb13-cloud-amd64", False, "linux-tdx"),
        ("6.11.0-9-generic", False, "linux-tdx-5.19"),
        ("5.19.0", False, "linux-tdx-5.19"),
        ("5.18.19", False, "linux-tdx-v5"),
        ("6.6.1", True, "linux-sev"),
        ("6.5.13", True, "linux-sev-5.10"),
        ("6.1.0-56-cloud-amd64", True, "linux-sev"),
        ("5.10.0-36-amd64", True, "linux-sev"),
        ("next", False, "linux-tdx"),
        ("next", True, "linux-sev"),
    ],
)
def test_a_kernel_has_the_profile_of_its_release(release: str, sev: bool, profile: str) -> None:
    assert own_profile(release, sev=sev) == profile and PROFILES[profile].sev is sev


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("code", ["8b03", "0fae03", "a5", "0fb603"])
@pytest.mark.parametrize("offset", [0, 8, 0xFFD, 0xFFF])
@pytest.mark.parametrize(
    "page", [0, 0x7FFF_FFFF_F000, KERNEL, 0xFFFF_FFFF_FF60_0000, 0xFFFF_FFFF_FFFF_F000]
)
def test_addresses_that_are_alike_are_judged_alike(
    page: int, offset: int, code: str, profile: str
) -> None:
    linear = page + offset
    assert verdict(code, profile, alike(linear)) == verdict(code, profile, linear)
    assert alike(alike(linear)) == alike(linear)
