"""vetrace from Python, on real guests: the page of it as it stands, and what ends early."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from vetrace_run import read_trace

from tracer.api import boot, open_trace
from tracer.errors import GuestHung
from tracer.linux.kernel import default_kernel, open_kernel
from tracer.trace.record import UserRecord

pytestmark = pytest.mark.qemu

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "python.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def test_the_page_works_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("polars")
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    for block in BLOCK.findall(PAGE.read_text()):
        exec(compile(block, str(PAGE), "exec"), space)
    guest, trace, told = space["guest"], space["trace"], space["told"]
    assert guest.outcome == "poweroff" and trace.header.kernel in capsys.readouterr().out
    # Queues of 16 entries: the doorbell goes up to 15, and wraps.
    values = [access.value for access in space["entries"]]
    assert max(values) == 15 and 0 in values
    assert {(access.offset, access.direction, access.value & 0xFFFF) for access in told} == {
        (0, "read", 15)
    }
    assert all(access.device_value & 0xFFFF != 15 for access in told)
    # Who was told of accesses, the counts, the file and the table agree.
    accesses = list(trace)
    assert len(space["frame"]) == len(accesses) == guest.summary["accesses"]
    doorbells = trace.where(offset="0x1000-0x1fff", region="nvme", write=True)
    named = [access.register for access in doorbells if access.region == "nvme"]
    assert space["rung"] == {name: named.count(name) for name in set(named)} != {}
    done = [record for record in trace.records() if isinstance(record, UserRecord)]
    assert len(done) == len(told) > 0


def test_the_example_of_the_readme_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("polars")
    monkeypatch.chdir(tmp_path)
    (block,) = BLOCK.findall((PAGE.parents[2] / "README.md").read_text())
    space: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), space)
    assert space["guest"].outcome == "poweroff"
    # The loop ends with the guest: the driver serves a controller of version 1.0, too.
    skipped = [access for access in open_trace("run.vtrace.zst") if access.skipped]
    assert {(access.register, access.value) for access in skipped} == {("VS", 0x10000)}
    assert len(space["frame"]) > 0


def test_a_block_that_is_left_ends_its_guest_and_keeps_its_trace(tmp_path: Path) -> None:
    path, chunks = tmp_path / "run.vtrace.zst", []
    with (
        pytest.raises(KeyError, match="mine"),
        boot(region="hpet", output=path, stacks=True, console=chunks.append) as guest,
    ):
        first = next(guest.at("read hpet"))
        assert (first.region, first.direction, first.value) == ("hpet", "read", None)
        guest.skip(0x1234)
        raise KeyError("mine")
    assert (guest.state, guest.outcome) == ("ended", "interrupted")
    trace = read_trace(path)
    assert (trace.end.outcome, trace.damage) == ("interrupted", None)
    (made,) = [access for access in open_trace(path) if access.seq == first.seq]
    assert (made.value, made.skipped, made.rip) == (0x1234, True, first.rip)
    assert made.stack is not None and made.stack[0] == made.symbol and len(made.stack) > 1
    assert b"Linux version" in b"".join(chunks)


def test_what_listens_and_fails_is_told_of_and_the_guest_goes_on() -> None:
    heard: list[object] = []

    def fails(told: object) -> None:
        heard.append(told)
        raise KeyError("mine")

    with boot(region="hpet", console=fails) as guest:
        with pytest.raises(KeyError, match="mine"):
            guest.finish()
        guest.finish()
    assert (guest.outcome, len(heard)) == ("poweroff", 1)


def test_a_guest_whose_time_is_over_is_told_of(tmp_path: Path) -> None:
    told: list[str] = []
    with (
        pytest.raises(GuestHung, match="of its own time"),
        boot(region="hpet", guest_timeout=0.4, progress=told.append) as guest,
    ):
        guest.finish()
    assert any(line.startswith("vcpu0 is in ") for line in told), told


def test_a_guest_whose_accesses_all_take_a_stop(tmp_path: Path) -> None:
    path = tmp_path / "run.vtrace.zst"
    with boot(region="virtio-blk.common", every_stop=True, output=path) as guest:
        guest.finish()
    assert {access.via for access in open_trace(path)} == {"emulated"}
    # A kernel of which nobody knows by what it maps devices is traced all the same.
    told: list[str] = []
    symbols = without_mappings(tmp_path)
    with boot(
        region="virtio-blk.common", ring=4, output=path, symbols=symbols, progress=told.append
    ) as guest:
        guest.finish()
    assert any("no symbol ioremap_page_range" in line and "--trap nested" in line for line in told)
    assert {access.via for access in open_trace(path)} == {"emulated", "compiled"}


def without_mappings(folder: Path) -> Path:
    """Write the default kernel's symbols, but for the functions that map devices."""
    kernel = default_kernel()
    assert kernel is not None
    table = open_kernel(kernel).symbols
    lines = [
        f"{address:016x} t {symbol.name}\n"
        for address, symbol in zip(table.addresses, table.symbols, strict=False)
        if symbol.name not in ("ioremap_page_range", "set_pte_vaddr")
    ]
    (folder / "System.map").write_text("".join(lines))
    return folder / "System.map"
