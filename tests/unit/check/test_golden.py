"""Goldens: what they keep of a trace, when they are written, what they catch; our own replay."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
import replay_sample
import trace_sample as sample
from full_disk import room_for

from tracer.check import golden
from tracer.check.golden import GoldenMismatch, Recording, assert_matches_trace, excerpt
from tracer.check.replay import Replay
from tracer.errors import TraceError, TracerError, UsageError
from tracer.trace.reader import TraceReader
from tracer.trace.record import End, Intercept, MapRecord, Mark, Record, RegionRecord

OWN = sorted((Path(__file__).parents[2] / "golden").glob("*/*.vtrace.zst"))


def other(records: list[Record], number: int, value: int) -> list[Record]:
    """Return the records with another value in the first access of one of them."""
    record = records[number]
    assert isinstance(record, Intercept)
    accesses = [msgspec.structs.replace(record.accesses[0], value=value), *record.accesses[1:]]
    changed = msgspec.structs.replace(record, accesses=accesses)
    return [*records[:number], changed, *records[number + 1 :]]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return sample.write(tmp_path / "trace.vtrace")


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """A trace whose write of the controller's configuration is another."""
    return sample.write(tmp_path / "changed.vtrace", other(sample.RECORDS, 7, 0x460000))


# ---- our own


