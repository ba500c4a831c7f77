"""Texts that somebody else wrote, out of their bytes."""

from __future__ import annotations

from tracer.errors import UsageError


def decoded(data: bytes, source: str) -> str:
    """Return the text of a file without its byte-order mark. Raises UsageError, naming ``source``.

    The error tells the offset in the file, in bytes, of the first that is no UTF-8.
    """
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise not_text(error, source) from None


def not_text(error: UnicodeDecodeError, source: str) -> UsageError:
    """Return what tells a person where a file is no UTF-8: for who cannot decode it by itself."""
    byte = error.object[error.start]
    return UsageError(
        f"{source} is no UTF-8 text: byte {error.start} is {byte:#x}; save it as UTF-8"
    )
