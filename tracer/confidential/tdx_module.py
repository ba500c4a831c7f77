"""The TDX module as a pure state machine: what TDCALL answers, and when a fault becomes a #VE.

Ref: intel/tdx-module (the module's own source, commit 1666adc494db), src/td_dispatcher:
tdx_td_dispatcher.c `td_call` and, for each leaf, the file that
:data:`tracer.confidential.tdx_leaf.LEAVES` names, in vm_exits; vm_exits/td_ept_violation.c and
`tdx_inject_ve` (faults); Intel TDX Module Base Architecture Specification 1.5, chapter 16 (#VE).

There is one copy of memory here, no secure EPT, and no attestation: leaves that are about these
check their operands as the module does, and are then refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tracer.confidential import tdx_host
from tracer.confidential.request import Give, MapGpa, Mmio, Reply, Request, Retry, describe
from tracer.confidential.tdx_leaf import LEAVES
from tracer.confidential.tdx_service import refused, serve
from tracer.confidential.tdx_state import TdxState, VeInfo
from tracer.confidential.tdx_status import Status, host_status_text, status_text
from tracer.x86.state import GPR

EPT_VIOLATION = 48
"""Exit reason (Intel SDM vol. 3D, appendix C)."""

_READ, _WRITE = 1 << 0, 1 << 1
# RAX, RCX and RSP are never the host's to see (tdg_vp_vmcall.c).
_NEVER_EXPOSED = 1 << 0 | 1 << 1 | 1 << 4


@dataclass(frozen=True, slots=True)
class Tdcall:
    """Tell one TDCALL: the leaf by number and name, the registers it takes and gives.

    ``request`` is what TDG.VP.VMCALL asks the host; ``returned`` is empty until that has replied.
    ``note`` says in words what is odd, nothing mostly.
    """

    vcpu: int
    leaf: int
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
    """Give the state afterwards, the registers to write back, and what was asked."""

    state: TdxState
    changes: Mapping[str, int]
    event: Tdcall


def answer(state: TdxState, vcpu: int, registers: Mapping[str, int]) -> Answered:
    """Answer a TDCALL; ``registers`` has all general-purpose ones by name, as it found them.

    What only the host can answer has no changes, and an event that ``waits``.
    """
    rax = registers["rax"]
    number, version = rax & 0xFFFF, rax >> 16
    leaf = LEAVES.get(number)
    given = {name: registers[name] for name in ("rax", *(leaf.takes if leaf else ()))}
    event = Tdcall(vcpu, number, leaf.name if leaf else f"TDCALL {number:#x}", given, {})
    if leaf is None:
        return _done(state, event, refused("rax"), "no such leaf")
    if version >= leaf.versions:
        # The leaf is not reached: a version is checked first, and a reserved bit.
        return _done(state, event, refused("rax"), f"no version {version:#x} of this leaf")
    if number == 0:
        return _vmcall(state, event, registers)
    served = serve(number, state, vcpu, version, registers)
    return _done(served.state, event, served.changes, served.note)


def usual(state: TdxState, request: Request) -> Reply | None:
    """Return what an honest host says; see :func:`tracer.confidential.tdx_host.usual`."""
    return tdx_host.usual(state.shared_bit, request)


def reply(state: TdxState, event: Tdcall, said: Reply) -> Answered:
    """Turn a host's reply to an event that waits into registers, and note what it changed.

    Of the registers only those are written that the guest lets the host see. Raises ValueError
    for an event that does not wait.
    """
    request = event.request
    if request is None or not event.waits:
        raise ValueError(f"{event.name} waits for no reply")
    exposed = event.given["rcx"]
    told = tdx_host.returned(state.shared_bit, request, said)
    changes = {"rax": int(Status.TDX_SUCCESS)} | {
        name: int(value) for name, value in told.items() if exposed >> GPR.index(name) & 1
    }
    if isinstance(request, MapGpa) and isinstance(said, Give | Retry):
        end = request.start + request.size
        if isinstance(said, Retry):
            end = min(max(said.physical & ~state.shared_bit, request.start), end)
        state = state.converted(request.start, end, shared=request.shared)
    return Answered(state, changes, replace(event, returned=changes))


def describe_call(event: Tdcall) -> str:
    """Return a TDCALL in words for people."""
    if event.request is not None:
        r10 = event.returned.get("r10", 0)
        told = f" -> {host_status_text(r10)}" if r10 else ""
        return describe(event.request) + told
    rax = event.returned.get("rax", 0)
    shown = [f"{name}={event.given[name]:#x}" for name in event.given if name != "rax"]
    told = f" -> {status_text(rax)}" if rax else ""
    return " ".join([event.name, *shown]) + told


# --- faults


@dataclass(frozen=True, slots=True)
class Strip:
    """Let the page be reached: clear the shared bit in its leaf and run the instruction again.

    ``converted`` tells whether MapGPA made it shared: else, on hardware, private and shared
    contents are two, and the guest has mixed them up.
    """

    physical: int
    converted: bool


@dataclass(frozen=True, slots=True)
class Inject:
    """Enter the guest's #VE handler; ``info`` is what TDG.VP.VEINFO.GET will tell."""

    info: VeInfo


