"""QEMU's log, followed for changes of its memory map."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tracer.errors import QemuError
from tracer.qemu.log import QemuLog

CHANGE = b"flatview_new 0x5555fff66ff0 (root 0x5555ffd34960)\n"
OTHER = b"memory_region_ops_read cpu 0 mr 0x1 addr 0x2 value 0x3 size 4 name 'hpet'\n"


@pytest.fixture(params=["in memory", "file"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> QemuLog:
    log = QemuLog(tmp_path / "log" if request.param == "file" else None)
    request.addfinalizer(log.close)
    return log


def test_changes_are_told_once(log: QemuLog) -> None:
    with Path(log.path).open("wb", buffering=0) as qemu:
        qemu.write(CHANGE * 3)
        assert log.map_changed()
        assert not log.map_changed()
        qemu.write(OTHER)
        assert not log.map_changed()
        qemu.write(OTHER + CHANGE)
        assert log.map_changed()
        assert not log.map_changed()


def test_the_last_reset_is_found_where_it_is(log: QemuLog) -> None:
    reset = b"CPU Reset (CPU 0)\n"
    with Path(log.path).open("wb", buffering=0) as qemu:
        qemu.write(CHANGE + reset + OTHER)
        log.map_changed()
        assert log.reset == len(CHANGE)
        qemu.write(OTHER + reset[:9])
        log.map_changed()
        assert log.reset == len(CHANGE)
        qemu.write(reset[9:] + b"CPU Reset (CPU 1)\n" + OTHER)
        log.map_changed()
        assert log.reset == len(CHANGE + reset + OTHER + OTHER)


def test_a_line_that_comes_in_parts(log: QemuLog) -> None:
    with Path(log.path).open("wb", buffering=0) as qemu:
        qemu.write(CHANGE)
        assert log.map_changed()
        qemu.write(CHANGE[:6])
        assert not log.map_changed()
        qemu.write(CHANGE[6:])
        assert log.map_changed()


def test_a_qemu_that_does_not_tell_is_asked_always(log: QemuLog) -> None:
    assert log.map_changed()
    with Path(log.path).open("wb", buffering=0) as qemu:
        qemu.write(OTHER)
        assert log.map_changed()
        assert log.map_changed()
        qemu.write(CHANGE)
        assert log.map_changed()
        assert not log.map_changed()


def test_a_file_that_cannot_be_followed() -> None:
    log = QemuLog(Path("/dev/null"))
    assert log.map_changed()
    assert log.map_changed()
    log.close()


def test_what_was_read_takes_no_memory() -> None:
    log = QemuLog(None)
    with Path(log.path).open("wb", buffering=0) as qemu:
        for _ in range(40):
            qemu.write(OTHER * 10_000 + CHANGE)
            assert log.map_changed()
        (descriptor,) = log.descriptors
        whole = os.fstat(descriptor)
        assert whole.st_size > 40 * 10_000 * len(OTHER)
        assert whole.st_blocks * 512 < 4 << 20
        qemu.write(CHANGE)
        assert log.map_changed()
    assert log.tail(len(CHANGE)) == CHANGE
    log.close()
    log.close()


AT_PORT = b"memory_region_ops_read cpu 0 mr 0x1 addr 0x608 value 0x3 size 4 name 'acpi-tmr'\n"
FAR = b"memory_region_ops_read cpu 0 mr 0x1 addr 0xfed000f0 value 0x3 size 4 name 'hpet'\n"
BELOW = b"memory_region_ops_write cpu 0 mr 0x1 addr 0x10 value 0x3 size 4 name 'hpet'\n"
RESET = b"CPU Reset (CPU 0)\n"


def test_what_is_left_out_is_not_kept_and_places_are_those_of_the_rest(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    log = QemuLog(None, kept=kept)
    with Path(log.path).open("wb", buffering=0) as qemu:
        qemu.write(AT_PORT + CHANGE)
        log.leave_out_ports({"hpet", "rtc"})
        qemu.write(AT_PORT * 5 + FAR + AT_PORT[:9])
        assert log.size == len(AT_PORT + CHANGE + FAR)
        assert log.map_changed() and not log.map_changed()
        qemu.write(AT_PORT[9:] + RESET + AT_PORT * 3 + CHANGE + FAR)
        assert log.map_changed()
        assert log.reset == len(AT_PORT + CHANGE + FAR)
        # A device's memory there, or told by an offset; one whose name only begins so.
        qemu.write(BELOW + AT_PORT.replace(b"acpi-tmr", b"hpet-io") + FAR[:-1])
        assert log.tail(len(BELOW)) == BELOW
    log.close()
    whole = AT_PORT + CHANGE + FAR + RESET + CHANGE + FAR + BELOW + FAR[:-1]
    assert kept.read_bytes() == whole


def test_no_more_is_taken_at_once_than_is_wanted(tmp_path: Path) -> None:
    log = QemuLog(None, kept=tmp_path / "kept")
    log.leave_out_ports(())
    with Path(log.path).open("wb", buffering=0) as qemu:
        qemu.write(AT_PORT * 40_000 + FAR)
        log.take(1)
        assert (tmp_path / "kept").stat().st_size == 0
        log.take()
        assert (tmp_path / "kept").read_bytes() == FAR
        blocks = Path(log.path).stat().st_blocks
        assert 512 * blocks < len(AT_PORT) * 40_000 // 2
    log.close()


def test_a_log_that_cannot_be_kept_is_told() -> None:
    log = QemuLog(None, kept=Path("/dev/full"))
    with Path(log.path).open("wb", buffering=0) as qemu:
        qemu.write(FAR)
        with pytest.raises(QemuError, match="cannot write /dev/full: No space left"):
            log.take()
