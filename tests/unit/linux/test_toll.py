"""What the reader is told of many stops at mapping functions."""

from __future__ import annotations

from tracer.linux.toll import MANY, Toll


def test_few_stops_are_not_worth_a_word() -> None:
    toll = Toll()
    assert [toll.add("set_pte_vaddr", ram=True) for _ in range(MANY - 1)] == [None] * (MANY - 1)


def test_many_are_told_once_and_again_at_ten_times_as_many() -> None:
    toll = Toll()
    said = {}
    for number in range(1, 20 * MANY):
        often = number % 4 != 0
        name = "vmf_insert_pfn_prot" if often else "ioremap_page_range"
        remark = toll.add(name, ram=often)
        if remark is not None:
            said[number] = remark
    assert list(said) == [MANY, 10 * MANY]
    assert "20,000 stops for mappings so far, 15,000 of them of RAM" in said[10 * MANY]
    assert "vmf_insert_pfn_prot" in said[MANY]
