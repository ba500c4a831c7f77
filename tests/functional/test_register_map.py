"""A register map of a user's own, from the guest's accesses to the marks on them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bare_guest import DEVICE, REGION, Case, assemble, slot
from vetrace_run import boot, run

pytestmark = pytest.mark.qemu

CASES = [
    Case("mov dword ptr [rdi], eax; mov ecx, dword ptr [rdi]", [], {"rax": 0x3}),
    Case("mov dword ptr [rdi], eax; mov ecx, dword ptr [rdi]", [], {"rax": 0x5}),
    Case("mov qword ptr [rdi], rax; movaps xmm1, xmmword ptr [rdi]", [], {"rax": 0x7}),
]

MAP = f"""
title = "A buffer"
specification = "This test"
applies = [{{ region = "{REGION}" }}]

[register.STATUS]
offset = {slot(0)}
access = "ro"
description = "How it stands"
fields = {{ READY = {{ bits = 0, description = "It can begin" }}, STEP = "3:1" }}

[register.BELL]
offset = {slot(1)}
access = "wo"

[register.LOW]
offset = {slot(2)}
access = "ro"

[register.HIGH]
offset = {slot(2) + 4}
"""


def test_accesses_against_a_registers_right_are_marked(tmp_path: Path) -> None:
    guest, registers = assemble(tmp_path, CASES), tmp_path / "buffer.toml"
    registers.write_text(MAP)
    words = ("--quiet", "--every-stop", "--region", REGION)
    done = boot(tmp_path, "--kernel", guest, *words, "--", *DEVICE)
    assert done.status == 0, done.err
    chosen = ("--registers", registers)
    told = run(tmp_path, "show", done.trace, *chosen, "--json")
    assert told.status == 0, told.err
    found = [json.loads(line) for line in told.out.splitlines()]
    marks = [
        (item["register"], item["direction"], item["breach"])
        for item in found
        if item["register"] is not None
    ]
    assert [mark for mark in marks if mark[0] in ("STATUS", "BELL")] == [
        ("STATUS", "write", "read-only"), ("STATUS", "read", None),
        ("BELL", "write", None), ("BELL", "read", "write-only"),
    ]  # fmt: skip
    assert all(breach is None for name, _, breach in marks if name not in ("STATUS", "BELL"))
    assert any(name == "LOW,HIGH" for name, *_ in marks)
    lines = run(tmp_path, "show", done.trace, *chosen, "--decode", "--register", "STATUS").out
    first, below, second, _ = lines.splitlines()
    assert first.endswith("0x00000003 (read-only)") and second.endswith("0x00000003")
    assert below.strip() == "↳ How it stands: READY (It can begin), STEP=1"
    counted = json.loads(run(tmp_path, "stats", done.trace, *chosen, "--json").out)
    assert counted["breaches"] == 2
