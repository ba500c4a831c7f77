"""The text log of Linux's own MMIO tracer, version 20070824: written and read.

Ref: Linux, Documentation/trace/mmiotrace.rst (Trace Log Format), kernel/trace/trace_mmiotrace.c,
arch/x86/mm/mmio-mod.c and pf_in.c (what is logged of an instruction), kernel/trace/trace.c
``print_trace_line`` (lost events).

A record is a line: a keyword, then arguments. ``R`` and ``W`` have width in bytes, seconds, map
id, physical address, value, PC and PID; ``MAP`` has seconds, map id, physical and linear address,
length, PC and PID. An access of an instruction that the kernel does not know is ``UNKNOWN``, with
the first three bytes of its code. What a trace has no record for (``UNMAP``, ``PCIDEV``,
``LSPCI``) is kept as a mark and written again as it was.

What the format has no words for is written as marks, which other readers of such logs pass over:
the names of regions, what a person did, and before an ``UNKNOWN`` what a trace knows of the access.
"""

from __future__ import annotations

from tracer.export.mmiotrace.reader import LONGEST_LINE, MmiotraceReader, header
from tracer.export.mmiotrace.writer import MmiotraceLog

__all__ = ("LONGEST_LINE", "MmiotraceLog", "MmiotraceReader", "header")
