"""Comparing two traces: what counts, what does not, and how it is told."""

from __future__ import annotations

import json
import random
from pathlib import Path

import msgspec
import pytest
import trace_sample as sample
from hypothesis import given
from hypothesis import strategies as st

from tracer.check.diff import Differ, RegionDiff, Rules, Side, compare
from tracer.cli import main
from tracer.errors import UsageError
from tracer.trace.event import Event
from tracer.trace.mask import kept_bits, parse_mask
from tracer.trace.record import Intercept, MemoryAccess, Record
from tracer.trace.varying import PASSING, VARYING

Output = pytest.CaptureFixture[str]
EXACT = Rules((), ())


def intercepts(*accesses: MemoryAccess) -> list[Intercept]:
    return [sample.intercept(seq, access) for seq, access in enumerate(accesses)]


def events(*accesses: MemoryAccess) -> list[Event]:
    return [Event(r.seq, r, r.accesses[0]) for r in intercepts(*accesses)]


def read(offset: int, value: int | None, region: str = "nvme") -> MemoryAccess:
    return sample.device(region, offset, 4, "read", value)


def write(offset: int, value: int, region: str = "nvme") -> MemoryAccess:
    return sample.device(region, offset, 4, "write", value)


def compared(
    first: list[MemoryAccess], second: list[MemoryAccess], rules: Rules = EXACT, context: int = 3
) -> dict[str, RegionDiff]:
    differ = Differ(rules)
    a, b = differ.read(events(*first)), differ.read(events(*second))
    return {
        name: compare(name, a.get(name, Side()), b.get(name, Side()), context)
        for name in a.keys() | b.keys()
    }


def shape(result: RegionDiff) -> list[str]:
    """Return each hunk as a string of ' ', '~', '-' and '+'."""
    marks = {"same": " ", "changed": "~", "first": "-", "second": "+"}
    return ["".join(marks[line.kind] for line in hunk) for hunk in result.hunks]


LONG = [write(0x1000, n) for n in range(20)]


def test_equal_sequences_agree() -> None:
    (result,) = compared(LONG, LONG).values()
    assert result.agrees and result.same == 20 and result.hunks == []


@pytest.mark.parametrize(
    ("second", "counts", "hunks"),
    [
        ([*LONG[:10], write(0x1000, 99), *LONG[11:]], (1, 0, 0), ["   ~   "]),
        ([*LONG[:10], *LONG[11:]], (0, 1, 0), ["   -   "]),
        ([*LONG[:10], write(0x2000, 0), *LONG[10:]], (0, 0, 1), ["   +   "]),
        ([*LONG[:10], read(0x1000, 10), *LONG[11:]], (0, 1, 1), ["   -+   "]),
        ([write(0x1000, 99), *LONG[1:]], (1, 0, 0), ["~   "]),
        (LONG[:-1], (0, 1, 0), ["   -"]),
        ([*LONG[:3], *LONG[4:10], *LONG[11:]], (0, 2, 0), ["   -      -   "]),
        ([*LONG[:3], *LONG[4:11], *LONG[12:]], (0, 2, 0), ["   -   ", "   -   "]),
        ([], (0, 20, 0), ["-" * 20]),
    ],
)
def test_each_kind_of_difference_is_found_in_its_context(
    second: list[MemoryAccess], counts: tuple[int, int, int], hunks: list[str]
) -> None:
    result = compared(LONG, second)["nvme"]
    assert (result.changed, result.first, result.second) == counts
    assert shape(result) == hunks
    assert result.same == 20 - counts[0] - counts[1]


@pytest.mark.parametrize("context", [0, 1, 5])
def test_the_context_is_as_asked(context: int) -> None:
    result = compared(LONG, [*LONG[:10], *LONG[11:]], context=context)["nvme"]
    assert shape(result) == [" " * context + "-" + " " * context]


def test_a_hunk_has_the_accesses_of_both_sides() -> None:
    result = compared(LONG, [write(0x14, 1), *LONG[:5], write(0x1000, 99), *LONG[6:]])["nvme"]
    line = next(line for hunk in result.hunks for line in hunk if line.kind == "changed")
    assert line.first is not None and line.second is not None
    assert (line.first.seq, line.first.value) == (5, 5)
    assert (line.second.seq, line.second.value) == (6, 99)


def test_regions_do_not_see_each_other() -> None:
    mixed = [read(0x10, n, "hpet") for n in range(20)]
    first = [access for pair in zip(LONG, mixed, strict=True) for access in pair]
    assert all(result.agrees for result in compared(first, [*mixed, *LONG]).values())


def test_addresses_times_and_call_sites_do_not_count() -> None:
    there = events(*LONG)
    here = [
        Event(
            e.seq,
            msgspec.structs.replace(e.record, time_ns=e.seq * 7, rip=0x1, symbol="other+0x1"),
            msgspec.structs.replace(e.access, linear=0x5, physical=0x6),
        )
        for e in there
    ]
    differ = Differ(EXACT)
    assert compare("nvme", differ.read(here)["nvme"], differ.read(there)["nvme"]).agrees