@pytest.mark.parametrize("path", OWN, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_our_own_goldens_replay(path: Path) -> None:
    replay = Replay()
    with TraceReader(path) as reader:
        assert [found for record in reader if (found := replay.add(record))] == []
    assert reader.damage is None
    assert replay.counts.replayed > 0
    assert replay.counts.incomplete == replay.counts.stepped == 0


def test_there_are_goldens_of_our_own() -> None:
    assert {path.name.partition(".")[0] for path in OWN} >= {"nvme", "hpet", "ioapic"}


@pytest.mark.parametrize("path", OWN, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_our_own_goldens_are_small_and_of_no_machine(path: Path) -> None:
    recording = Recording(path)
    assert path.stat().st_size < 30_000
    assert recording.kernel == path.parent.name
    assert not [word for word in recording.header.qemu_args if re.search(r"(^|=)/", word)]


# ---- what a golden keeps


def test_a_golden_keeps_whole_instructions_of_its_region() -> None:
    kept = list(excerpt(sample.RECORDS, "nvme.msix-table"))
    assert [type(record) for record in kept] == [RegionRecord] * 4 + [Mark, Intercept, End]
    (intercept,) = [record for record in kept if isinstance(record, Intercept)]
    assert intercept.seq == 0
    assert len(intercept.accesses) == 2
    assert isinstance(kept[-1], End)
    assert kept[-1].counts["accesses"] == kept[-1].counts["emulated"] == 1


def test_a_devices_name_has_all_its_regions() -> None:
    kept = list(excerpt(sample.RECORDS, "nvme"))
    assert [r.seq for r in kept if isinstance(r, Intercept)] == [0, 1, 2]
    assert any(isinstance(record, MapRecord) for record in kept)


def test_without_a_region_all_is_kept() -> None:
    assert sum(isinstance(r, Intercept) for r in excerpt(sample.RECORDS)) == 5


def test_a_golden_replays(tmp_path: Path) -> None:
    start, *intercepts = replay_sample.records()
    hpet = sample.intercept(len(start.accesses), sample.device("hpet", 0, 4, "read", 1))
    later = [msgspec.structs.replace(record, seq=record.seq + 1) for record in intercepts]
    records = [sample.region("nvme"), start, hpet, *later, sample.end(99)]
    path = sample.write(tmp_path / "trace.vtrace", records)
    assert_matches_trace(path, tmp_path / "golden.vtrace.zst", region="nvme", record=True)
    replay = Replay()
    kept = Recording(tmp_path / "golden.vtrace.zst").records()
    assert [found for record in kept if (found := replay.add(record))] == []
    assert replay.counts.replayed == len(replay_sample.CODES)


def test_folders_of_the_machine_are_left_out() -> None:
    words = [
        "-kernel",
        "/srv/boot/vmlinuz",
        "-drive",
        "if=none,file=/var/a,,b/nvme.raw,id=/a",
        "-m",
    ]
    header = golden.golden_header(msgspec.structs.replace(sample.HEADER, qemu_args=words))
    assert header.qemu_args == ["-kernel", "vmlinuz", "-drive", "if=none,file=nvme.raw,id=a", "-m"]


# ---- recording


@pytest.mark.parametrize("name", ["a.vtrace", "new/folder/a.vtrace.zst"])
def test_what_was_recorded_matches(name: str, trace: Path, tmp_path: Path) -> None:
    path = tmp_path / name
    assert assert_matches_trace(trace, path, region="nvme", record=True)
    assert not assert_matches_trace(trace, path, region="nvme")
    assert [entry.name for entry in path.parent.iterdir() if entry.name.startswith(".")] == []


def test_a_golden_that_matches_is_left_as_it_is(trace: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.vtrace"
    assert_matches_trace(trace, path, record=True)
    before = path.stat().st_ino
    assert not assert_matches_trace(trace, path, record=True)
    assert path.stat().st_ino == before


def test_one_that_does_not_match_is_replaced(trace: Path, changed: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.vtrace"
    assert_matches_trace(trace, path, record=True)
    assert assert_matches_trace(changed, path, record=True)
    assert_matches_trace(changed, path)


@pytest.mark.parametrize("content", [b"", b"no trace\n", b"\x28\xb5\x2f\xfd"])
def test_one_that_cannot_be_read_is_replaced(content: bytes, trace: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.vtrace"
    path.write_bytes(content)
    with pytest.raises(TraceError):
        assert_matches_trace(trace, path)
    assert assert_matches_trace(trace, path, record=True)
    assert_matches_trace(trace, path)


def test_a_trace_that_was_cut_makes_no_golden(tmp_path: Path) -> None:
    cut = sample.write(tmp_path / "cut.vtrace", sample.RECORDS[:-1])
    path = tmp_path / "a.vtrace"
    with pytest.raises(TraceError, match="no end record"):
        assert_matches_trace(cut, path, record=True)
    assert not path.exists()


def test_a_region_without_accesses_makes_no_golden(trace: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.vtrace"
    with pytest.raises(TraceError, match=r"an access to nvm .*hpet, lapic, nvme, nvme.msix-table"):
        assert_matches_trace(trace, path, region="nvm", record=True)
    assert not path.exists()


def test_a_failed_write_leaves_the_old_golden(
    trace: Path, changed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "golden" / "a.vtrace"
    assert_matches_trace(trace, path, record=True)

    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(TracerError, match="No space left on device; make room there"):
        assert_matches_trace(changed, path, record=True)
    assert [entry.name for entry in path.parent.iterdir()] == ["a.vtrace"]
    assert_matches_trace(trace, path)


# ---- comparing


@pytest.mark.parametrize("name", ["nof/", ""])
def test_a_golden_has_the_name_of_a_file(trace: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        Recording(trace, tmp_path, record=True).assert_matches_trace(name)
    assert list(tmp_path.iterdir()) == [trace]


def test_an_error_of_a_golden_ends_in_the_test(trace: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a.vtrace"
    folder.mkdir()
    with pytest.raises(TraceError, match="Is a directory; name a file in it") as caught:
        assert_matches_trace(trace, folder, record=True)
    assert caught.value.__suppress_context__ and caught.value.__cause__ is None
    with room_for(100), pytest.raises(TraceError, match="File too large") as caught:
        assert_matches_trace(trace, tmp_path / "b.vtrace", record=True)
    assert caught.value.__suppress_context__
    assert sorted(tmp_path.iterdir()) == sorted([trace, folder])


def test_nothing_matches_nothing(trace: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.vtrace"
    assert_matches_trace(trace, path, record=True)
    with pytest.raises(TraceError, match=r"a\.vtrace has not an access to ecam"):
        assert_matches_trace(trace, path, region="ecam")


def test_a_difference_is_shown(trace: Path, changed: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.vtrace"
    assert_matches_trace(trace, path, record=True)
    with pytest.raises(GoldenMismatch) as raised:
        assert_matches_trace(changed, path, region="nvme")
    title, counts, *lines = str(raised.value).splitlines()
    assert title == f"{changed} does not match the golden {path}"
    assert counts == "nvme: 1 changed, 0 only in the golden, 0 only in this trace, 1 alike"
    *_, change, fields = lines
    assert re.fullmatch(r"  ~ W4  \+0x14 CC +0x00460001 → 0x00460000 +nvme_enable.*", change)
    assert fields.strip() == "EN 1→0"


def test_another_kernel_is_told_with_the_difference(trace: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.vtrace"
    assert_matches_trace(trace, path, record=True)
    path.write_bytes(path.read_bytes().replace(b'"vmlinuz"', b'"6.1.0"').replace(b"460001", b"46"))
    with pytest.raises(GoldenMismatch, match=r"\nkernel: 6\.1\.0 → vmlinuz\n"):
        assert_matches_trace(trace, path)


def test_a_difference_in_another_region_does_not_count(
    trace: Path, changed: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.vtrace"
    assert_matches_trace(trace, path, record=True)
    assert_matches_trace(changed, path, region="lapic")


@pytest.mark.parametrize("rule", [{"mask": ["nvme+0x14"]}, {"ignore": ["nvme+0x14"]}])
def test_rules_leave_out(
    rule: dict[str, list[str]], trace: Path, changed: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.vtrace"
    assert_matches_trace(trace, path, record=True)
    assert_matches_trace(changed, path, **rule)  # type: ignore[arg-type]


def test_exact_drops_the_rules_that_are_built_in(trace: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.vtrace"
    assert_matches_trace(trace, path, record=True)
    clock = sample.write(tmp_path / "clock.vtrace", other(sample.RECORDS, 9, 5))
    assert_matches_trace(clock, path)
    with pytest.raises(GoldenMismatch, match="hpet: 1 changed"):
        assert_matches_trace(clock, path, exact=True)


def test_a_golden_that_is_not_there_is_asked_for(trace: Path, tmp_path: Path) -> None:
    with pytest.raises(GoldenMismatch, match=r"no golden .*a\.vtrace: .*--vetrace-record"):
        assert_matches_trace(trace, tmp_path / "a.vtrace")


# ---- goldens of which one must match


def test_an_alternative_will_do(trace: Path, changed: Path, tmp_path: Path) -> None:
    one, other, none = (tmp_path / f"{name}.vtrace" for name in ("one", "other", "none"))
    assert_matches_trace(trace, one, record=True)
    assert_matches_trace(changed, other, record=True)
    for first in (one, none):
        assert_matches_trace(changed, first, region="nvme", alternatives=[one, other])
    with pytest.raises(GoldenMismatch) as caught:
        assert_matches_trace(changed, none, region="nvme", alternatives=[one])
    title, difference, *_ = str(caught.value).splitlines()
    assert title == f"{changed} does not match the golden {one}"
    assert difference.startswith("nvme: 1 changed")


def test_without_a_match_each_golden_is_named(trace: Path, changed: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.vtrace", tmp_path / "two.vtrace"
    for path in (one, two):
        assert_matches_trace(trace, path, record=True)
    with pytest.raises(GoldenMismatch) as caught:
        assert_matches_trace(changed, one, alternatives=[two])
    title, nor, difference, *_ = str(caught.value).splitlines()
    assert title == f"{changed} does not match the golden {one}"
    assert nor == f"nor {two}"
    assert difference.startswith("nvme: 1 changed")


def test_no_golden_is_recorded_where_an_alternative_matches(
    trace: Path, changed: Path, tmp_path: Path
) -> None:
    one, two = tmp_path / "one.vtrace", tmp_path / "two.vtrace"
    assert_matches_trace(trace, one, record=True)
    assert not assert_matches_trace(trace, two, alternatives=[one], record=True)
    assert not two.exists()
    assert assert_matches_trace(changed, two, alternatives=[one], record=True)
    assert_matches_trace(changed, two)


def test_arguments_of_another_kind_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "none.vtrace")
    with pytest.raises(UsageError, match=r"^golden is 5, and takes Path \| str$"):
        recording.assert_matches_trace(5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"^mask is 'nvme\+0x28', and takes Sequence\[str\]$"):
        recording.assert_matches_trace("golden.vtrace", mask="nvme+0x28")
