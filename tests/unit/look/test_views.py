"""Registers, code, memory, stacks and regions of a stopped guest as lines."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from stop_sample import DEVICE, LINEAR, NVME, RIP, state

from tracer.access.region import RegionMap
from tracer.access.stack import Frame, Stack
from tracer.errors import UsageError
from tracer.look.code import code_lines, code_objects
from tracer.look.dump import Part, Spec, dump_lines, dump_objects, parse_spec
from tracer.look.region import (
    devices_lines,
    find_region,
    mapping_lines,
    mapping_objects,
    region_lines,
    region_objects,
)
from tracer.look.registers import register_lines, register_object, rflags_text
from tracer.look.stack import stack_lines, stack_object
from tracer.trace.record import MapRecord
from tracer.x86.decode import disassemble
from tracer.x86.state import Mode

REGIONS = RegionMap([NVME], [(DEVICE, DEVICE + 0x3FFF)], [])


def named(linear: int) -> str | None:
    return f"read+{linear - RIP:#x}" if RIP <= linear < RIP + 0x100 else None


def test_specs() -> None:
    assert parse_spec("/8xw") == parse_spec("8wx") == Spec(8, "x", 4)
    assert parse_spec("/2g", Spec(9, "d", 4)) == Spec(2, "d", 8)
    assert parse_spec("/a").width == 8 and parse_spec("/s") == Spec(1, "s", 1)


@pytest.mark.parametrize("text", ["/0x", "/9999x", "/8z", "/xd", "/wg", "8 x", "/99999999999999x"])
def test_bad_specs(text: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_spec(text)
    assert text in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "data", "line"),
    [
        ("/2xw", "0100000002000000", "0x00000001  0x00000002"),
        ("/1db", "ff", "-1"),
        ("/1uh", "ffff", "65535"),
        ("/1ob", "09", "011"),
        ("/1tb", "05", "00000101"),
        ("/1c", "41", "65 'A'"),
        ("/1c", "1b", "27 '\\x1b'"),
        ("/1a", RIP.to_bytes(8, "little").hex(), "0xffffffff81a3b2c0 <read+0x0>"),
        ("/1s", "68690a00", "'hi\\n'"),
    ],
)
def test_formats(spec: str, data: str, line: str) -> None:
    lines = dump_lines(parse_spec(spec), [Part(LINEAR, bytes.fromhex(data))], named)
    assert lines == [f"0xffffc90000004000: {line}"]


def test_what_cannot_be_read_is_said() -> None:
    parts = [Part(0x1000, b"\1\2\3\4\5"), Part(0x1005, b"", "not mapped")]
    lines = dump_lines(Spec(4), parts, named)
    assert lines[1] == "0x0000000000001004: only 1 bytes readable here"
    assert lines[2] == "0x0000000000001005: not mapped"
    assert dump_objects(Spec(4), parts)[1]["why"] == "not mapped"


def test_disassembly_goes_on_behind_bad_bytes() -> None:
    code = disassemble(bytes.fromhex("90068b06c38b"), RIP, Mode.LONG)
    assert [line.text for line in code] == ["nop", None, "mov eax, dword ptr [rsi]", "ret"]
    lines = code_lines(code, RIP + 2, named)
    assert lines[1] == "    0xffffffff81a3b2c1  read+0x1  (bad) 06"
    assert lines[2] == "=>  0xffffffff81a3b2c2  read+0x2  mov eax, dword ptr [rsi]"
    assert "8b 06" in code_lines(code, RIP, named, 120)[2]
    assert [found["next"] for found in code_objects(code, RIP, named)] == [True, *[False] * 3]


# Ref: Intel SDM vol. 1, figure 3-8 (EFLAGS); vol. 3A, 2.2.1 (EFER), 2.5 (CR0, CR4); AMD APM vol. 2,
# 3.1.7 (EFER).
@pytest.mark.parametrize(
    ("register", "names"),
    [
        ("cr0", "PE MP EM TS ET NE 16:WP 18:AM 29:NW CD PG"),
        ("cr4", "VME PVI TSD DE PSE PAE MCE PGE PCE OSFXSR OSXMMEXCPT UMIP LA57 VMXE SMXE"
                " 16:FSGSBASE PCIDE OSXSAVE 20:SMEP SMAP PKE CET PKS"),
        ("efer", "SCE 8:LME 10:LMA NXE SVME 14:FFXSR"),
        ("rflags", "CF 2:PF 4:AF 6:ZF SF TF IF DF OF 14:NT 16:RF VM AC VIF VIP ID"),
    ],
)  # fmt: skip
def test_each_bit_of_a_register_has_its_name(register: str, names: str) -> None:
    bit = 0
    known: dict[int, str] = {}
    for word in names.split():
        number, _, name = word.rpartition(":")
        bit = int(number) if number else bit
        known[bit] = name
        bit += 1
    for bit in range(64):
        if register == "rflags" and bit in (1, 12, 13):
            continue  # always 1, and the I/O privilege level
        value = 1 << bit
        if register == "efer":
            lines = register_lines(state(), {"efer": value}, columns=200)
        else:
            lines = register_lines(replace(state(), **{register: value}), {}, columns=200)
        line = next(line for line in lines if line.startswith(f"{register} "))
        told = line.partition(f"{value:#018x}")[2].removesuffix(" IOPL=0").strip()
        assert told == known.get(bit, f"bit {bit}"), bit


def test_registers() -> None:
    lines = register_lines(state(), {"cr3": 0x1000, "efer": 0xD01}, "read+0x0", 80)
    assert max(map(len, lines)) <= 80
    told = "\n".join(lines)
    assert "rip     0xffffffff81a3b2c0  read+0x0" in told and "SCE LME LMA NXE" in told
    assert rflags_text(0x3246) == "PF ZF IF IOPL=3"
    assert "xmm1" not in told
    assert "xmm1" in "\n".join(register_lines(state(), {}, everything=True))
    found = json.loads(json.dumps(register_object(state(), {"cr3": 0x1000})))
    assert found["cr3"] == "0x1000" and found["rax"] == "0x1111222233334444"


def test_stack() -> None:
    stack = Stack((Frame(RIP, True), Frame(RIP + 5, False)), "no ORC entry for 0x1")
    assert stack_lines(stack, named) == [
        "#0  read+0x0  0xffffffff81a3b2c0",
        "#1  read+0x5  0xffffffff81a3b2c5",
        "The rest is not known: no ORC entry for 0x1.",
    ]
    assert stack_object(stack, named)["frames"][1]["symbol"] == "read+0x5"


def test_regions() -> None:
    lines = region_lines(find_region(REGIONS, "nvme"), REGIONS, {"nvme": 1234})
    assert "physical   0xfebf0000-0xfebf3fff (0x4000 bytes)" in lines
    assert "accesses   1,234 so far, traced" in lines
    assert region_objects([NVME], REGIONS, {})[0]["size"] == 0x4000
    assert devices_lines(REGIONS, {"nvme": 5})[1].endswith("5")
    # Regions tell their device where there is no room for it; none is parted.
    narrow = devices_lines(REGIONS, {}, 45)
    assert len(narrow) == 2 and "device" not in narrow[0]
    untraced = RegionMap([NVME], [], [])
    assert devices_lines(untraced, {})[1].endswith("not traced")
    assert devices_lines(untraced, {"nvme": 5})[1].endswith("5, not traced")
    with pytest.raises(UsageError, match="no region is called x; there are: nvme"):
        find_region(REGIONS, "x")


def test_mappings() -> None:
    record = MapRecord(
        time_ns=0, linear=LINEAR, physical=DEVICE, size=0x4000, regions=["nvme"],
        by="ioremap_page_range",
    )  # fmt: skip
    assert mapping_lines([record])[1].split() == [
        "0xffffc90000004000", "0xfebf0000", "0x4000", "nvme", "ioremap_page_range",
    ]  # fmt: skip
    assert mapping_objects([record])[0]["by"] == "ioremap_page_range"
    assert mapping_lines([]) == ["no traced region is mapped yet"]
