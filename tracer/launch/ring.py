"""The ring of compiled sites, saved beside the trace where vetrace is killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from tracer.host.keeper import kept
from tracer.session.session import Session
from tracer.trace.writer import ring_of


@contextmanager
def kept_ring(session: Session, trace: Path | None) -> Iterator[None]:
    """Have what is in the ring beside the trace, if the block never ends.

    Nothing is done for a trace that is no file, and where there are no compiled sites.
    """
    sites = session.loop.sites
    keeper: AbstractContextManager[None] = nullcontext()
    if sites is not None and trace is not None and trace.is_file():
        block = sites.block.span
        where = session.machine.kept(block.start, len(block))
        if where is not None:
            keeper = kept(where.descriptor, where.offset, len(block), where.writer, ring_of(trace))
    with keeper:
        yield
