"""Settings of the prompt itself: `set pager off`, `set editing-mode vi`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tracer.errors import UsageError, suggestion

VALUES: dict[str, tuple[str, ...]] = {"pager": ("on", "off"), "editing-mode": ("emacs", "vi")}
"""The settings, and what each can be; the first is what it is where nothing is set."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Hold whether long answers are paged, and by whose keys a line is edited."""

    pager: bool = True
    editing: Literal["emacs", "vi"] = "emacs"

    def with_(self, name: str, value: str) -> Settings:
        """Return them with one changed. Raises UsageError for a value that it cannot have."""
        known = VALUES[name]
        if value not in known:
            near = suggestion(value, known) or f"; it is {' or '.join(known)}"
            raise UsageError(f"{name} cannot be {value or 'nothing'}{near}")
        if name == "pager":
            return replace(self, pager=value == "on")
        return replace(self, editing="vi" if value == "vi" else "emacs")