@dataclass(frozen=True, slots=True)
class Nested:
    """Tell of a #VE, ``info``, before the guest has fetched the last one, ``pending``.

    No guest survives it: Linux expects #DF (commit 9a22bf6debbf, "x86/traps: Add #VE support for
    TDX guest"), which the module injects in place of a #VE of its own; an EPT violation it hands
    to the host instead, and KVM runs the instruction again for ever. The run ends.
    """

    pending: VeInfo
    info: VeInfo


@dataclass(frozen=True, slots=True)
class PrivateDevice:
    """Tell of a device reached through a private mapping: on hardware the host ends the TD."""

    physical: int


Outcome = Strip | Inject | Nested | PrivateDevice


def fault(
    state: TdxState, vcpu: int, *, gla: int, gpa: int, write: bool, is_ram: bool
) -> tuple[TdxState, Outcome]:
    """Decide about a page fault on a leaf that has the shared bit, or leads to a device.

    ``gla`` is the linear address, ``gpa`` the physical one with the shared bit as the leaf has it.
    """
    physical = gpa & ~state.shared_bit
    if is_ram:
        return state, Strip(physical, state.is_shared(physical))
    if gpa == physical:
        return state, PrivateDevice(physical)
    info = VeInfo(EPT_VIOLATION, _WRITE if write else _READ, gla, gpa)
    pending = state.pending[vcpu]
    if pending is not None:
        return state, Nested(pending, info)
    return state.with_pending(vcpu, info), Inject(info)


# --- TDG.VP.VMCALL


def _done(state: TdxState, event: Tdcall, changes: Mapping[str, int], note: str) -> Answered:
    return Answered(state, changes, replace(event, returned=changes, note=note))


def _vmcall(state: TdxState, event: Tdcall, registers: Mapping[str, int]) -> Answered:
    mask, number = registers["rcx"], registers["r11"]
    call = tdx_host.CALLS.get(number)
    takes = call.takes if call is not None else ("r12", "r13", "r14", "r15")
    names = dict.fromkeys(("rax", "rcx", "r10", "r11", *takes))
    event = replace(event, given={name: registers[name] for name in names})
    if mask & _NEVER_EXPOSED or mask >> 32:
        return _done(state, event, refused("rcx"), "it exposes a register that no host may see")
    seen = {name: registers[name] if mask >> n & 1 else 0 for n, name in enumerate(GPR)}
    request = tdx_host.decode(state.shared_bit, seen)
    hidden = [name.upper() for name in names if name not in ("rax", "rcx") and not _in(mask, name)]
    note = f"{', '.join(hidden)} not exposed: the host sees 0" if hidden else ""
    return Answered(state, {}, replace(event, request=request, note=note or _leak(request, seen)))


def _in(mask: int, name: str) -> bool:
    return bool(mask >> GPR.index(name) & 1)


def _leak(request: Request, seen: Mapping[str, int]) -> str:
    # The host gets to see all of R15, whatever of it the access needs.
    if isinstance(request, Mmio) and (rest := seen["r15"] ^ (request.value or 0)):
        return f"R15 holds more than the access needs: {rest:#x}"
    return ""
