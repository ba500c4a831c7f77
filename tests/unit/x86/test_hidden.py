"""Some instructions work on registers that no record has."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tracer.x86.decode import decode
from tracer.x86.hidden import needs_ymm, on_hidden_registers
from tracer.x86.state import Mode


@pytest.mark.parametrize(
    ("code", "hidden", "ymm"),
    [
        ("8b401c", False, False),  # mov eax, [rax+0x1c]
        ("0f1000", False, False),  # movups xmm0, [rax]
        ("d900", True, False),  # fld dword [rax]
        ("0f6f00", True, False),  # movq mm0, [rax]
        ("c5f81000", True, True),  # vmovups xmm0, [rax]: the upper half is zeroed
        ("c5f81100", False, False),  # vmovups [rax], xmm0
        ("c5fc1100", True, True),  # vmovups [rax], ymm0
    ],
)
def test_x87_mmx_and_upper_halves_are_hidden(code: str, hidden: bool, ymm: bool) -> None:
    insn = decode(bytes.fromhex(code), 0x1000, Mode.LONG)
    assert (on_hidden_registers(insn), needs_ymm(insn)) == (hidden, ymm)


def test_who_reads_records_does_not_load_the_emulator() -> None:
    code = "import sys, tracer.access.recorded; print('tracer.x86.emulate' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
