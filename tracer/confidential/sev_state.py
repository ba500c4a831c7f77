"""The memory of an SEV-ES guest's host, and its account of a VMGEXIT, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tracer.confidential import ghcb
from tracer.confidential.ghcb import SHARED_BUFFER
from tracer.confidential.request import Request, describe
from tracer.confidential.sev_exit import GhcbError


@dataclass(frozen=True, slots=True)
class SevState:
    """Hold what the host remembers of a guest.

    ``c_bit`` is the number of the bit that marks a page as encrypted. ``poison`` has the bits that
    vetrace adds to the leaves of devices, and that a guest therefore takes for part of an address.
    ``registered`` has the GHCB that each vCPU registered, physical; ``jump_table`` is the one of
    the other vCPUs, 0 where none is set.
    """

    c_bit: int = 38
    poison: int = 0
    registered: tuple[tuple[int, int], ...] = ()
    jump_table: int = 0


@dataclass(frozen=True, slots=True)
class Vmgexit:
    """Tell one VMGEXIT: the code by number and name, the fields it takes and gives.

    ``protocol`` tells the MSR protocol, whose only field is ``msr``, from an exit with a GHCB, of
    which ``given`` has the valid fields. ``request`` is what it asks for; ``returned`` is empty
    until the host has replied. ``note`` says in words what is odd, nothing mostly. ``at`` is where
    in the page its data are.
    """

    vcpu: int
    protocol: bool
    code: int
    name: str
    given: Mapping[str, int]
    returned: Mapping[str, int]
    request: Request | None = None
    note: str = ""
    at: int = SHARED_BUFFER

    @property
    def waits(self) -> bool:
        """Return whether only a host's reply can answer it: `sev_host.reply`."""
        return self.request is not None and not self.returned


@dataclass(frozen=True, slots=True)
class Answered:
    """Give the state afterwards, what changes, and what was asked.

    ``changes`` has ``msr`` in the MSR protocol, else fields of the GHCB. ``data`` is what goes to
    the page at the event's ``at``; :func:`patched` puts both there.
    """

    state: SevState
    changes: Mapping[str, int]
    event: Vmgexit
    data: bytes = b""


def patched(page: bytes, answered: Answered) -> bytes:
    """Return a GHCB as an answer leaves it: only what the host sets is valid."""
    return ghcb.patch(page, answered.changes, answered.data, answered.event.at)


def describe_exit(event: Vmgexit) -> str:
    """Return a VMGEXIT in words for people."""
    text = describe(event.request) if event.request is not None else event.name
    match event.returned.get("sw_exit_info_1", 0), event.returned.get("sw_exit_info_2", 0):
        case 2, reason:
            known = reason in tuple(GhcbError)
            text += f" -> {GhcbError(reason).name if known else hex(reason)}"
        case 1, injected:
            text += f" -> exception {injected & 0xFF}"
    return text
