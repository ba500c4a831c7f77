"""LIDT, LTR and loads of CR3 among a kernel's bytes."""

from __future__ import annotations

import pytest

from tracer.x86.table_load import table_loads

BASE = 0xFFFF_FFFF_8100_0000
NOPS = b"\x90" * 8


def function_at(linear: int) -> int | None:
    return BASE if linear >= BASE else None


@pytest.mark.parametrize(
    ("code", "length", "name"),
    [
        ("0f011f", 3, "lidt"),  # [rdi]
        ("0f011d44332211", 7, "lidt"),  # [rip + ...]
        ("0f015c2406", 5, "lidt"),  # [rsp + 6]
        ("410f011c24", 5, "lidt"),  # [r12]
        ("0f019810000000", 7, "lidt"),  # [rax + 16]
        ("0f00d8", 3, "ltr"),  # ax
        ("410f00df", 4, "ltr"),  # r15w
        ("0f001f", 3, "ltr"),  # [rdi]
        ("0f22d8", 3, "cr3"),  # rax
        ("410f22df", 4, "cr3"),  # r15
    ],
)
def test_loads(code: str, length: int, name: str) -> None:
    text = NOPS + bytes.fromhex(code) + NOPS
    assert table_loads(text, BASE, function_at) == {BASE + len(NOPS) + length: name}
    assert table_loads(text, BASE, lambda linear: None) == {BASE + len(NOPS) + length: name}


@pytest.mark.parametrize(
    "code",
    [
        "0f0117",  # lgdt [rdi]
        "0f01d8",  # vmrun
        "0f01df",  # invlpga
        "0f00d0",  # lldt ax
        "0f010f",  # sidt [rdi]
        "0f22d0",  # mov cr2, rax
        "0f22e0",  # mov cr4, rax
        "0f20d8",  # mov rax, cr3
    ],
)
def test_others(code: str) -> None:
    assert table_loads(NOPS + bytes.fromhex(code) + NOPS, BASE, function_at) == {}


def test_what_lies_within_an_instruction_is_none() -> None:
    text = NOPS + bytes.fromhex("488b050f011d02") + NOPS  # mov rax, [rip + 0x21d010f]
    assert table_loads(text, BASE, function_at) == {}
    # Nobody can tell without the start of the function, or behind data.
    assert len(table_loads(text, BASE, lambda linear: None)) == 1
    assert len(table_loads(b"\x06" + text, BASE, function_at)) == 1


def test_at_the_end_of_the_text() -> None:
    assert table_loads(NOPS + b"\x0f\x01\x1d\x00", BASE, function_at) == {}
    assert table_loads(b"", BASE, function_at) == {}
