"""The TDX module as code in the guest: put in place, and what it and vetrace both know.

The code answers a guest's faults and calls without a stop, as long as nobody is to be asked; what
it does not answer comes to the stub, and to
:class:`tracer.intercept.below.trust_domain.TrustDomain`.
"""

from __future__ import annotations

from collections.abc import Sequence

from tracer.access.region import Range
from tracer.compiled import layout
from tracer.compiled.common import CommonCode
from tracer.compiled.diary import Current
from tracer.compiled.module import ModuleControl, counter, module_code
from tracer.compiled.pending import (
    PLACE,
    SIZE,
    Faults,
    Waiting,
    information_place,
    pack_information,
    unpack_information,
)
from tracer.compiled.sites import Write
from tracer.confidential.tdx_state import VeInfo
from tracer.intercept.entry.stub import Stub
from tracer.intercept.ring.window import Window
from tracer.intercept.view import GuestView
from tracer.x86.paging import Paging


class GuestModule:
    """Own what the module's code has in the block of compiled sites.

    ``fault`` and ``tdcall`` are where it is entered, linear addresses. Every vCPU stands while
    something is read or written here.
    """

    def __init__(self, window: Window, view: GuestView) -> None:
        self.window = window
        self._memory = view.memory
        self._code = module_code()
        self.fault = window.code + self._code.fault
        self.tdcall = window.code + self._code.tdcall

    def begin(
        self,
        stub: Stub,
        common: CommonCode,
        paging: Paging,
        ram: Sequence[Range],
        current: Current | None = None,
    ) -> None:
        """Write the code, and what it has to know; compiled sites are in place already.

        A fault that is not of the shared bit goes to the ``common`` code. Records tell the thread
        that is ``current``.
        """
        control = ModuleControl(
            shared_bit=paging.shared,
            marks=paging.marks,
            levels=paging.levels,
            behind=self.window.code + common.fast,
            halt=stub.halts[True],
            ram=[range(first, last + 1) for first, last in ram],
            thread=0 if current is None else current.place,
        )
        self._write(layout.MODULE_DATA, control.pack())
        self._write(layout.MODULE, self._code.code)

    def information(self, vcpu: int) -> VeInfo | None:
        """Return what TDG.VP.VEINFO.GET is to tell a vCPU, None where it has fetched it."""
        place, size = information_place(vcpu)
        found = unpack_information(self._read(place, size))
        return None if found is None else VeInfo(*found)

    def tell(self, vcpu: int, info: VeInfo | None) -> None:
        """Have a vCPU fetch this, or nothing."""
        words = () if info is None else (
            info.reason, info.qualification, info.gla, info.gpa, info.length,
        )  # fmt: skip
        self._write(*pack_information(vcpu, words))

    def waiting(self) -> list[Waiting]:
        """Return the faults that wait for their hypercalls."""
        return [*self._faults]

    def asked(self, frame: int, gpa: int) -> Waiting | None:
        """Return the fault that a hypercall is for, which waits no longer.

        ``frame`` is the linear address of the call's frame, ``gpa`` the physical one that it asks
        for, with the shared bit.
        """
        faults = self._faults
        found = faults.asked(frame, gpa)
        if found is not None:
            self._write_all(faults.forget(found))
        return found

    def keep(self, fault: Waiting) -> None:
        """Have a fault wait for its hypercall."""
        self._write_all(self._faults.keep(fault))

    def count(self, name: str) -> int:
        """Return how often the code has done something: see :func:`counter`."""
        return int.from_bytes(self._read(counter(name), 8), "little")

    @property
    def _faults(self) -> Faults:
        return Faults(self._read(PLACE, SIZE))

    def _read(self, offset: int, size: int) -> bytes:
        return self._memory.read(self.window.physical + offset, size)

    def _write(self, offset: int, data: bytes) -> None:
        self._memory.write(self.window.physical + offset, data)

    def _write_all(self, writes: Sequence[Write]) -> None:
        for offset, data in writes:
            self._write(offset, data)
