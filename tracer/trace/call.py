"""Records of what a confidential guest asks of its host, but for its accesses to devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from tracer.trace.member import Count, Vcpu
from tracer.trace.wire import Hex


class Hypercall(msgspec.Struct, frozen=True, kw_only=True):
    """Hold the registers of a call by name: what is ``given``, and what comes back."""

    given: Mapping[str, Hex] = msgspec.field(name="in")
    returned: Mapping[str, Hex] = msgspec.field(name="out")


class _Sited(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    # A record of what the guest did at one place of its code.
    time_ns: Count
    vcpu: Vcpu
    rip: Hex
    symbol: str | None = None

    @property
    def site(self) -> str:
        """Return the call site: its symbol and offset, else its linear address."""
        return self.symbol or hex(self.rip)


class TdcallRecord(
    _Sited, frozen=True, kw_only=True, tag="tdcall", tag_field="type", omit_defaults=True
):
    """Record a call of the TDX module, or through it of the host, that is no device access.

    ``leaf`` is what RAX had, ``name`` the specification's for it, with that of what the host is
    asked. ``given`` are the registers that the call takes, ``returned`` those that it gives back.
    The calls by which a #VE tells of itself are counted alone.
    """

    leaf: Hex
    name: str
    given: Mapping[str, Hex] = msgspec.field(name="in")
    returned: Mapping[str, Hex] = msgspec.field(name="out")
    note: str | None = None


class VmgexitRecord(
    _Sited, frozen=True, kw_only=True, tag="vmgexit", tag_field="type", omit_defaults=True
):
    """Record a call by which an SEV-ES guest asks its host for what is no device access.

    With ``protocol`` it is a request of the MSR protocol, and the only field is ``msr``. ``code``
    is its number, else SW_EXITCODE, and ``name`` the specification's for it. ``given`` are the
    fields that are valid, ``returned`` those that the host sets.
    """

    protocol: bool = False
    code: Hex
    name: str
    given: Mapping[str, Hex] = msgspec.field(name="in")
    returned: Mapping[str, Hex] = msgspec.field(name="out")
    note: str | None = None


CallRecord = TdcallRecord | VmgexitRecord
"""A confidential guest's call that is no device access."""


class SharedRecord(
    _Sited, frozen=True, kw_only=True, tag="shared", tag_field="type", omit_defaults=True
):
    """Tell what becomes of RAM that a confidential guest shares with its host.

    ``map``: it asked for ``size`` bytes at ``physical`` to be made shared, or private again.
    ``touch``: it touched such RAM through a shared mapping of ``size`` bytes, at ``linear``, for
    the first time. ``converted`` tells whether it had asked for that before; where not, private and
    shared contents are two, on hardware, and here one.
    """

    what: Literal["map", "touch"]
    physical: Hex
    size: Hex
    shared: bool
    linear: Hex | None = None
    converted: bool | None = None
