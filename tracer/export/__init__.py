"""Traces in other tools' formats, each from a library that is an optional dependency.

Each module has ``write(records, regions, sink)`` for events in order. Linux's own mmiotrace text
needs no library and can be read too: :mod:`tracer.export.mmiotrace`.
"""

__all__ = ("mmiotrace", "parquet", "perfetto")
