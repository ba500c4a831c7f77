"""A copy of this process that waits, and does what is left to do where the process is killed.

It is made by fork, so that it knows all that the process knew then, and is a session of its own, so
that what a terminal or a shell sends to the process does not reach it. It waits on a pipe for word
that all is well; where the pipe ends without it, it does its work.

Ref: fork(2), pipe(7), setsid(2).
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from collections.abc import Callable, Collection
from pathlib import Path

from tracer.host.streams import warn

_DONE = b"done"


class Guardian:
    """Own one such copy, from :meth:`begin` to :meth:`end`."""

    def __init__(self) -> None:
        self._pid = 0
        self._pipe = -1

    def begin(self, work: Callable[[], None], keep: Collection[int] = ()) -> None:
        """Have ``work`` done if this process is killed; one that waits already is let go.

        ``keep`` are the file descriptors that it takes; all others lead nowhere then.
        """
        self.end()
        waiting, pipe = os.pipe()
        pid = os.fork()
        if pid:
            os.close(waiting)
            self._pid, self._pipe = pid, pipe
            return
        try:
            _wait(waiting, {waiting, *keep})
            work()
        except BaseException as error:
            with contextlib.suppress(OSError):
                warn(f"after it was killed: {error}")
        finally:
            os._exit(0)

    def end(self) -> None:
        """Let the copy go, which has nothing to do; safe more than once."""
        if self._pid:
            with contextlib.suppress(OSError):
                os.write(self._pipe, _DONE)
            os.close(self._pipe)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
            self._pid = 0


def _wait(waiting: int, keep: Collection[int]) -> None:
    # Returns once there is work to do.
    os.setsid()
    for sent in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sent, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    # Objects of the process hold their numbers, and are not to close what gets one of them later.
    gc.disable()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  # numbers, none of which is a path
        number = int(name)
        if number not in {*keep, nowhere, 2} and Path(f"/proc/self/fd/{name}").exists():
            os.dup2(nowhere, number)
    word = b""
    while part := os.read(waiting, len(_DONE)):
        word += part
    if word == _DONE:
        os._exit(0)
