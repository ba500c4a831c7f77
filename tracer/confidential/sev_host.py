"""The host of an SEV-ES guest as a pure state machine: what VMGEXIT answers.

Ref: AMD SEV-ES Guest-Hypervisor Communication Block Standardization 2.03, 2.3.1 and 4.1; Linux
arch/x86/kvm/svm/sev.c `sev_handle_vmgexit_msr_protocol`, `sev_handle_vmgexit` (the order of the
checks), `setup_vmgexit_scratch`; svm.h `svm_vmgexit_success`, `svm_vmgexit_bad_input`,
`svm_vmgexit_inject_exception`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tracer.confidential import ghcb
from tracer.confidential.ghcb import BUFFER_END, SHARED_BUFFER, Ghcb
from tracer.confidential.hypercall import WIDTHS
from tracer.confidential.request import (
    KVM_ENOSYS,
    Cpuid,
    FatalError,
    Give,
    Mmio,
    Msr,
    Other,
    PortIo,
    Refuse,
    Reply,
    Request,
)
from tracer.confidential.sev_exit import (
    EXITS,
    GENERAL_PROTECTION,
    ISSUE_EXCEPTION,
    MALFORMED_INPUT,
    NO_ACTION,
    PROTOCOLS,
    Ask,
    Event,
    GhcbError,
    reason_text,
)
from tracer.confidential.sev_state import Answered, SevState, Vmgexit

VERSIONS = 1, 2
"""The lowest and the highest version of the protocol that are spoken."""

_CODE = 0xFFF
_INT, _LIMIT = (1 << 32) - 1, 1 << 64


# --- the MSR protocol


def msr(state: SevState, vcpu: int, value: int) -> Answered:
    """Answer a VMGEXIT whose GHCB MSR holds ``value``, a request of the MSR protocol.

    The low 12 bits are the code; those of a GHCB's address are 0: see :func:`exit`.
    """
    code, data = value & _CODE, value >> 12
    known = PROTOCOLS.get(code)
    event = Vmgexit(vcpu, True, code, known.name if known else f"{code:#x}", {"msr": value}, {})
    match code:
        case Ask.SEV_INFORMATION:
            low, high = VERSIONS
            return _set(
                state, event, high << 48 | low << 32 | state.c_bit << 24 | Ask.SEV_INFORMATION - 1
            )
        case Ask.CPUID:
            return _wait(state, event, Cpuid(value >> 32, 0, value >> 30 & 3))
        case Ask.RESET_HOLD:
            return _wait(state, event, Other("AP reset hold", code))
        case Ask.PREFERRED:
            # No preference: all ones where the page's number would be.
            return _set(state, event, _LIMIT - 0x1000 | Ask.PREFERRED + 1)
        case Ask.REGISTRATION:
            kept = tuple(sorted((dict(state.registered) | {vcpu: data << 12}).items()))
            after = replace(state, registered=kept)
            return _set(after, event, data << 12 | Ask.REGISTRATION + 1)
        case Ask.PAGE_STATE:
            # The highest bit stands for any error.
            return _set(
                state, event, 1 << 63 | Ask.PAGE_STATE + 1, "page states are a matter of SEV-SNP"
            )
        case Ask.FEATURES:
            return _set(state, event, Ask.FEATURES + 1)
        case Ask.TERMINATION:
            reasons, reason = value >> 12 & 0xF, value >> 16 & 0xFF
            text = reason_text(reasons, reason)
            return _wait(state, event, FatalError(reasons << 8 | reason, text))
    return _set(state, event, value, "no such request of the MSR protocol")


def _set(state: SevState, event: Vmgexit, value: int, note: str = "") -> Answered:
    changes = {"msr": value}
    return Answered(state, changes, replace(event, returned=changes, note=note))


def _wait(state: SevState, event: Vmgexit, request: Request, note: str = "") -> Answered:
    return Answered(state, {}, replace(event, request=request, note=note))


# --- exits with a GHCB


def exit(state: SevState, vcpu: int, address: int, page: bytes) -> Answered:
    """Answer a VMGEXIT with the GHCB at a physical address, of which ``page`` is what it holds."""
    block = ghcb.unpack(page)
    fields = block.fields
    code = fields.get("sw_exit_code", 0)
    known = EXITS.get(code)
    event = Vmgexit(vcpu, False, code, known.name if known else f"exit {code:#x}", fields, {})
    if block.usage:
        return _malformed(state, event, GhcbError.INVALID_USAGE, f"usage {block.usage:#x}")
    if known is not None and known.snp:
        return _malformed(state, event, GhcbError.INVALID_EVENT, "a matter of SEV-SNP")
    missing = [name for name in _needed(code, fields) if name not in fields]
    if missing:
        return _malformed(state, event, GhcbError.MISSING_INPUT, f"without {', '.join(missing)}")
    if known is None:
        return _malformed(state, event, GhcbError.INVALID_EVENT, "no such event")
    return _event(state, event, address, block)


def _needed(code: int, fields: Mapping[str, int]) -> list[str]:
    info = fields.get("sw_exit_info_1", 0)
    needed = ["sw_exit_code", "sw_exit_info_1", "sw_exit_info_2"]
    needed += EXITS[code].needs if code in EXITS else ()
    if code == Event.IOIO:
        needed += ["sw_scratch"] if info & _STRING else [] if info & _IN else ["rax"]
    if code == Event.MSR and info:
        needed += ["rax", "rdx"]
    if code == Event.CPUID and fields.get("rax", 0) == 0xD:
        needed += ["xcr0"]
    return needed


def _event(state: SevState, event: Vmgexit, address: int, block: Ghcb) -> Answered:
    fields = event.given
    first, second = fields["sw_exit_info_1"], fields["sw_exit_info_2"]
    match event.code:
        case Event.MMIO_READ | Event.MMIO_WRITE:
            return _mmio(state, event, address, block)
        case Event.RESET_HOLD:
            return _wait(state, event, Other("AP reset hold", event.code))
        case Event.JUMP_TABLE if first == 0:
            return _granted(replace(state, jump_table=second), event)
        case Event.JUMP_TABLE if first == 1:
            return _granted(state, event, state.jump_table)
        case Event.JUMP_TABLE:
            return _malformed(state, event, GhcbError.INVALID_INPUT, f"request {first:#x}")
        case Event.TERMINATION:
            reasons, reason = first & 0xF, first >> 4 & 0xFF
            return _wait(
                state, event, FatalError(reasons << 8 | reason, reason_text(reasons, reason))
            )
        case Event.UNSUPPORTED:
            text = f"its handler knows no #VC of exit code {first:#x}"
            return _wait(state, event, FatalError(first, text))
        case Event.IOIO:
            return _port(state, event, first)
        case Event.MSR if first:
            value = (fields["rdx"] & _INT) << 32 | fields["rax"] & _INT
            return _wait(state, event, Msr("write", fields["rcx"] & _INT, value))
        case Event.MSR:
            return _wait(state, event, Msr("read", fields["rcx"] & _INT, None))
        case Event.CPUID:
            return _wait(state, event, Cpuid(fields["rax"] & _INT, fields["rcx"] & _INT))
        case Event.VMMCALL | Event.RDTSC | Event.RDPMC | Event.RDTSCP:
            operands = tuple(fields[name] for name in EXITS[event.code].needs)
            return _wait(state, event, Other(event.name, event.code, operands))
    return _granted(state, event)


def _mmio(state: SevState, event: Vmgexit, address: int, block: Ghcb) -> Answered:
    fields = event.given
    width, scratch = fields["sw_exit_info_2"], fields["sw_scratch"]
    if width == 0:
        return _granted(state, event, note="an access of 0 bytes")
    if width > 8:
        return _malformed(state, event, GhcbError.INVALID_INPUT, f"{width:#x} bytes")
    at = scratch - address
    if not SHARED_BUFFER <= at <= BUFFER_END - width:
        note = f"its data are at {scratch:#x}, not in the page's buffer"
        return _malformed(state, event, GhcbError.INVALID_SCRATCH_AREA, note)
    value = None
    if event.code == Event.MMIO_WRITE:
        begin = at - SHARED_BUFFER
        value = int.from_bytes(block.buffer[begin : begin + width], "little")
    physical = fields["sw_exit_info_1"] & ~state.poison
    encrypted = bool(physical >> state.c_bit & 1)
    request = Mmio(
        "read" if event.code == Event.MMIO_READ else "write",
        width,
        physical & ~(1 << state.c_bit),
        value,
        not encrypted,
    )
    return _wait(state, replace(event, at=at), request)


# SW_EXITINFO1 of IOIO (AMD APM vol. 2, 15.10.2).
_IN, _STRING = 1 << 0, 1 << 2


def _port(state: SevState, event: Vmgexit, info: int) -> Answered:
    width = info >> 4 & 7
    if width == 0:
        return _granted(state, event, note="an access of 0 bytes")
    read = bool(info & _IN)
    string = bool(info & _STRING)
    mask = (1 << 8 * width) - 1
    value = None if read or string else event.given["rax"] & mask
    request = PortIo("read" if read else "write", width, info >> 16 & 0xFFFF, value, string)
    return _wait(state, event, request)


def _granted(state: SevState, event: Vmgexit, second: int = 0, note: str = "") -> Answered:
    return _replied(state, event, NO_ACTION, second, note=note)


def _malformed(state: SevState, event: Vmgexit, error: int, note: str) -> Answered:
    return _replied(state, event, MALFORMED_INPUT, error, note=note)


def _replied(
    state: SevState,
    event: Vmgexit,
    first: int,
    second: int,
    registers: Mapping[str, int] | None = None,
    data: bytes = b"",
    note: str = "",
) -> Answered:
    changes = {"sw_exit_info_1": first, "sw_exit_info_2": second, **(registers or {})}
    after = replace(event, returned=changes, note=note or event.note)
    return Answered(state, changes, after, data)


# --- the host's reply


def usual(state: SevState, request: Request) -> Reply | None:
    """Return what an honest host says; None where the machine itself has to be asked.

    That is so for an access that may be made (the reply is then Give with what was read), and for
    FatalError, which ends the run. The hold of a vCPU would end by Give with other than 0, once
    another one starts it.
    """
    match request:
        case Mmio(_, width):
            return None if width in WIDTHS and request.shared else Refuse(GhcbError.INVALID_INPUT)
        case PortIo(_, width):
            possible = width in (1, 2, 4) and not request.string
            return None if possible else Refuse(GhcbError.INVALID_INPUT)
        case FatalError():
            return None
        case Other("VMMCALL"):
            return Give(KVM_ENOSYS)
    return Refuse()


def reply(state: SevState, event: Vmgexit, said: Reply) -> Answered:
    """Turn a host's reply to an event that waits into fields, or into the MSR.

    ``Refuse`` is told as malformed input of an event that is not known, or with its code in place
    of that; a refused MSR is a #GP, as KVM has it, and so is RDPMC; in the MSR protocol nothing
    changes, and a guest takes that for an error. ``Retry`` has no meaning here. Raises ValueError
    for it, and for an event that does not wait.
    """
    request = event.request
    if request is None or not event.waits:
        raise ValueError(f"{event.name} waits for no reply")
    match said:
        case Give(value, more):
            if event.protocol:
                return _protocol_granted(state, event, value)
            return _request_granted(state, event, request, value, more)
        case Refuse(code):
            if event.protocol:
                return _set(state, event, event.given["msr"], event.note)
            if (isinstance(request, Msr) or event.code == Event.RDPMC) and code is None:
                return _replied(state, event, ISSUE_EXCEPTION, GENERAL_PROTECTION)
            error = GhcbError.INVALID_EVENT if code is None else code % _LIMIT
            return _malformed(state, event, error, "")
    raise ValueError("only MapGPA of TDX can be asked for again")


def _protocol_granted(state: SevState, event: Vmgexit, value: int) -> Answered:
    match event.request:
        case Cpuid(_, _, register):
            return _set(state, event, (value & _INT) << 32 | (register or 0) << 30 | Ask.CPUID + 1)
        case Other("AP reset hold"):
            return _set(state, event, (value << 12) % _LIMIT | Ask.RESET_HOLD + 1)
    return _set(state, event, event.given["msr"], event.note)


def _request_granted(
    state: SevState, event: Vmgexit, request: Request, value: int, more: tuple[int, ...]
) -> Answered:
    match request:
        case Mmio("read", width):
            data = (value % (1 << 8 * width)).to_bytes(width, "little")
            return _replied(state, event, NO_ACTION, 0, data=data)
        case PortIo("read", width):
            return _replied(state, event, NO_ACTION, 0, {"rax": value % (1 << 8 * width)})
        case Msr("read"):
            halves = {"rax": value & _INT, "rdx": value >> 32 & _INT}
            return _replied(state, event, NO_ACTION, 0, halves)
        case Cpuid():
            found = (part & _INT for part in (value, *more, 0, 0, 0)[:4])
            registers = dict(zip(("rax", "rbx", "rcx", "rdx"), found, strict=True))
            return _replied(state, event, NO_ACTION, 0, registers)
        case Other("AP reset hold"):
            return _replied(state, event, NO_ACTION, value % _LIMIT)
        case Other("VMMCALL"):
            return _replied(state, event, NO_ACTION, 0, {"rax": value % _LIMIT})
        case Other():
            halves = {"rax": value & _INT, "rdx": value >> 32 & _INT}
            return _replied(state, event, NO_ACTION, 0, halves)
    return _replied(state, event, NO_ACTION, 0)
