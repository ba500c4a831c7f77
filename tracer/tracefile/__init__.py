"""Traces on disk: the one place that opens, writes and reads trace files.

Ref: docs/trace-format.md; RFC 8878 (Zstandard), 3.1.1 (frames are made of blocks, and every whole
block of a frame that was cut can still be decoded).
"""

from __future__ import annotations

from tracer.tracefile.reader import TraceReader
from tracer.tracefile.writer import TraceWriter

__all__ = ("TraceReader", "TraceWriter")
