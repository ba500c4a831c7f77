"""Records as lines of JSON: round trips, and lines nobody should trust."""

from __future__ import annotations

import json
import re
import string
import tracemalloc
from pathlib import Path
from typing import get_args

import msgspec
import pytest
import trace_sample as sample
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.errors import TraceError
from tracer.trace import codec
from tracer.trace.compiled import BlockRecord, Place, Rate
from tracer.trace.queue import QueueEntry
from tracer.trace.reader import TraceReader
from tracer.trace.record import (
    FORMAT_VERSION,
    Header,
    Intercept,
    Line,
    MemoryAccess,
    Record,
    RegionInfo,
    RegionRecord,
    StackFrame,
    StackRecord,
    UserRecord,
)
from tracer.trace.waiting import WayOut

numbers = st.integers(0, (1 << 512) - 1)
words = st.text(st.characters(codec="utf-8"), max_size=20)
times = st.integers(0, (1 << 63) - 1)

intercepts = st.builds(
    Intercept,
    seq=times,
    time_ns=times,
    vcpu=st.integers(0, 255),
    cpl=st.integers(0, 3),
    mode=st.sampled_from([16, 32, 64]),
    rip=numbers,
    symbol=st.none() | words,
    code=st.binary(max_size=15),
    text=words,
    cr2=numbers,
    error_code=numbers,
    via=st.sampled_from(["emulated", "stepped"]),
    accesses=st.lists(
        st.builds(
            MemoryAccess,
            direction=st.sampled_from(["read", "write"]),
            width=st.integers(1, 64),
            linear=numbers,
            physical=numbers,
            value=st.none() | numbers,
            region=st.none() | words,
            offset=st.none() | numbers,
        ),
        max_size=3,
    ),
    before=st.dictionaries(st.text(string.ascii_lowercase), numbers, max_size=3),
    after=st.dictionaries(st.text(string.ascii_lowercase), numbers, max_size=3),
    note=st.none() | words,
    stack=st.none() | times,
)

stacks = st.builds(
    StackRecord,
    time_ns=times,
    id=times,
    frames=st.lists(st.builds(StackFrame, rip=numbers, symbol=st.none() | words), max_size=3),
    lost=st.none() | words,
)


@pytest.mark.parametrize("record", sample.RECORDS, ids=lambda record: type(record).__name__)
def test_every_kind_of_record_survives_a_round_trip(record: Record) -> None:
    assert codec.decode(codec.encode(record), 2) == record


@settings(deadline=None)
@given(intercepts | stacks)
def test_any_record_survives_a_round_trip(record: Record) -> None:
    line = codec.encode(record)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert codec.decode(line, 2) == record


def test_the_header_survives_a_round_trip() -> None:
    assert codec.decode_header(codec.encode(sample.HEADER)) == sample.HEADER


def test_a_record_is_one_json_object_with_its_type_first() -> None:
    line = codec.encode(sample.RECORDS[6])
    assert line.startswith(b'{"type":"mmio",')
    assert json.loads(line)["accesses"][0]["physical"] == "0xfebf001c"


def changed(**members: object) -> bytes:
    return json.dumps(json.loads(codec.encode(sample.RECORDS[6])) | members).encode() + b"\n"


GOOD = {"direction": "read", "width": 4, "linear": "0x0", "physical": "0x0"}


def test_unknown_members_are_ignored() -> None:
    assert codec.decode(changed(tdvmcall={"exit": 48}), 2) == sample.RECORDS[6]


def test_an_unknown_type_is_told_apart() -> None:
    assert codec.decode(b'{"type":"irq","time_ns":1}\n', 2) == codec.Unknown("irq")


@pytest.mark.parametrize("struct", get_args(Line), ids=lambda s: s.__name__)
def test_a_broken_record_of_a_known_type_is_no_unknown_one(struct: type[msgspec.Struct]) -> None:
    line = b'{"type":"%s"}\n' % str(struct.__struct_config__.tag).encode()
    with pytest.raises(TraceError, match="line 2: bad record"):
        codec.decode(line, 2)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"{\n",
        b"\0\0\0\n",
        b"\xff\xfe\n",
        b'{"type":"mark","time_ns":1,"text":"\xff"}\n',
        b"[]\n",
        b"7\n",
        b'{"time_ns":1}\n',
        b'{"type":7}\n',
        b'{"type":"mark","time_ns":1}\n',
        codec.encode(sample.HEADER),
        changed(seq="0"),
        changed(seq=-1),
        changed(time_ns=1 << 63),
        changed(vcpu=1 << 16),
        changed(cpl=4),
        changed(
            accesses=[{"direction": "read", "width": 1 << 17, "linear": "0x0", "physical": "0x0"}]
        ),
        changed(rip="ffff"),
        changed(rip="0xFFFF"),
        changed(rip="0x00ff"),
        changed(rip="0x1_0"),
        changed(rip=" 0x1"),
        changed(rip="-0x1"),
        changed(rip="+0x1"),
        changed(rip="0x"),
        changed(rip=""),
        changed(rip=255),
        changed(rip=None),
        changed(rip={}),
        changed(before={"rax": "0x01"}),
        changed(code="8B401C"),
        changed(code="8b 40 1c"),
        changed(code=[]),
        changed(code="8b401"),
        changed(via="guessed"),
        changed(accesses=[{"direction": "read"}]),
        changed(after={"rax": 1}),
    ],
)
def test_what_is_no_record_is_refused_with_its_line_number(line: bytes) -> None:
    with pytest.raises(TraceError, match=r"^line 41: "):
        codec.decode(line, 41)


def test_the_message_names_the_member() -> None:
    with pytest.raises(TraceError, match=r"accesses\[0\]"):
        codec.decode(changed(accesses=[{"direction": "read"}]), 3)


