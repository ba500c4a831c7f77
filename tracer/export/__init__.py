"""Traces in other tools' formats, each from a library that is an optional dependency.

Each module has ``write(records, regions, sink)`` for events in order, but :mod:`.dataframe`, which
makes a table in memory. Linux's own mmiotrace text
needs no library and can be read too: :mod:`tracer.export.mmiotrace`.
"""

__all__ = ("dataframe", "mmiotrace", "parquet", "perfetto")
