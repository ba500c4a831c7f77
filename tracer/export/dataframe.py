"""Device accesses as a data frame of pandas or polars, a row each.

The columns are the members of :class:`tracer.trace.flat.Access`, in their order. Numbers of 64 bits
keep all of them, and what is not known is null: in pandas by its nullable types.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any, Literal, get_args

from tracer.errors import UsageError
from tracer.trace.flat import Access, check_fits

Library = Literal["polars", "pandas"]

_COLUMNS = {
    "seq": "Int64",
    "time_ns": "Int64",
    "phase": "String",
    "vcpu": "Int64",
    "cpl": "Int64",
    "rip": "UInt64",
    "symbol": "String",
    "code": "Binary",
    "text": "String",
    "device": "String",
    "region": "String",
    "offset": "UInt64",
    "register": "String",
    "physical": "UInt64",
    "width": "Int64",
    "extent": "Int64",
    "direction": "String",
    "value": "UInt64",
    "via": "String",
    "device_value": "UInt64",
    "skipped": "Boolean",
    "stack": "List",
    "mark": "String",
    "lost": "Int64",
    "space": "String",
    "cause": "String",
    "source": "String",
    "note": "String",
    "agrees": "Boolean",
}
"""The columns, with the names of polars' types."""

_OF_PANDAS = {"String": "string", "Binary": "object", "Boolean": "boolean", "List": "object"}


def dataframe(accesses: Iterable[Access], library: Library | None = None) -> Any:
    """Return a data frame with a row an access: ``polars.DataFrame`` or ``pandas.DataFrame``.

    Without ``library`` the one that is installed is taken, polars where both are. Raise
    :exc:`UsageError` where there is none, and ValueError at a number that no column can hold.
    """
    tables = _library(library)
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    for access in accesses:
        if not isinstance(access, Access):
            raise UsageError(f"{access!r:.60} is no access, as iterating over a trace gives them")
        check_fits(access)
        for name, column in columns.items():
            column.append(getattr(access, name))
    if tables.__name__ == "pandas":
        return tables.DataFrame(
            {
                name: tables.Series(column, dtype=_OF_PANDAS.get(_COLUMNS[name], _COLUMNS[name]))
                for name, column in columns.items()
            }
        )
    kinds = {name: getattr(tables, kind) for name, kind in _COLUMNS.items()}
    return tables.DataFrame(columns, schema=kinds | {"stack": tables.List(tables.String)})


def _library(wanted: Library | None) -> Any:
    if wanted not in (None, *get_args(Library)):
        known = " and ".join(get_args(Library))
        raise UsageError(f"{wanted!r:.60} has no data frames: {known} have")
    for name in ("polars", "pandas") if wanted is None else (wanted,):
        try:
            return import_module(name)
        except ImportError:
            continue
    raise UsageError(
        f"a data frame needs {wanted or 'polars or pandas'}, which is not installed: "
        f"pip install {wanted or chr(39) + 'vetrace[dataframe]' + chr(39)}"
    )
