"""The memory that the TDX module has of a guest, as values."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tracer.confidential.ranges import Ranges, add, meet, remove


@dataclass(frozen=True, slots=True)
class VeInfo:
    """Hold what TDG.VP.VEINFO.GET tells: ``gla`` linear, ``gpa`` physical with the shared bit.

    ``reason`` and ``qualification`` are those of a VM exit (Intel SDM vol. 3C, tables 28-7 and
    C-1). ``length`` of the instruction is 0 for an EPT violation.
    """

    reason: int
    qualification: int
    gla: int
    gpa: int
    length: int = 0


@dataclass(frozen=True, slots=True)
class TdxState:
    """Hold the state of all of a guest's vCPUs, one place in ``pending`` for each.

    ``pending`` has a #VE that the guest has not fetched yet. ``gpaw`` is the width of
    guest-physical addresses in bits, 48 or 52; the highest is the shared bit. ``shared`` has what
    MapGPA made shared, ``unaccepted`` what it made private again and the guest has not accepted
    yet. ``fields`` has the metadata that the guest wrote, by key; ``cpuid_ve`` of each vCPU what
    TDG.VP.CPUIDVE.SET last set.
    """

    pending: tuple[VeInfo | None, ...] = (None,)
    gpaw: int = 48
    shared: Ranges = ()
    unaccepted: Ranges = ()
    fields: tuple[tuple[int, int], ...] = ()
    cpuid_ve: tuple[tuple[int, int], ...] = ()

    @property
    def vcpus(self) -> int:
        """Return how many vCPUs there are."""
        return len(self.pending)

    @property
    def shared_bit(self) -> int:
        """Return the bit of a guest-physical address that marks it as shared with the host."""
        return 1 << (self.gpaw - 1)

    def is_shared(self, physical: int) -> bool:
        """Return whether MapGPA made an address (without the shared bit) shared, last."""
        return meet(self.shared, physical, physical + 1) == 1

    def is_private(self, gpa: int) -> bool:
        """Return whether an address can be one of private memory: in width, no shared bit."""
        return gpa >> (self.gpaw - 1) == 0

    def with_pending(self, vcpu: int, info: VeInfo | None) -> TdxState:
        """Return the state with another #VE that waits, or none."""
        pending = (*self.pending[:vcpu], info, *self.pending[vcpu + 1 :])
        return replace(self, pending=pending)

    def converted(self, start: int, end: int, *, shared: bool) -> TdxState:
        """Return the state in which a range has been made shared, or private."""
        if shared:
            return replace(
                self,
                shared=add(self.shared, start, end),
                unaccepted=remove(self.unaccepted, start, end),
            )
        # Pages that were private before stay accepted: the host does not touch them.
        unaccepted = self.unaccepted
        for first, behind in self.shared:
            unaccepted = add(unaccepted, max(first, start), min(behind, end))
        return replace(self, shared=remove(self.shared, start, end), unaccepted=unaccepted)
