"""A guest's requests are told in words."""

from __future__ import annotations

import pytest

from tracer.confidential.request import (
    Cpuid,
    EventNotify,
    FatalError,
    GetQuote,
    Halt,
    MapGpa,
    Mmio,
    Msr,
    Other,
    PortIo,
    Request,
    describe,
)

WORDS = (
    (Mmio("read", 4, 0xFEBD_401C, None), "MMIO read 0xfebd401c, 4 bytes"),
    (Mmio("write", 1, 0x1000, 0), "MMIO write 0x1000, 1 byte: 0x0"),
    (Mmio("read", 4, 0x1000, None, shared=False), "MMIO read 0x1000, 4 bytes, not shared"),
    (Mmio(None, 4, 0x1000, None), "MMIO in no direction 0x1000, 4 bytes"),
    (Halt(blocked=True), "HLT, interrupts blocked"),
    (Halt(blocked=False), "HLT"),
    (MapGpa(0x100_0000, 0x100_0000, True), "MapGPA 0x1000000-0x1ffffff to shared"),
    (MapGpa(0x1000, 0x1000, False), "MapGPA 0x1000-0x1fff to private"),
    (MapGpa(0x1000, 0, True), "MapGPA 0x1000, 0 bytes, to shared"),
    (FatalError(0, "out of luck"), "end of the guest, code 0x0: out of luck"),
    (FatalError(1 << 63, ""), "end of the guest, code 0x8000000000000000"),
    (PortIo("read", 1, 0x60, None), "I/O read port 0x60, 1 byte"),
    (PortIo("write", 2, 0x60, 5), "I/O write port 0x60, 2 bytes: 0x5"),
    (PortIo("read", 1, 0x60, None, string=True), "string I/O read port 0x60, 1 byte"),
    (Msr("read", 0x1B, None), "RDMSR 0x1b"),
    (Msr("write", 0x1B, 5), "WRMSR 0x1b: 0x5"),
    (Cpuid(1, 2), "CPUID 0x1, 0x2"),
    (GetQuote(0x5000, 0x4000), "GetQuote 0x5000, 16,384 bytes"),
    (EventNotify(0x20), "SetupEventNotifyInterrupt 0x20"),
    (Other("GetTdVmCallInfo", 0x10000, (0,)), "GetTdVmCallInfo 0x0"),
    (Other("RDTSC", 0x6E), "RDTSC"),
)


@pytest.mark.parametrize(("request_", "words"), WORDS)
def test_a_request_in_words(request_: Request, words: str) -> None:
    assert describe(request_) == words


def test_each_kind_of_request_has_words() -> None:
    assert {type(request) for request, _ in WORDS} == set(Request.__args__)
