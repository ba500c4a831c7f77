"""What a person says of a bare guest, where its image does not."""

from __future__ import annotations

from dataclasses import dataclass

from tracer.bare.moment import Moment


@dataclass(frozen=True, slots=True)
class Guidance:
    """Say at which ``moment`` tracing begins; without one at the guest's first IDT of its own."""

    moment: Moment | None = None

    @property
    def given(self) -> tuple[str, ...]:
        """Return the options that say something, by their names."""
        return ("--attach-at",) if self.moment is not None else ()
