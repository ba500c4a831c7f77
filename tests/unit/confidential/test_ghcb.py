"""The page of an SEV-ES guest, against the structures of the guest and of the host."""

from __future__ import annotations

import pytest

from tracer.confidential import ghcb
from tracer.confidential.ghcb import OFFSETS, patch, unpack

# Linux arch/x86/include/asm/svm.h, struct ghcb_save_area and struct ghcb: where fields begin, from
# the sizes of those before.
KVM = {
    "cpl": 203, "xss": 320, "dr7": 352, "rip": 376, "rsp": 472, "rax": 504, "rcx": 776, "rdx": 784,
    "rbx": 792, "rbp": 808, "rsi": 816, "rdi": 824, "r8": 832, "r15": 888, "sw_exit_code": 912,
    "sw_exit_info_1": 920, "sw_exit_info_2": 928, "sw_scratch": 936, "xcr0": 1000,
    "valid_bitmap": 1008, "shared_buffer": 2048, "reserved_0xff0": 4080, "protocol_version": 4090,
    "ghcb_usage": 4092,
}  # fmt: skip


def test_fields_are_where_the_host_has_them() -> None:
    ours = OFFSETS | {
        "cpl": ghcb.CPL,
        "valid_bitmap": ghcb.VALID_BITMAP,
        "shared_buffer": ghcb.SHARED_BUFFER,
        "reserved_0xff0": ghcb.BUFFER_END,
        "protocol_version": ghcb.VERSION,
        "ghcb_usage": ghcb.USAGE,
    }
    assert {name: ours[name] for name in KVM} == KVM


def test_only_what_is_valid_is_there() -> None:
    page = bytearray(4096)
    page[912:920] = (0x8000_0001).to_bytes(8, "little")
    page[504:512] = b"\xff" * 8
    page[203] = 3
    # svm.h, GHCB_BITMAP_IDX: one bit for 8 bytes of the save area.
    for at in (912, 203):
        page[1008 + at // 8 // 8] |= 1 << at // 8 % 8
    page[4092] = 7
    found = unpack(bytes(page))
    assert found.fields == {"sw_exit_code": 0x8000_0001, "cpl": 3}
    assert found.usage == 7 and len(found.buffer) == 2032


def test_what_the_host_sets_is_valid_and_nothing_else() -> None:
    before = patch(bytes(4096), dict.fromkeys(OFFSETS, 5))
    after = patch(before, {"rax": 6, "sw_exit_info_1": 0}, b"\x01\x02", 0x800)
    found = unpack(after)
    assert found.fields == {"rax": 6, "sw_exit_info_1": 0}
    assert found.buffer[:3] == b"\x01\x02\0"
    assert after[784:792] == (5).to_bytes(8, "little"), "what is not valid is left as it was"


@pytest.mark.parametrize("length", [0, 4095, 4097])
def test_a_page_has_4096_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="4096 bytes"):
        unpack(bytes(length))
