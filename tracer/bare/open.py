"""The image of a bare guest as a file, and as one for QEMU: the one module here that does I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from tracer.bare.guidance import Guidance
from tracer.bare.image import is_bare, parse, why_not_entered
from tracer.bare.multiboot import narrowed
from tracer.bare.system import Bare
from tracer.errors import KernelImageError
from tracer.text.file_error import unread

MAX_IMAGE = 1 << 30
_NO_GUIDANCE = Guidance()


def open_bare(
    path: Path, symbol_file: Path | None = None, guidance: Guidance = _NO_GUIDANCE
) -> Bare | None:
    """Return the guest in a file, or None where that is no image of a bare one.

    Raises KernelImageError, naming the file, for one that is damaged, and UsageError for guidance
    that does not fit it.
    """
    try:
        if not path.is_file() or path.stat().st_size > MAX_IMAGE:
            return None
        image = path.read_bytes()
    except OSError:
        return None  # whoever takes it for another kind of image says what is wrong
    try:
        why = why_not_entered(image)
        if why is not None:
            raise KernelImageError(why)
        if not is_bare(image):
            return None
        digest = hashlib.sha256(image).hexdigest()
        return Bare(parse(image, _symbols(symbol_file)), path.name, digest, guidance)
    except KernelImageError as error:
        raise KernelImageError(f"{path}: {error}") from error


def file_for_qemu(path: Path, folder: Callable[[], Path]) -> Path:
    """Return the file that QEMU starts an image by: its own, or one that is made in a folder.

    Raises KernelImageError, naming the image, where there can be none.
    """
    try:
        narrow = narrowed(path.read_bytes())
    except OSError as error:
        raise KernelImageError(unread(str(path), error)) from error
    except KernelImageError as error:
        raise KernelImageError(f"{path}: {error}") from error
    if narrow is None:
        return path
    made = folder() / path.name
    made.write_bytes(narrow)
    return made


def _symbols(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise KernelImageError(unread(f"its symbols in {path}", error)) from error
