"""What must be so for page faults to go through a gate."""

from __future__ import annotations

import pytest

from tracer.errors import GuestError
from tracer.intercept.entry.gate import refuse_fred


def test_fred_in_cr4_is_refused() -> None:
    refuse_fred(0x3_0668)  # PAE, PGE, OSFXSR, OSXMMEXCPT, FSGSBASE, PCIDE
    with pytest.raises(GuestError, match=r"FRED.*fred=off") as caught:
        refuse_fred(1 << 32 | 0x3_0668)
    assert "\n" not in str(caught.value)
