"""The functions of Linux that make mappings, and their arguments."""

from __future__ import annotations

import pytest

from tracer.access.symbols import Symbol, table_of
from tracer.linux.mapping import HOOKS, NewMapping, find_hooks

ALL = {name: 0xFFFF_FFFF_8100_0000 + 16 * n for n, name in enumerate(
    name for hook in HOOKS for name in hook.names
)}  # fmt: skip


def hooks(*left_out: str) -> tuple[list[str], list[str]]:
    names = {"start_kernel": 0xFFFF_FFFF_8200_0000, **ALL}
    table = table_of(
        [Symbol(address, "T", name) for name, address in names.items() if name not in left_out]
    )
    found, missing = find_hooks(table)
    for address, (name, _) in found.items():
        assert ALL[name] == address
    return [name for name, _ in found.values()], missing


def test_all_are_found() -> None:
    found, missing = hooks()
    assert missing == []
    assert {"ioremap_page_range", "set_pte_vaddr", "remap_pfn_range_internal"} <= set(found)
    assert "early_ioremap" in found and "__early_ioremap" in hooks("early_ioremap")[0]


def test_what_a_kernel_calls_for_each_page_of_ram_is_no_hook() -> None:
    # early_memremap, of which smp_scan_config makes 40,000 calls, ends in these.
    often = {"__early_set_fixmap", "early_memremap", "__native_set_fixmap"}
    assert not often & {name for hook in HOOKS for name in hook.names}


def test_required_ones_are_missed() -> None:
    left_out = ("ioremap_page_range", "remap_pfn_range")
    found, missing = hooks(*left_out)
    assert missing == ["ioremap_page_range"]
    assert not set(found) & set(left_out)


VALUE = {"rdi": 0xFFFF_C900_0000_0000, "rsi": 0xFFFF_C900_0000_4000, "rdx": 0xFEB0_0000, "rcx": 1}


@pytest.mark.parametrize(
    ("name", "registers", "expected"),
    [
        ("ioremap_page_range", VALUE, NewMapping(VALUE["rdi"], 0xFEB0_0000, 0x4000)),
        ("ioremap_page_range", {**VALUE, "rsi": 0}, NewMapping(VALUE["rdi"], 0xFEB0_0000, 0)),
        (
            "set_pte_vaddr",  # a fixmap entry, no-execute and uncached, with an offset
            {"rdi": 0xFFFF_FFFF_FF5F_C123, "rsi": 0x8000_0000_FEC0_017B},
            NewMapping(0xFFFF_FFFF_FF5F_C000, 0xFEC0_0000, 0x1000),
        ),
        (
            "early_ioremap",  # where to, it tells when it returns
            {"rdi": 0xFED9_0000, "rsi": 0x1000},
            NewMapping(0, 0xFED9_0000, 0x1000),
        ),
        (
            "remap_pfn_range_internal",
            {"rdi": 0, "rsi": 0x7F00_0000_0000, "rdx": 0xFEB00, "rcx": 0x2000},
            NewMapping(0x7F00_0000_0000, 0xFEB0_0000, 0x2000),
        ),
        (
            "kernel_map_pages_in_pgd",  # with a count of pages that is 32 bits wide
            {
                "rdi": 0xFFFF_8880_0123_4000,
                "rsi": 0xFFC00,
                "rdx": 0xFFFF_FFFE_FFC0_0000,
                "rcx": 0xABCD_0000_0084,
            },
            NewMapping(0xFFFF_FFFE_FFC0_0000, 0xFFC0_0000, 0x84000, 0xFFFF_8880_0123_4000),
        ),
        (
            "vmf_insert_pfn_prot",
            {"rdi": 0, "rsi": 0x7F00_0000_0123, "rdx": 0xFEB00, "rcx": 0},
            NewMapping(0x7F00_0000_0000, 0xFEB0_0000, 0x1000),
        ),
    ],
)
def test_arguments(name: str, registers: dict[str, int], expected: NewMapping) -> None:
    (hook,) = [hook for hook in HOOKS if name in hook.names]
    assert hook.arguments(registers) == expected


def test_a_function_that_chooses_the_address_tells_it_where_it_returns() -> None:
    made = {
        hook.names[0]: hook.made(NewMapping(0, 0xFED9_0000, 8), {"rax": 0xFFFF_FFFF_FF20_0000})
        for hook in HOOKS
    }
    chosen = {name for name, mapping in made.items() if mapping.linear}
    assert chosen == {"early_ioremap"}
    assert made["early_ioremap"] == NewMapping(0xFFFF_FFFF_FF20_0000, 0xFED9_0000, 8)
