"""What must be so for page faults to go through a gate."""

from __future__ import annotations

import pytest

from tracer.errors import GuestError
from tracer.intercept.gate import refuse_fred
from tracer.qemu.machine import features_off

HELP = """\
Available CPUs:
  max                   Enables all features supported by the accelerator
Recognized CPUID flags:
  flush-l1d flushbyasid fma fma4 fpu {} fsgsbase fsrc fsrm fsrs
  vmx-entry-load-efer vmx-entry-load-fred vmx-entry-load-pat
"""

OLD = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright (c) 2003-2022"
NEW = "QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)\nCopyright (c) 2003-2025"


def test_fred_is_off_where_qemu_knows_it() -> None:
    assert features_off(HELP.format("fred"), NEW) == ("-global", "x86_64-cpu.fred=off")


def test_a_property_that_qemu_does_not_know_is_left_out() -> None:
    assert features_off(HELP.format(""), NEW) == ()
    assert features_off("", "") == ()


def test_an_instruction_that_qemu_gets_wrong_is_off() -> None:
    assert features_off(HELP.format("cx16"), OLD) == ("-global", "x86_64-cpu.cx16=off")
    assert features_off(HELP.format("cx16"), NEW) == ()
    assert features_off(HELP.format(""), OLD) == ()


def test_fred_in_cr4_is_refused() -> None:
    refuse_fred(0x3_0668)  # PAE, PGE, OSFXSR, OSXMMEXCPT, FSGSBASE, PCIDE
    with pytest.raises(GuestError, match=r"FRED.*fred=off") as caught:
        refuse_fred(1 << 32 | 0x3_0668)
    assert "\n" not in str(caught.value)
