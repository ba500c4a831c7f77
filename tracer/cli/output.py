"""Where the output of a command goes: the file that a user names, or standard output."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from tracer.cli.parser import argument
from tracer.host.named_file import file_named, replacing
from tracer.host.textfile import STANDARD

output_file = argument(file_named)
"""The type of an argument that names a file to write."""


@contextmanager
def sink(name: str) -> Iterator[IO[bytes]]:
    """Yield what writes to a file of this name, as :func:`replacing` does, or standard output."""
    if name != STANDARD:
        with replacing(file_named(name)) as file:
            yield file
        return
    sys.stdout.flush()
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()
