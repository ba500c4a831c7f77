"""The place in a guest at which vCPUs ring for an access: what everybody may ask of it.

It is a stub behind the gates of the guest's own page faults (:mod:`tracer.intercept.entry.gate`),
or one in the monitor that the guest runs inside (:mod:`tracer.intercept.entry.nested`), with no
gate at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from tracer.intercept.entry.sight import Sight
from tracer.intercept.entry.stub import Stub


class Post(Protocol):
    """Know where a vCPU stands that has come upon a traced device.

    ``stub`` has the addresses to go to. ``ringers`` is other code of vetrace's that reads the
    stub's bell: its linear addresses, by where it stops then.
    """

    @property
    def stub(self) -> Stub:
        """Return the code that rings."""
        ...

    @property
    def spare(self) -> int:
        """Return the linear address of the mapping without poison, 0 where there is none."""
        ...

    @property
    def sight(self) -> Sight | None:
        """Return what the stub sees of memory, None where it has the guest's page tables."""
        ...

    @property
    def ringers(self) -> Mapping[int, range]:
        """Return other code that rings."""
        ...

    def remove(self) -> None:
        """Give the guest its own gates back; the stub stays for who is in it."""
        ...
