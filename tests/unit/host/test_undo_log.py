"""An account of changes that outlives who made them."""

from __future__ import annotations

import os

import pytest

from tracer.errors import TracerError
from tracer.host.undo_log import Change, UndoLog


def test_changes_are_undone_the_latest_first() -> None:
    log = UndoLog()
    assert list(log.changes()) == []
    log.note(1, 0x1000, b"first")
    log.note(2, (1 << 64) - 1, b"")
    log.note(1, 0x1000, b"second")
    assert list(log.changes()) == [
        Change(1, 0x1000, b"second"), Change(2, (1 << 64) - 1, b""), Change(1, 0x1000, b"first")
    ]  # fmt: skip


def test_another_process_finds_them_and_that_they_are_done_with() -> None:
    log = UndoLog()
    log.note(1, 1, b"a")
    if not (child := os.fork()):
        log.note(1, 2, b"b")
        log.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert [each.address for each in log.changes()] == [2, 1] and log.closed
    log.note(1, 3, b"c")
    assert len(list(log.changes())) == 2


def test_what_has_no_room_is_not_changed() -> None:
    log = UndoLog(64)
    log.note(1, 1, bytes(30))
    with pytest.raises(TracerError, match="more is changed in the guest than could be undone"):
        log.note(1, 2, bytes(30))
    assert [each.address for each in log.changes()] == [1]
