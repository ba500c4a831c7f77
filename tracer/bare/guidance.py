"""Facts about a bare guest that a person gives, as its image does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tracer.bare.function import MappingFunction, parse_function
from tracer.bare.moment import Moment, parse_moment
from tracer.bare.place import Place, parse_place
from tracer.errors import UsageError
from tracer.text.number import nanoseconds


@dataclass(frozen=True, slots=True)
class Guidance:
    """Say at which ``moment`` tracing begins; without one at the guest's first IDT of its own.

    ``functions`` are all that make mappings of devices; without any, its page tables are watched.
    A ``stub`` is a page that the guest does not use; without it, it is looked for. After
    ``look_every`` seconds of the host's time its tables are looked at, and again.
    """

    moment: Moment | None = None
    functions: tuple[MappingFunction, ...] = ()
    stub: Place | None = None
    look_every: float | None = None

    @property
    def given(self) -> tuple[str, ...]:
        """Return the options that say something, by their names."""
        said = {
            "--attach-at": self.moment, "--mapping": self.functions, "--stub-at": self.stub,
            "--look-again": self.look_every,
        }  # fmt: skip
        return tuple(option for option, value in said.items() if value)


def guidance(
    moment: str | None = None,
    functions: Sequence[str] = (),
    stub: str | None = None,
    look: str | None = None,
) -> Guidance:
    """Return what is said in the words of the command line. Raises UsageError."""
    what = f"--stub-at {stub}: that is no place in a guest"
    every = None if look is None else nanoseconds(look, "time of --look-again")
    if every == 0:
        raise UsageError(f"--look-again {look}: that is no time to wait: give one above 0")
    return Guidance(
        None if moment is None else parse_moment(moment),
        tuple(parse_function(text) for text in functions),
        None if stub is None else parse_place(stub, what, "stub_page and 0x101000 are"),
        None if every is None else every / 1e9,
    )