@pytest.mark.parametrize(
    ("members", "place"),
    [
        ({"rip": "7"}, "$.rip"),
        ({"code": "7"}, "$.code"),
        ({"after": {"rax": "7"}}, "$.after[...]"),
        ({"accesses": [GOOD, GOOD | {"value": "7"}]}, "$.accesses[1].value"),
    ],
)
def test_the_message_says_where_a_number_is_none(members: dict[str, object], place: str) -> None:
    with pytest.raises(TraceError, match=r"Expected .* got '7' - at ") as caught:
        codec.decode(changed(**members), 3)
    assert str(caught.value).endswith(f"`{place}`")


def test_numbers_are_numbers_and_text_in_the_file() -> None:
    record = codec.decode(changed(before={"xmm0": hex(1 << 127)}, rip="0x0", code=""), 1)
    assert isinstance(record, Intercept)
    assert (record.before, record.rip, record.code) == ({"xmm0": 1 << 127}, 0, b"")
    written = json.loads(codec.encode(record))
    assert (written["before"], written["rip"], written["code"]) == (
        {"xmm0": hex(1 << 127)},
        "0x0",
        "",
    )


def test_a_file_of_many_numbers_does_not_fill_the_memory() -> None:
    line, longest = changed(), changed(rip=f"0x1{'0' * 100_000}")
    tracemalloc.start()
    for number in range(1, 40_000):
        codec.decode(line.replace(b'"0x1"', b'"%#x"' % number), 2)
    for _ in range(100):
        codec.decode(longest, 2)
    assert tracemalloc.get_traced_memory()[0] < 4 << 20
    tracemalloc.stop()


def test_a_newer_format_is_refused_whatever_it_looks_like() -> None:
    line = json.dumps({"type": "header", "version": FORMAT_VERSION + 1, "news": []}).encode()
    with pytest.raises(TraceError, match=f"format {FORMAT_VERSION + 1}.*newer vetrace"):
        codec.decode_header(line)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"ELF",
        b"{}",
        b"[1]",
        b'{"type":"header"}',
        b'{"type":"header","version":1}',
        b'{"type":"mark","version":1}',
        b'{"type":"header","version":"1"}',
    ],
)
def test_what_is_no_header_is_refused(line: bytes) -> None:
    with pytest.raises(TraceError, match="line 1: "):
        codec.decode_header(line)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(line: bytes) -> None:
    for read in (codec.decode_header, lambda line: codec.decode(line, 1)):
        try:
            read(line)
        except TraceError as error:
            assert "\n" not in str(error)


# --- the contract ----------------------------------------------------------------------------

CONTRACT = (Path(__file__).parents[3] / "docs" / "trace-format.md").read_text()


def test_the_example_of_the_contract_is_a_trace_in_this_format(tmp_path: Path) -> None:
    found = re.search(r"```jsonl\n(.*?)```", CONTRACT, re.DOTALL)
    assert found is not None
    first, *rest = found[1].encode().splitlines(keepends=True)
    assert codec.encode(codec.decode_header(first)) == first
    records = [codec.decode(line, number) for number, line in enumerate(rest, 2)]
    assert {type(record) for record in records} == set(get_args(Line))
    for record, line in zip(records, rest, strict=True):
        assert not isinstance(record, codec.Unknown)
        if isinstance(record, BlockRecord):  # which another library may pack otherwise
            assert codec.decode(codec.encode(record), 1) == record
        else:
            assert codec.encode(record) == line
    path = tmp_path / "example.vtrace"
    path.write_text(found[1])
    with TraceReader(path) as trace:
        made = [record for record in trace if isinstance(record, Intercept)]
    assert [record.accesses[0].value for record in made] == [1, 1, 0]
    assert trace.end is not None and trace.end.counts["accesses"] == len(made)


@pytest.mark.parametrize(
    "struct",
    [
        Header,
        *get_args(Line),
        RegionInfo,
        MemoryAccess,
        StackFrame,
        Place,
        Rate,
        WayOut,
        QueueEntry,
    ],
    ids=lambda s: s.__name__,
)
def test_the_contract_names_every_member(struct: type[msgspec.Struct]) -> None:
    described = set(re.findall(r"`(\w+)`", CONTRACT))
    assert {member.encode_name for member in msgspec.structs.fields(struct)} <= described


def test_bytes_of_the_command_line_that_are_no_text_are_escaped() -> None:
    text = b"mark \xc3\xbc \xff".decode("utf-8", "surrogateescape")
    known = sample.region("nvme")
    header = msgspec.structs.replace(sample.HEADER, qemu_args=["-drive", f"file={text}"])
    record = UserRecord(time_ns=0, text=text)
    assert codec.decode(codec.encode(record), 2) == UserRecord(time_ns=0, text="mark ü \\udcff")
    assert codec.decode_header(codec.encode(header)) == msgspec.structs.replace(
        header, qemu_args=["-drive", "file=mark ü \\udcff"]
    )
    renamed = msgspec.structs.replace(
        known, region=msgspec.structs.replace(known.region, name=text)
    )
    again = codec.decode(codec.encode(renamed), 2)
    assert isinstance(again, RegionRecord) and again.region.start == known.region.start


def test_the_contract_has_the_version() -> None:
    assert CONTRACT.startswith(f"# The trace format, version {FORMAT_VERSION}\n")


@pytest.mark.parametrize("mode", [0, 8, 48, 1 << 62])
def test_a_mode_that_no_code_segment_has_is_refused(mode: int) -> None:
    line = codec.encode(sample.RECORDS[6]).replace(b'"mode":64', b'"mode":%d' % mode)
    with pytest.raises(TraceError, match="line 7: bad record: Invalid enum value"):
        codec.decode(line, 7)
