"""The host of an SEV-ES guest as a pure state machine: what VMGEXIT answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tracer.confidential.request import Reply, Request


@dataclass(frozen=True, slots=True)
class SevState:
    """Hold what the host remembers: ``ghcb`` has the MSR of each vCPU, 0 before the first write.

    ``c_bit`` is the number of the bit that marks a page as encrypted. ``registered`` has the
    GHCBs that a vCPU registered by the MSR protocol, ``jump_table`` the APs' (0: none set).
    """

    ghcb: tuple[int, ...] = (0,)
    c_bit: int = 38
    registered: tuple[int | None, ...] = (None,)
    jump_table: int = 0


@dataclass(frozen=True, slots=True)
class Vmgexit:
    """Tell one VMGEXIT: the code by number and name, the fields it takes and gives.

    ``protocol`` tells the MSR protocol from an exit with a GHCB. ``given`` and ``returned`` are
    as those of a :class:`~tracer.confidential.tdx_module.Tdcall`; field names are those of the
    page (``sw_exit_info_1``, ``rax``), and ``msr`` in the MSR protocol. ``ends`` tells that the
    guest asks for its end.
    """

    vcpu: int
    protocol: bool
    code: int
    name: str
    given: Mapping[str, int]
    returned: Mapping[str, int]
    request: Request | None = None
    note: str = ""

    @property
    def waits(self) -> bool:
        """Return whether only a host's reply, by :func:`reply`, can answer it."""
        return self.request is not None and not self.returned


@dataclass(frozen=True, slots=True)
class Answered:
    """Give the state afterwards, what changes, and what was asked.

    ``changes`` has ``msr`` in the MSR protocol, else fields of the GHCB, for :func:`patch_page`.
    """

    state: SevState
    changes: Mapping[str, int]
    event: Vmgexit


def msr(state: SevState, vcpu: int, value: int) -> Answered:
    """Answer a VMGEXIT whose GHCB MSR holds ``value``, a request of the MSR protocol.

    The low 12 bits are the code; those of a GHCB's address are 0: see :func:`exit`.
    """
    raise NotImplementedError


def exit(state: SevState, vcpu: int, page: bytes) -> Answered:
    """Answer a VMGEXIT with a GHCB, of which ``page`` has all 4096 bytes."""
    raise NotImplementedError


def usual(state: SevState, request: Request) -> Reply | None:
    """Return what an honest host says; None where the machine itself has to be asked."""
    raise NotImplementedError


def reply(state: SevState, event: Vmgexit, said: Reply) -> Answered:
    """Turn a host's reply to an event that waits into fields, and note what it changed."""
    raise NotImplementedError


def patch_page(page: bytes, event: Vmgexit, changes: Mapping[str, int]) -> bytes:
    """Return the GHCB with what changed: fields, their valid bits, the data of a read."""
    raise NotImplementedError
