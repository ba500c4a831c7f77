"""The symbols of a kernel tell which kinds of guest it can be."""

from __future__ import annotations

import pytest

from tracer.confidential.kind import Kind
from tracer.confidential.support import kinds_of, setup_command, why_not

TDX = {"tdx_early_init", "exc_virtualization_exception"}
SEV_ES = {"sme_enable", "vc_no_ghcb", "kernel_exc_vmm_communication"}
LATER = SEV_ES - {"sme_enable"} | {"__pi_sme_enable"}


@pytest.mark.parametrize(
    ("symbols", "kinds"),
    [
        (set(), {Kind.PLAIN}),
        (TDX, {Kind.PLAIN, Kind.TDX}),
        (SEV_ES, {Kind.PLAIN, Kind.SEV_ES}),
        (LATER, {Kind.PLAIN, Kind.SEV_ES}),
        (TDX | LATER, set(Kind)),
    ],
)
def test_a_kernel_with_these_symbols(symbols: set[str], kinds: set[Kind]) -> None:
    assert set(kinds_of(symbols.__contains__)) == kinds


@pytest.mark.parametrize("missing", sorted(TDX | LATER))
def test_each_symbol_is_needed(missing: str) -> None:
    kinds = kinds_of((TDX | LATER).difference({missing}).__contains__)
    assert (Kind.TDX in kinds) == (missing not in TDX)
    assert (Kind.SEV_ES in kinds) == (missing not in LATER)


@pytest.mark.parametrize(
    ("kind", "option"),
    [(Kind.TDX, "CONFIG_INTEL_TDX_GUEST"), (Kind.SEV_ES, "CONFIG_AMD_MEM_ENCRYPT")],
)
def test_a_kernel_that_cannot_is_told_with_its_option_and_what_to_do(
    kind: Kind, option: str
) -> None:
    line = why_not(kind, "5.10.0")
    assert "5.10.0" in line
    assert option in line
    assert setup_command(kind) in line
    assert setup_command(kind) == f"vetrace setup --guest {kind.value}"
    assert "\n" not in line