def test_how_often_a_loop_polls_does_not_count_but_what_it_reads_does() -> None:
    once, often = [read(0x1C, 0), read(0x1C, 1)], [*[read(0x1C, 0)] * 9, read(0x1C, 1)]
    assert compared(once, often)["nvme"].agrees
    assert not compared(once, [read(0x1C, 0)])["nvme"].agrees
    assert not compared([write(0, 1)], [write(0, 1), write(0, 1)])["nvme"].agrees


def test_a_value_that_is_not_known_is_no_value() -> None:
    assert compared([read(0, None)], [read(0, None)])["nvme"].agrees
    assert not compared([read(0, None)], [read(0, 0)])["nvme"].agrees


def test_known_variation_is_masked() -> None:
    rules = Rules()
    first = [write(0x28, 0x1000), write(0x20, 1)]
    second = [write(0x28, 0x2000), write(0x20, 1)]
    assert compared(first, second, rules)["nvme"].agrees
    assert not compared(first, second)["nvme"].agrees
    assert not compared(first, [second[0], write(0x20, 2)], rules)["nvme"].agrees
    differ = Differ(rules)
    assert differ.read(events(read(0xF0, 1, "hpet"), read(0xF0, 2, "hpet"))) == {}
    assert differ.passed == 2


@pytest.mark.parametrize(
    ("text", "region", "covered", "not_covered"),
    [
        ("nvme+0x28-0x37", "nvme", [0x28, 0x37], [0x27, 0x38]),
        ("nvme+0x1c", "nvme", [0x1C], [0x1B, 0x1D]),
        ("*.msix-table+0-0xb%0x10", "nvme.msix-table", [0, 0xB, 0x10, 0x1B], [0xC, 0xF, 0x1C]),
        ("nv*+8", "nvme", [8], [0]),
    ],
)
def test_a_rule_names_bytes(
    text: str, region: str, covered: list[int], not_covered: list[int]
) -> None:
    mask = parse_mask(text)
    assert all(mask.covers(region, offset) for offset in covered)
    assert not any(mask.covers(region, offset) for offset in not_covered)
    assert not mask.covers("ecam", covered[0])


@pytest.mark.parametrize("text", ["", "nvme", "nvme+", "nvme+x", "nvme+2-1", "nvme+0%0", "+1"])
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(
        UsageError, match=r"is no rule|is no offset|is no stride|ends before it begins"
    ):
        parse_mask(text)


def test_only_the_bytes_covered_are_masked() -> None:
    assert kept_bits((parse_mask("x+2-3"),), "x", 0, 8) == 0xFFFFFFFF_0000_FFFF
    assert kept_bits((), "x", 0, 2) == 0xFFFF
    assert kept_bits(VARYING + PASSING, "nvme", 0x14, 4) == 0xFFFFFFFF


@given(st.lists(st.integers(0, 5), max_size=40), st.lists(st.integers(0, 5), max_size=40))
def test_every_access_is_accounted_for(first: list[int], second: list[int]) -> None:
    # Writes, which are never taken together.
    result = compared(
        [write(4 * n, n) for n in first], [write(4 * n, n) for n in second], context=100
    ).get("nvme", RegionDiff("nvme"))
    assert result.same + result.changed + result.first == len(first)
    assert result.same + result.changed + result.second == len(second)
    assert result.agrees == (first == second)
    lines = [line for hunk in result.hunks for line in hunk]
    if lines:
        assert sorted(s.seq for line in lines if (s := line.first)) == list(range(len(first)))
        assert sorted(s.seq for line in lines if (s := line.second)) == list(range(len(second)))


def test_a_long_sequence_with_few_differences_is_aligned_exactly() -> None:
    chance = random.Random(1)
    first = [write(4 * chance.randrange(300), 0) for _ in range(20_000)]
    second = list(first)
    for place in (15_000, 9_000, 100):
        del second[place]
    result = compared(first, second)["nvme"]
    assert (result.changed, result.first, result.second) == (0, 3, 0)


# --- the command -----------------------------------------------------------------------------


def files(tmp_path: Path, *traces: list[MemoryAccess]) -> list[str]:
    paths = []
    for number, accesses in enumerate(traces):
        made: list[Record] = [sample.region("nvme"), *intercepts(*accesses)]
        made.append(sample.end(len(accesses)))
        paths.append(str(sample.write(tmp_path / f"{number}.vtrace", made)))
    return paths


def test_the_command_tells_that_nothing_differs(tmp_path: Path, capsys: Output) -> None:
    assert main.main(["diff", *files(tmp_path, LONG, LONG)]) == 0
    assert capsys.readouterr() == ("nvme: 20 alike\n", "")


