"""Compare a trace with what QEMU itself logged of the same run.

QEMU is an independent witness: it notes what reached a device model, whoever sent it. For each
traced region both sides must tell the same accesses in the same order: direction, physical
address, width and value. The rules are in ``docs/trace-format.md``, under "Comparing a trace with
QEMU's log".

:mod:`pair` reads both sides; :mod:`beginning` finds where they begin in a log with more before it;
:mod:`matching` goes along them and counts; :mod:`reading` knows how the log tells one access; after
a difference :mod:`recovery` finds where both agree again, and :mod:`alignment` what is at fault
before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

from tracer.check.comparison import Comparison
from tracer.check.witness.matching import Matching
from tracer.trace.record import Record


def compare(
    records: Iterable[Record], log: BinaryIO | Iterable[bytes], keep: int = 10, vcpus: int = 1
) -> Comparison:
    """Return how a trace's records agree with the lines of QEMU's log; keep ``keep`` differences.

    ``vcpus`` is how many the machine had.

    The comparison begins at the byte offset that a mark before the first access gives. Without
    one, each region begins at the first place in the log, after the last access agreed on before,
    where its first sixteen traced accesses (or all, if fewer) stand in a row, and as many more as
    it takes to tell it from the turns of a loop. Both sides are read as streams, and memory does
    not grow with their length: no more than ``side.LIMIT`` accesses and entries are held, and that
    many only at such a beginning and after a difference.
    """
    return Matching(iter(records), log, keep, vcpus).run()
