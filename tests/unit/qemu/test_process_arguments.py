"""tracer.qemu.process_arguments: what a QEMU was started with, from its words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tracer.errors import UsageError
from tracer.qemu.process_arguments import (
    counts_instructions,
    log_of,
    monitor_sockets,
    read_arguments,
)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("-qmp unix:/tmp/q,server=on,wait=off", "/tmp/q"),
        ("--qmp unix:q,server,nowait", "q"),
        ("-qmp-pretty unix:q", "q"),
        ("-qmp unix:a,,b,server=on", "a,b"),
        ("-chardev socket,id=m,path=/tmp/m,server=on -mon chardev=m,mode=control", "/tmp/m"),
        ("-chardev socket,path=m,id=m -mon m,mode=control", "m"),
        ("-chardev socket,path=m,id=m -qmp chardev:m", "m"),
        ("-qmp tcp:localhost:4444,server -qmp unix:second", "second"),
        ("-qmp unix:first -qmp stdio -qmp unix:/tmp/second", "first /tmp/second"),
        ("-qmp stdio", None),
        ("-monitor unix:/tmp/for-people", None),
        ("-chardev socket,path=m,id=m -mon chardev=m,mode=readline", None),
        ("-chardev socket,path=m,id=m -mon chardev=m", None),
        ("-chardev socket,path=m -mon chardev=m,mode=control", None),
        ("-chardev pipe,id=m,path=/tmp/m -mon chardev=m,mode=control", None),
        ("-qmp", None),
        ("", None),
    ],
)
def test_the_sockets_of_the_monitors(words: str, found: str | None) -> None:
    expected = [] if found is None else [Path(path) for path in found.split(" ")]
    assert monitor_sockets(words.split(" ")) == expected


def test_clock_and_log() -> None:
    assert counts_instructions(["-icount", "shift=auto"])
    assert not counts_instructions(["-append", "icount"])
    assert log_of(["-D", "/tmp/log", "-d", "int,cpu"]) == ("/tmp/log", "int,cpu")
    assert log_of(["-m", "1G"]) == ("", "none")


def test_a_process_and_none() -> None:
    assert read_arguments(os.getpid())
    with pytest.raises(UsageError, match="there is no process 4194999"):
        read_arguments(4194999)