def test_the_command_shows_what_differs(tmp_path: Path, capsys: Output) -> None:
    second = [*LONG[:1], write(0x1000, 99), *LONG[2:4]]
    assert main.main(["diff", *files(tmp_path, LONG[:4], second), "--context", "1"]) == 3
    out, _ = capsys.readouterr()
    assert out.splitlines() == [
        "nvme: 1 changed, 0 only in A, 0 only in B, 3 alike",
        "    W4  +0x1000 SQ0TDBL 0x00000000               nvme_pci_enable+0x5e #0",
        "  ~ W4  +0x1000 SQ0TDBL 0x00000001 → 0x00000063  nvme_pci_enable+0x5e #1 → #1",
        "    W4  +0x1000 SQ0TDBL 0x00000002               nvme_pci_enable+0x5e #2",
    ]


def test_inputs_are_told_by_their_numbers(tmp_path: Path, capsys: Output) -> None:
    cpuid = sample.cpuid(0x40000ABC, 1)
    first = [cpuid[1], sample.port(0x3FD, 1, "read", 0x60), sample.msr(0xFFF, "read", 1)]
    second = [msgspec.structs.replace(access, value=0x20) for access in first]
    paths = files(tmp_path, first, second)
    assert main.main(["diff", *paths]) == 3
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "~" in line]
    assert sorted(line[2] for line in lines) == ["+0x5", "0x40000abc.1", "0xfff"]
    assert ["~", "R4", "0x40000abc.1", "EBX"] in [line[:4] for line in lines]
    assert main.main(["diff", *paths, "--json"]) == 3
    told = json.loads(capsys.readouterr().out)["regions"]
    steps = {each["region"]: each["hunks"][0][0]["first"] for each in told}
    assert {region: step.get("space") for region, step in steps.items()} == {
        "cpuid": "cpuid", "serial": "port", "msr": "msr",
    }  # fmt: skip


def test_the_command_gives_json(tmp_path: Path, capsys: Output) -> None:
    assert main.main(["diff", *files(tmp_path, LONG, LONG[1:]), "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    (region,) = told["regions"]
    assert (told["agrees"], region["region"], region["first"], region["same"]) == (
        False, "nvme", 1, 19,
    )  # fmt: skip
    assert region["hunks"][0][0]["kind"] == "first"


def test_rules_and_filters_of_the_command_line_hold(tmp_path: Path, capsys: Output) -> None:
    paths = files(tmp_path, [write(0x14, 1), read(0, 1)], [write(0x14, 2), read(0, 1)])
    assert main.main(["diff", *paths]) == 3
    assert main.main(["diff", *paths, "--mask", "nvme+0x14"]) == 0
    assert main.main(["diff", *paths, "--ignore", "nvme+0x14"]) == 0
    assert main.main(["diff", *paths, "--read"]) == 0
    assert main.main(["diff", *paths, "--mask", "nvme+0x18"]) == 3


@pytest.mark.parametrize("option", ["--mask", "--ignore"])
@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ("nvmx+0x14", "is called nvmx; did you mean nvme?"),
        ("*.msix+0-0xb%0x10", "is called *.msix"),
        ("nvme+0x99999999", "ends at offset"),
    ],
)
def test_a_rule_for_what_no_trace_has_is_a_wrong_usage(
    tmp_path: Path, capsys: Output, option: str, rule: str, why: str
) -> None:
    path = str(sample.write(tmp_path / "run.vtrace"))
    assert main.main(["diff", path, path, option, "nvme+0x14", option, "nvm*+0x18"]) == 0
    assert main.main(["diff", path, path, option, rule]) == 2
    assert why in capsys.readouterr().err


def test_exact_drops_the_rules_that_are_built_in(tmp_path: Path, capsys: Output) -> None:
    paths = files(tmp_path, [write(0x28, 1)], [write(0x28, 2)])
    assert main.main(["diff", *paths]) == 0
    assert main.main(["diff", *paths, "--exact"]) == 3


def test_hunks_beyond_the_limit_are_counted(tmp_path: Path, capsys: Output) -> None:
    second = [write(0x1000, n if n % 10 else 99) for n in range(20)]
    arguments = ["diff", *files(tmp_path, LONG, second), "--limit", "1"]
    assert main.main(arguments) == 3
    assert "  ⋯ 1 more places: --limit 0 shows all" in capsys.readouterr().out


def test_a_comparison_of_nothing_does_not_agree(tmp_path: Path, capsys: Output) -> None:
    assert main.main(["diff", *files(tmp_path, [], [])]) == 3
    assert "nothing was compared" in capsys.readouterr().err
    paths = files(tmp_path, LONG, LONG)
    assert main.main(["diff", *paths, "--region", "nvm"]) == 2
    assert "no region" in capsys.readouterr().err
    assert main.main(["diff", *paths, "--context", "-1"]) == 2
    assert main.main(["diff", *paths, "--mask", "nvme"]) == 2


def test_the_help_has_a_rule_as_it_is_typed(capsys: Output) -> None:
    assert main.main(["diff", "--help"]) == 0
    out = capsys.readouterr().out
    assert "REGION+FIRST[-LAST][%STRIDE]" in out and "%%" not in out
