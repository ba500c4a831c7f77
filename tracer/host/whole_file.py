"""A file that readers see whole, or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tracer.errors import TracerError
from tracer.text.file_error import unwritten

_PREFIX = ".vetrace-"  # with the file's own name a long one would have no room


@contextmanager
def new_file(
    path: Path, advice: str | None = "name another cache folder with VETRACE_CACHE"
) -> Iterator[Path]:
    """Give a temporary name beside ``path`` that becomes ``path`` when the block ends well.

    Of two writers the last wins. Raises TracerError when the file cannot be written; it ends in
    ``advice``, or without one in what helps against the error.
    """
    draft: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=_PREFIX, dir=path.parent)
        os.close(descriptor)
        draft = Path(name)
        yield draft
        # Without this the name may reach the disk before the content, and a host that loses
        # its power then finds an empty file.
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        draft.chmod(0o666 & ~mask)
        draft.replace(path)
    except OSError as error:
        raise TracerError(unwritten(str(path), error, advice)) from error
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)
