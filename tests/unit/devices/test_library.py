"""The maps that come with vetrace are read when a region comes that they are for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trace_sample as sample

from tracer.cli import main
from tracer.devices import file, library
from tracer.devices.map import RegisterMap
from tracer.trace.naming import Naming
from tracer.trace.record import RegionInfo, RegionRecord

Output = pytest.CaptureFixture[str]
FOLDER = Path(library.__file__).parent / "maps"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the maps that are read whole, in the order in which they are."""
    found: list[str] = []

    def parse(text: str, source: str, name: str) -> RegisterMap:
        found.append(name)
        return file.parse(text, source, name)

    library.built_in.cache_clear()
    monkeypatch.setattr(library, "parse", parse)
    yield found
    library.built_in.cache_clear()


def announced(name: str, qemu: str) -> RegionRecord:
    """Announce a region of a page at physical 0."""
    info = RegionInfo(name=name, start=0x0, end=0xFFF, qemu_name=qemu, device=name, traced=True)
    return RegionRecord(time_ns=0, region=info)


def test_no_map_is_read_before_a_region_comes(parsed: list[str]) -> None:
    maps = library.load()
    assert maps.of_region("no such region") is None
    assert parsed == []


def test_a_map_is_read_once(parsed: list[str]) -> None:
    found = library.load().of_region("nvme")
    assert library.load().of_region("nvme#2") is found is not None
    assert parsed == ["nvme"]


def test_a_region_that_is_announced_and_not_accessed_needs_no_map(parsed: list[str]) -> None:
    naming = Naming(library.load())
    for name, qemu in (("hpet", "hpet"), ("disk", "nvme"), ("lapic", "apic-msi")):
        naming.learn(announced(name, qemu))
    assert parsed == []
    named = naming.name("disk", 0x14, 4)
    assert named is not None and named.text == "CC"
    assert parsed == ["nvme"]


def test_what_qemu_calls_a_region_may_come_later(parsed: list[str]) -> None:
    naming = Naming(library.load())
    assert naming.name("disk", 0x14, 4) is None
    naming.learn(announced("disk", "nvme"))
    named = naming.name("disk", 0x14, 4)
    assert named is not None and named.text == "CC"


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        (["show"], ["nvme", "msix-table", "hpet", "lapic"]),
        (["show", "--register", "CC", "--limit", "1"], ["nvme"]),
        (["show", "--register", "CC", "--json"], ["nvme"]),
        (["stats", "--register", "CC"], ["nvme"]),
        (["show", "--region", "nvme"], ["nvme", "msix-table"]),
    ],
)
def test_a_command_reads_the_maps_of_what_is_accessed(
    tmp_path: Path, capsys: Output, parsed: list[str], arguments: list[str], read: list[str]
) -> None:
    records = sample.RECORDS
    if "--register" in arguments:  # the other regions are announced, and not accessed
        records = [
            record
            for record in records
            if not hasattr(record, "accesses") or record.accesses[0].region == "nvme"
        ]
        records.insert(0, sample.region("hpet"))  # the first that could be asked for the name
    path = sample.write(tmp_path / "run.vtrace", records)
    assert main.main([arguments[0], str(path), *arguments[1:]]) == 0
    assert "CC" in capsys.readouterr().out
    assert parsed == read


def test_a_register_that_is_looked_up_in_a_region_needs_one_map(
    capsys: Output, parsed: list[str]
) -> None:
    assert main.main(["registers", "nvme.CC"]) == 0
    assert parsed == ["nvme"]
    assert main.main(["registers", "CC"]) == 0
    assert capsys.readouterr().out.count("Controller Configuration") == 2
    assert len(parsed) == len(set(parsed)) == len(list(FOLDER.glob("*.toml")))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_the_head_of_a_file_tells_which_regions_it_is_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    whole = file.parse(text, path.name, path.stem)
    assert file.parse_applies(text, path.name) == whole.applies != ()
