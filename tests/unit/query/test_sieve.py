"""Choosing over a trace: short forms and conditions are one, and names are checked at its end."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import trace_sample as sample
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tracer.devices import library
from tracer.devices.map import RegisterMaps
from tracer.errors import ConditionError, UsageError
from tracer.query.sieve import Sieve
from tracer.query.source import Source
from tracer.query.words import LONG, Selection, Words, choose, chosen
from tracer.trace.phase import PhaseTracker
from tracer.trace.reader import TraceReader
from tracer.trace.record import (
    Intercept,
    LostRecord,
    Mark,
    MemoryAccess,
    Record,
    RegionRecord,
    StackFrame,
    StackRecord,
    UserRecord,
)

MAPS = library.load()


def numbers(selection: Selection, records: list[Record], maps: RegisterMaps = MAPS) -> list[int]:
    """Return the numbers of the accesses that are chosen."""
    sieve = Sieve(selection, maps)
    return [seq for record in records for seq, _ in sieve.wanted(record)]


# ---- a flag, its long form, and what the flag says in so many words

REGIONS = ("nvme", "nvme.msix-table", "hpet")
SITES = ("nvme_pci_enable+0x5e", "nvme_reset_work+0x1 [nvme]", "read_hpet+0x8", None)
ACCESSES = st.builds(
    lambda region, offset, width, direction, value, site, vcpu, gap: (
        sample.device(region, 4 * offset, width, direction, value), site, vcpu, gap,
    ),
    st.sampled_from(REGIONS), st.integers(0, 16), st.sampled_from([1, 2, 4, 8]),
    st.sampled_from(["read", "write"]), st.none() | st.integers(0, 3), st.sampled_from(SITES),
    st.integers(0, 1), st.integers(0, 5),
)  # fmt: skip
WORDS = st.fixed_dictionaries(
    {},
    optional={
        "region": st.sampled_from(["nvme", "nvm?", "*.msix-*", "hpet", "disk", "h[op]et", "x"]),
        "offset": st.sampled_from([0, "0x14", "0x12-0x18", "20..40"]),
        "value": st.sampled_from([1, "0x2", "1/1", "0/3"]),
        "vcpu": st.integers(0, 1),
        "time": st.sampled_from(["0-0.00000002", "0.00000001-", "-0.00000003"]),
        "symbol": st.sampled_from(["nvme_*", "read_hpet", "nvme_pci_enable+0x5e", "*[nvme]", "*"]),
        "phase": st.sampled_from(["early", "k*", "*", "go"]),
        "read": st.just(True),
        "changes": st.just(True),
    },
)


def records_of(made: list[tuple[MemoryAccess, str | None, int, int]]) -> list[Record]:
    """Return a trace of these accesses, with two marks in its midst."""
    told = sample.region("nvme")
    records: list[Record] = [replace(told, region=replace(told.region, within=["disk"]))]
    records += [sample.region(name) for name in REGIONS[1:]]
    now = 0
    for seq, (access, site, vcpu, gap) in enumerate(made):
        now += gap
        if seq == len(made) // 2:
            records += [sample.RECORDS[4], Mark(time_ns=now, text="half")]
        record = sample.intercept(seq, access, symbol=site)
        records.append(replace(record, vcpu=vcpu, time_ns=now))
    return records


def plainly(words: Words, records: list[Record]) -> list[int]:
    """Return what the filters choose, said once more without any condition."""
    phases, last, found = PhaseTracker(), {}, []
    for record in records:
        phase = phases.add(record)
        if not isinstance(record, Intercept):
            continue
        (access,) = record.accesses
        offset, value = access.offset, access.value
        site = record.symbol
        seconds = [float(end or 9) for end in str(words.get("time", "0-9")).split("-")]
        low, high = seconds if words.get("time", "0")[0] != "-" else (0.0, seconds[1])
        bytes_ = [int(end, 0) for end in str(words.get("offset", 0)).replace("..", "-").split("-")]
        wanted, _, mask = str(words.get("value", "0/0")).partition("/")
        names = [access.region or "", "disk" if access.region == "nvme" else ""]
        names.append((access.region or "").partition(".")[0])
        pattern = words.get("region", "*")
        if not (
            any(pattern == name or (name and fnmatchcase(name, pattern)) for name in names)
            and ("offset" not in words
                 or (bytes_[0] < offset + access.width and offset <= bytes_[-1]))
            and ("value" not in words or (
                value is not None and value & int(mask or "0xff", 0) == int(wanted, 0)))
            and words.get("vcpu", record.vcpu) == record.vcpu
            and round(low * 1e9) <= record.time_ns <= round(high * 1e9)
            and ("symbol" not in words or (site is not None and any(
                words["symbol"] == name or fnmatchcase(name, words["symbol"])
                for name in (site, site.partition("+")[0]))))
            and ("phase" not in words or (
                phase is not None and fnmatchcase(phase, words["phase"])))
            and not ("read" in words and access.direction != "read")
        ):  # fmt: skip
            continue
        if "changes" in words and value is not None:
            place = access.region, access.offset, access.direction, access.width
            before, last[place] = last.get(place), value
            if before == value:
                continue
        found.append(record.seq)
    return found


def long_form(words: Words) -> list[str]:
    """Return the conditions that words are short for, written out."""
    told = [LONG[name](str(word)) for name, word in words.items() if name in LONG]
    told += ["direction == read"] if "read" in words else []
    return told + (["changes"] if "changes" in words else [])


@given(st.lists(ACCESSES, max_size=12), WORDS)
@settings(max_examples=300, deadline=None)
def test_a_flag_chooses_what_its_long_form_does(
    made: list[tuple[MemoryAccess, str | None, int, int]], words: Words
) -> None:
    records = records_of(made)
    expected = plainly(words, records)
    assert numbers(chosen(words), records, RegisterMaps()) == expected
    written = " and ".join(f"({each})" for each in long_form(words)) or "true"
    assert numbers(choose(written), records, RegisterMaps()) == expected


@given(st.text(st.sampled_from("a*?[]'\" .+\t|()&not")), st.sampled_from(["region", "symbol"]))
@settings(max_examples=300, deadline=None)
def test_any_name_has_a_long_form(text: str, word: str) -> None:
    condition = choose(**{word: text}).condition  # type: ignore[arg-type]
    assert condition is not None and [
        each.word for each in choose(**{word: text}).flags[0].mentions
    ] == [text]  # type: ignore[arg-type]  # one name


# ---- what a trace has not


def check(path: Path, records: list[Record], *conditions: str) -> list[int]:
    """Return what conditions choose of a trace that is read to its end and checked."""
    sample.write(path, records)
    with TraceReader(path) as trace:
        source = Source(trace, choose(*conditions), MAPS)
        found = [event.seq for event in source.events()]
        source.check_names()
    return found


MISSING = [
    ("region == nvem", "no region of {} is called nvem; did you mean nvme?", 11),
    ("region is nvem", "no region of {} is called nvem; did you mean nvme?", 11),
    ("vcpu == 0 or device == nvem", "no device of {} is called nvem; did you mean nvme?", 24),
    ("region ~ z*", "no region of {} is called anything like z*", 10),
    ("register == CCC", "no register of {} is called CCC; did you mean CC?", 13),
    ("function != nvme_pci_enabel",
     "no function of {} is called nvme_pci_enabel; did you mean nvme_pci_enable?", 13),
    ("symbol == nvme_pci_enabel+0x5e",
     "no function of {} is called nvme_pci_enabel; did you mean nvme_pci_enable?", 11),
    ("module == nvem", "no module of {} is called nvem; did you mean nvme?", 11),
    ("phase == kernle", "no phase of {} is called kernle; did you mean kernel?", 10),
    ("mark == wakup", "no mark of {} is called wakup; did you mean wakeup?", 9),
    ("region is nvme and offset touches 0x2000..", "nvme of {} ends at offset 0x1fff", 35),
    ("width == 4 and callers is f", "no function of {} is called f; there are: ", 27),
]  # fmt: skip
IN_A_MODULE = sample.intercept(
    5, sample.device("nvme", 0x1C, 4, "read", 1), symbol="nvme_poll+0x1 [nvme]"
)
FULL: list[Record] = [
    *sample.RECORDS[:-1], Mark(time_ns=5, text="wakeup"),
    StackRecord(time_ns=5, id=1, frames=[StackFrame(rip=1, symbol="worker_thread+0x2")]),
    replace(IN_A_MODULE, stack=1), sample.end(6),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message", "column"), MISSING)
def test_a_name_that_the_trace_has_not_is_told_with_its_place(
    tmp_path: Path, text: str, message: str, column: int
) -> None:
    path = tmp_path / "run.vtrace"
    with pytest.raises(ConditionError) as caught:
        check(path, FULL, text)
    assert str(caught.value).startswith(message.format(path))
    assert (caught.value.column, caught.value.text) == (column, text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("register == CC and value & 1", [1]),
        ("callers is worker_thread", [5]),
        ("module == nvme", [5]),
        ("mark == wakeup", [5]),
        ("mark in ..wakeup", None),
        ('mark in .."wakeup"', [0, 1, 2, 3, 4]),
        ("value > 2 or direction == write", [1, 2, 3]),
        ("$rax == 0xffffc90000000000 and not width == 8 and region is nvme", [0, 1, 2, 5]),
        ("mnemonic == movsd", [2]),
        ("via == stepped", [4]),
        ("1 // cpl == 1", None),
    ],
)
def test_a_condition_chooses(tmp_path: Path, text: str, found: list[int] | None) -> None:
    if found is None:
        with pytest.raises(ConditionError):
            check(tmp_path / "run.vtrace", FULL, text)
    else:
        assert check(tmp_path / "run.vtrace", FULL, text) == found


def test_what_no_access_of_a_trace_has_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "run.vtrace"
    for text in ("callers is worker_thread", "callers ~ *"):
        with pytest.raises(ConditionError, match="has no call chains; `vetrace boot --stacks`"):
            check(path, sample.RECORDS, text)
    bare = [replace(r, before={}) if isinstance(r, Intercept) else r for r in sample.RECORDS]
    with pytest.raises(ConditionError, match=r"registers of the CPU are not known: .* has none"):
        check(path, bare, "vcpu == 0 and $eax == 1")
    assert check(path, bare, "$rip == 0xffffffff81234567") == [0, 1, 2, 3, 4]
    with pytest.raises(ConditionError, match="count is of breaks"):
        choose("count == 1")


def test_a_condition_without_an_answer_names_the_access(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^access 0: division by zero at column 7$"):
        check(tmp_path / "run.vtrace", FULL, "value // cpl == 1")


def test_the_device_around_is_named() -> None:
    def known_as_disk(record: Record) -> Record:
        if isinstance(record, RegionRecord) and record.region.name == "nvme":
            return replace(record, region=replace(record.region, within=["disk"]))
        return record

    records = [known_as_disk(record) for record in sample.RECORDS]
    assert numbers(choose(region="disk"), records) == [0, 1]


def test_what_a_region_is_part_of_may_be_told_later() -> None:
    told = sample.region("nvme")
    around = replace(told, region=replace(told.region, within=["disk"]))
    access = sample.device("nvme", 0x1C, 4, "read", 1)
    records: list[Record] = [
        sample.intercept(0, access), told, sample.intercept(1, access), around,
        sample.intercept(2, access), told, sample.intercept(3, access),
    ]  # fmt: skip
    assert numbers(choose("region is disk"), records) == [2]
    assert numbers(choose("region is not disk"), records) == [0, 1, 3]


# ---- what stands between the accesses


@pytest.mark.parametrize(
    ("text", "deed", "note", "loss"),
    [
        ("true", True, True, True),
        ("time >= 1s", False, False, False),
        ("vcpu == 1", True, True, True),
        ("vcpu == 0", False, True, True),
        ("region is nvme", True, True, True),
        ("region is hpet", False, True, True),
        ("register is CC and direction == write", True, True, True),
        ("function == nvme_poll and changes", True, True, True),
        ("phase is here", False, True, False),
        ('mark in "here"..', True, True, True),
        ('mark in .."here"', False, True, False),
        ('mark in .."there"', True, True, True),
        ("mark == here", True, True, True),
    ],
)
def test_what_is_not_known_to_be_left_out_is_shown(
    text: str, deed: bool, note: bool, loss: bool
) -> None:
    sieve = Sieve(choose(text), MAPS)
    for record in sample.RECORDS[:4]:
        sieve.wanted(record)
    mark = Mark(time_ns=5, text="here")
    sieve.wanted(mark)
    assert sieve.wanted_note(mark) is note
    lost = LostRecord(time_ns=6, vcpu=0)
    sieve.wanted(lost)
    assert sieve.wanted_note(lost) is loss
    record = UserRecord(
        time_ns=7, text="write nvme.CC 1", vcpu=1,
        accesses=[sample.device("nvme", 0x14, 4, "write", 1)],
    )  # fmt: skip
    sieve.wanted(record)
    assert sieve.wanted_user(record) is deed


def test_regions_that_no_access_is_wanted_of_are_known() -> None:
    sieve = Sieve(choose("region is nvme and register == CC or device == hpet"))
    assert [sieve.can_be_in(name) for name in ("nvme", "nvme.x", "hpet", "lapic")] == [
        True, True, True, False,
    ]  # fmt: skip
