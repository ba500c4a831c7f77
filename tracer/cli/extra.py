"""Extras of the distribution: packages that may not be installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tracer.errors import UsageError


@contextmanager
def extra(package: str, name: str = "export", what: str = "this format") -> Iterator[None]:
    """Raise UsageError where what is imported needs a package that is not installed.

    ``name`` is that of the extra that has it, ``what`` needs it.
    """
    try:
        yield
    except ImportError as error:
        raise UsageError(
            f"{what} needs {package}, which is not installed: pip install 'vetrace[{name}]'"
        ) from error
