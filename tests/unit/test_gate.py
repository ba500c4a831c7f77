"""What must be so for page faults to go through a gate."""

from __future__ import annotations

import pytest

from tracer.errors import GuestError
from tracer.guest.machine import features_off
from tracer.trap.gate import refuse_fred

HELP = """\
Available CPUs:
  max                   Enables all features supported by the accelerator
Recognized CPUID flags:
  flush-l1d flushbyasid fma fma4 fpu {} fsgsbase fsrc fsrm fsrs
  vmx-entry-load-efer vmx-entry-load-fred vmx-entry-load-pat
"""


def test_fred_is_off_where_qemu_knows_it() -> None:
    assert features_off(HELP.format("fred")) == ("-global", "x86_64-cpu.fred=off")


def test_a_property_that_qemu_does_not_know_is_left_out() -> None:
    assert features_off(HELP.format("")) == ()
    assert features_off("") == ()


def test_fred_in_cr4_is_refused() -> None:
    refuse_fred(0x3_0668)  # PAE, PGE, OSFXSR, OSXMMEXCPT, FSGSBASE, PCIDE
    with pytest.raises(GuestError, match=r"FRED.*fred=off") as caught:
        refuse_fred(1 << 32 | 0x3_0668)
    assert "\n" not in str(caught.value)
