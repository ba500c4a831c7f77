"""Read the image of a bare guest from its file: the one module here that opens files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tracer.bare.image import is_bare, parse
from tracer.bare.system import Bare
from tracer.errors import KernelImageError

MAX_IMAGE = 1 << 30


def open_bare(path: Path, symbol_file: Path | None = None) -> Bare | None:
    """Return the guest in a file, or None where that is no image of a bare one.

    Raises KernelImageError, naming the file, for one that is damaged.
    """
    try:
        if not path.is_file() or path.stat().st_size > MAX_IMAGE:
            return None
        image = path.read_bytes()
        if not is_bare(image):
            return None
        symbols = None if symbol_file is None else symbol_file.read_bytes()
        return Bare(parse(image, symbols), path.name, hashlib.sha256(image).hexdigest())
    except OSError:
        return None  # whoever takes it for another kind of image says what is wrong
    except KernelImageError as error:
        raise KernelImageError(f"{path}: {error}") from error
