"""A table of a file whose keys and values are checked as they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tracer.errors import advice


class Bad(Exception):
    """Tell what is wrong, and at which key: ``register CC, field EN``."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}" if where else what)


class Table:
    """Hold a table of the document, which may have these keys and no others.

    Whatever is read out of it raises :exc:`Bad` where it is of another kind.
    """

    def __init__(self, items: Mapping[str, Any], where: str, keys: Sequence[str]) -> None:
        self.where = where
        self._items = items
        for key in items:
            if key not in keys:
                raise Bad(where, f"unknown key {key}{advice(key, keys)}")

    def __contains__(self, key: str) -> bool:
        return key in self._items

    def get(self, key: str, kind: type | tuple[type, ...], otherwise: Any = None) -> Any:
        """Return the value of a key, of this kind, or ``otherwise`` where the key is not there."""
        if key not in self._items:
            return otherwise
        value = self._items[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise Bad(self.where, f"{key} = {quoted(value)} is no {_KINDS[kind]}")
        return value

    def flag(self, key: str) -> bool:
        """Return true or false, false where the key is not there."""
        value = self._items.get(key, False)
        if not isinstance(value, bool):
            raise Bad(self.where, f"{key} = {quoted(value)} is neither true nor false")
        return value

    def text(self, key: str, otherwise: str = "") -> str:
        """Return a text that can be shown."""
        value: str = self.get(key, str, otherwise)
        if not value.isprintable():
            raise Bad(self.where, f"{key} = {quoted(value)} has characters that cannot be shown")
        return value

    def number(self, key: str, otherwise: int = 0) -> int:
        """Return a number of 64 bits without a sign."""
        value: int = self.get(key, int, otherwise)
        if not 0 <= value < 1 << 64:
            raise Bad(self.where, f"{key} = {value} is below 0 or above 64 bits")
        return value

    def tables(self, key: str) -> Mapping[str, Mapping[str, Any]]:
        """Return the tables of a key by their names."""
        found: Mapping[str, Any] = self.get(key, dict, {})
        for name, item in found.items():
            if not isinstance(item, dict):
                raise Bad(self.where, f"{key}.{name} = {quoted(item)} is no table")
            if not name.isprintable() or not name.strip():
                raise Bad(self.where, f"{key} {name!r} is no name that can be shown")
        return found


_KINDS: dict[Any, str] = {
    str: "text", int: "whole number", list: "array", dict: "table",
    (str, dict): "name or table", (int, str): 'number or text like "6:4"',
}  # fmt: skip


def quoted(value: Any) -> str:
    """Return a value as the reader may have written it, on one line and not too long."""
    text = repr(value) if not isinstance(value, str) else f'"{value}"'
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= 60 else f"{text[:59]}…"
