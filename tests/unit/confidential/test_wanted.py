"""The access that a call is for is read from its registers, or from the fields of a GHCB."""

from __future__ import annotations

import pytest

from tracer.confidential.request import Mmio
from tracer.confidential.wanted import wanted

PLACE = 0xFEBC_0014
TDX_READ = {"r10": 0, "r11": 48, "r12": 4, "r13": 0, "r14": PLACE | 1 << 47, "r15": 0}
TDX_WRITE = TDX_READ | {"r12": 2, "r13": 1, "r14": PLACE | 1 << 51, "r15": 0x1234}
SEV_READ = {"sw_exit_code": 0x8000_0001, "sw_exit_info_1": PLACE, "sw_exit_info_2": 4}
SEV_WRITE = SEV_READ | {"sw_exit_code": 0x8000_0002, "shared_buffer": 0x46_0001}


@pytest.mark.parametrize(
    ("given", "access"),
    [
        (TDX_READ, Mmio("read", 4, PLACE, None)),
        (TDX_WRITE, Mmio("write", 2, PLACE, 0x1234)),
        (SEV_READ, Mmio("read", 4, PLACE, None)),
        (SEV_WRITE, Mmio("write", 4, PLACE, 0x46_0001)),
    ],
)
def test_a_call_for_an_access_is_that_access(given: dict[str, int], access: Mmio) -> None:
    assert wanted(given, {}) == access


@pytest.mark.parametrize(
    "given",
    [
        TDX_READ | {"r11": 12},
        TDX_READ | {"r10": 1},
        {name: value for name, value in TDX_READ.items() if name != "r14"},
        SEV_READ | {"sw_exit_code": 0x8000_0003},
        SEV_READ | {"sw_exit_info_2": 3},
        SEV_WRITE | {"shared_buffer": 1 << 32},
        {},
    ],
)
def test_another_call_is_for_no_access(given: dict[str, int]) -> None:
    assert wanted(given, {}) is None
