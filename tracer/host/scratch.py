"""A private folder for the files of one run, gone with it even when the run was killed.

A run holds a lock on its folder. What no run holds was left by one that had no time to clean up,
and the next run removes it.

Ref: flock(2); unix(7) for the length of a socket's path (108 bytes with the final NUL).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tracer.errors import TracerError

_PREFIX = "vetrace-"
_LONGEST = 80
"""Bytes of a base folder's name that leave room for a socket in a folder in it."""


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder that only this user can enter, and remove it behind the block.

    It is in ``$TMPDIR`` where QEMU can take that: a comma would end an option's value, and a socket
    has room for a short path only. Else it is in ``/tmp``. Raises TracerError when it cannot be
    made.
    """
    base = Path("the folder for temporary files")
    try:
        base = _base()
        _remove_leftovers(base)
        folder, lock = _locked_folder(base)
    except OSError as error:
        raise TracerError(
            f"cannot make a folder in {base}: {error.strerror}; name another place with TMPDIR"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _base() -> Path:
    base = tempfile.gettempdir()
    return Path("/tmp") if "," in base or len(os.fsencode(base)) > _LONGEST else Path(base)


def _locked_folder(base: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        lock = _lock(folder)
        if lock is not None and folder.exists():
            return folder, lock
        # Another run took it for a leftover in the moment before it was locked.
        if lock is not None:
            os.close(lock)


def _remove_leftovers(base: Path) -> None:
    with contextlib.suppress(OSError):
        for folder in base.glob(f"{_PREFIX}*"):
            if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.geteuid():
                continue
            lock = _lock(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _lock(folder: Path) -> int | None:
    # Returns the descriptor that holds the folder's lock, or None when another run does.
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
