"""Traces in other tools' formats, each from a library that is an optional dependency.

Each module has ``write`` for events in order, but :mod:`.dataframe`, which makes a table in memory.
:mod:`.sqlite` needs no library but Python's. Linux's own mmiotrace text
needs no library and can be read too: :mod:`tracer.export.mmiotrace`.
"""

__all__ = ("dataframe", "mmiotrace", "parquet", "perfetto", "sqlite", "vcd")
