"""Value Change Dumps: what a reader of waveforms finds in them."""

from __future__ import annotations

import io
import signal
from pathlib import Path

import pytest
import trace_sample as sample
from msgspec.structs import replace

from tracer.cli import main
from tracer.trace.record import Record

_PIPES = signal.getsignal(signal.SIGPIPE)
vcdvcd = pytest.importorskip("vcdvcd")
signal.signal(signal.SIGPIPE, _PIPES)  # it has a broken pipe end whoever imports it
Output = pytest.CaptureFixture[str]

BEGUN = 214_318_000  # of the sample's times in nanoseconds


def waves(tmp_path: Path, records: list[Record] = sample.RECORDS, *more: str) -> dict[str, object]:
    """Return the changes of each signal, as a reader of the file finds them."""
    trace, made = tmp_path / "run.vtrace", tmp_path / "run.vcd"
    sample.write(trace, records)
    assert main.main(["export", str(trace), "--format", "vcd", "-o", str(made), *more]) == 0
    read = vcdvcd.VCDVCD(str(made))
    assert (read.timescale["magnitude"], read.timescale["unit"]) == (1, "ns")
    return {name.partition("[")[0]: read[name].tv for name in read.signals}


def at(number: int) -> int:
    return BEGUN + number


def test_a_register_is_a_vector_and_its_fields_are_beside_it(tmp_path: Path) -> None:
    found = waves(tmp_path)
    assert found["nvme.CC"] == [(0, "x"), (at(1), bin(0x460001)[2:])]
    assert found["nvme.CC_bits.EN"] == [(0, "x"), (at(1), "1")]
    assert found["nvme.CC_bits.IOSQES"] == [(0, "x"), (at(1), "110")]
    assert found["hpet.MAIN_CNT"] == [(0, "x"), (at(3), bin(0x1234_5678_9ABC_DEF0)[2:])]
    assert found["nvme.msix_table.ENTRY_0_ADDR"] == [(0, "x"), (at(2), "111")]
    assert "lapic.ID" in found


def test_an_interrupt_is_a_point_in_time_each_time_that_it_comes(tmp_path: Path) -> None:
    records: list[Record] = []
    for number, vector in enumerate([0x23, 0x23, 0x31, 0x23]):
        access = sample.device("nvme", vector, 1, "read", vector)
        access = replace(access, region="irq", space="irq")
        records.append(sample.intercept(number, access))
    found = waves(tmp_path, [*records, sample.end(4)])
    times = sorted([time for time, _ in changes] for changes in found.values())
    assert times == [[at(0), at(1), at(3)], [at(2)]]
    assert (tmp_path / "run.vcd").read_text().count("$var event 1 ") == 2


def test_values_change_and_become_unknown(tmp_path: Path) -> None:
    records: list[Record] = [sample.region("nvme")]
    for number, value in enumerate([1, 1, 0, None, 3]):
        access = sample.device("nvme", 0x1C, 4, "read", value)
        records.append(sample.intercept(number, access))
    found = waves(tmp_path, [*records, sample.end(5)])
    assert found["nvme.CSTS"] == [
        (0, "x"), (at(0), "1"), (at(2), "0"), (at(3), "x"), (at(4), "11"),
    ]  # fmt: skip
    assert found["nvme.CSTS_bits.RDY"] == [
        (0, "x"), (at(0), "1"), (at(2), "0"), (at(3), "x"), (at(4), "1"),
    ]  # fmt: skip


def test_each_width_is_a_vector_of_its_own(tmp_path: Path) -> None:
    records: list[Record] = [
        sample.region("nvme"),
        sample.intercept(0, sample.device("nvme", 0x14, 4, "write", 0x1FF)),
        sample.intercept(1, sample.device("nvme", 0x14, 1, "write", 2)),
        sample.intercept(2, sample.device("nvme", 0x1800, 4, "write", 5)),
        sample.end(3),
    ]
    found = waves(tmp_path, records)
    assert found["nvme.CC"] == [(0, "x"), (at(0), "111111111")]
    assert found["nvme.CC_8"] == [(0, "x"), (at(1), "10")]


def test_time_does_not_go_back_and_inputs_are_there(tmp_path: Path) -> None:
    late = sample.intercept(0, sample.device("nvme", 0x1C, 4, "read", 1))
    records: list[Record] = [
        sample.region("nvme"), sample.ports("serial"), replace(late, time_ns=900),
        replace(sample.inputs(1, sample.port(0x3FD, 1, "read", 0x60)), time_ns=800),
        replace(sample.inputs(2, *sample.cpuid(7, 1), text="cpuid"), time_ns=1000),
        sample.end(6),
    ]  # fmt: skip
    found = waves(tmp_path, records)
    assert found["nvme.CSTS"] == [(0, "x"), (900, "1")]
    assert found["serial.LSR"] == [(0, "x"), (900, "1100000")]
    assert sum(name.startswith("cpuid.") and "_bits" not in name for name in found) == 4


def test_what_has_no_width_is_left_out(tmp_path: Path, capsys: Output) -> None:
    hidden = replace(sample.device("nvme", 0x1C, 4, "read", None), width=0, direction="unknown")
    records: list[Record] = [
        sample.region("nvme"), sample.intercept(0, hidden, via="stepped"), sample.end(1),
    ]  # fmt: skip
    waves(tmp_path, records)
    told = capsys.readouterr().err
    assert "0 accesses written" in told and "1 access left out: vcd has no place" in told


def test_a_trace_that_can_be_read_once_is_refused(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = sample.write(tmp_path / "run.vtrace").read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(data))))
    made = tmp_path / "run.vcd"
    assert main.main(["export", "-", "--format", "vcd", "-o", str(made)]) == 2
    assert "can be read twice" in capsys.readouterr().err and not made.exists()
