"""The cache folder: what is worth keeping between runs, and can be made again."""

from __future__ import annotations

import os
from pathlib import Path

from tracer.errors import TracerError


def cache_folder() -> Path:
    """Return the cache folder, which need not exist yet.

    It is ``$VETRACE_CACHE``, else ``$XDG_CACHE_HOME/vetrace``, else ``~/.cache/vetrace``
    (XDG Base Directory Specification: a relative ``$XDG_CACHE_HOME`` is ignored). Raises
    TracerError where that is needed and there is none.
    """
    own = os.environ.get("VETRACE_CACHE")
    if own:
        return Path(own).absolute()
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(xdg) if xdg.startswith("/") else Path.home() / ".cache"
    except RuntimeError:  # a user without a home, as in a container
        raise TracerError(
            "there is no home folder for the cache: name one with VETRACE_CACHE"
        ) from None
    return base / "vetrace"
