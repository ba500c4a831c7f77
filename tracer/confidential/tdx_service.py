"""The answers to TDCALL, leaf by leaf, all but the one that asks the host.

Ref: intel/tdx-module (the module's own source, commit 1666adc494db), src/td_dispatcher/vm_exits,
in the file that :data:`tracer.confidential.tdx_leaf.LEAVES` names for each leaf (operands, the
order of their checks, the registers written); src/common/helpers/helpers.c
`verify_page_info_input`, `check_gpa_validity`.

There is one copy of memory here, no secure EPT, no attestation and no inner guest: leaves that are
about these check their operands as the module does, and are then refused as leaves that it lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tracer.confidential import tdx_field
from tracer.confidential.ranges import meet, remove
from tracer.confidential.tdx_field import NO_FIELD, SEPT_VE_DISABLE
from tracer.confidential.tdx_state import TdxState
from tracer.confidential.tdx_status import Status, about
from tracer.x86.state import PAGE_SIZE

_NO_FIELDS = "no such field is kept"
_UNMEASURED = "nothing is measured or attested here"
_NO_SECURE_EPT = "there is no secure EPT here"
_NO_INNER = "this TD has no inner guests"

# Alignments, in bytes, of what the guest names by address: tdg_mr_report.c, tdg_mr_rtmr_extend.c,
# tdg_mr_verifyreport.c, tdg_vp_enter.c.
_REPORT, _REPORT_DATA, _RTMR_DATA, _REGISTER_LIST = 1024, 64, 64, 256
_RTMRS = 4


@dataclass(frozen=True, slots=True)
class Served:
    """Give the state afterwards, the registers that change, and in words what is odd."""

    state: TdxState
    changes: dict[str, int]
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Asked:
    state: TdxState
    vcpu: int
    version: int
    registers: Mapping[str, int]

    def __getitem__(self, register: str) -> int:
        return self.registers[register]

    def said(self, status: Status, note: str = "", /, **changes: int) -> Served:
        return Served(self.state, {"rax": int(status), **changes}, note)

    def refused(self, register: str, note: str = "", /, **changes: int) -> Served:
        return Served(self.state, refused(register) | changes, note)


def serve(
    number: int, state: TdxState, vcpu: int, version: int, registers: Mapping[str, int]
) -> Served:
    """Answer a leaf that the module has, in a version that it has; not TDG.VP.VMCALL."""
    return _SERVICES.get(number, _unassigned)(_Asked(state, vcpu, version, registers))


def refused(register: str) -> dict[str, int]:
    """Return the registers of a leaf refused because of one of them, of RAX for the leaf itself."""
    return {"rax": about(Status.TDX_OPERAND_INVALID, register)}


def _info(asked: _Asked) -> Served:
    vcpus = asked.state.vcpus
    return asked.said(
        Status.TDX_SUCCESS,
        rcx=asked.state.gpaw,
        rdx=SEPT_VE_DISABLE,
        r8=vcpus | vcpus << 32,
        r9=asked.vcpu,
        r10=1,  # TDG.SYS.RD can be asked
        r11=0,
    )


def _ve_info(asked: _Asked) -> Served:
    info = asked.state.pending[asked.vcpu]
    if info is None:
        return asked.said(
            Status.TDX_NO_VALID_VE_INFO, "no #VE waits", rcx=0, rdx=0, r8=0, r9=0, r10=0
        )
    # Version 1 has a category in the upper half of RCX: 0 is that of no #VE of the module's own.
    changes = {
        "rcx": info.reason, "rdx": info.qualification, "r8": info.gla, "r9": info.gpa,
        "r10": info.length,
    }  # fmt: skip
    after = asked.state.with_pending(asked.vcpu, None)
    return Served(after, {"rax": int(Status.TDX_SUCCESS)} | changes)


def _cpuid_ve(asked: _Asked) -> Served:
    state, wanted = asked.state, asked["rcx"]
    before = dict(state.cpuid_ve)
    locked = tdx_field.held(state, tdx_field.TD_CTLS) & tdx_field.LOCK
    if wanted >> 2 or (locked and before.get(asked.vcpu, 0) != wanted):
        return asked.refused("rcx")
    kept = tuple(sorted((before | {asked.vcpu: wanted}).items()))
    note = "CPUID raises no more #VE here" if wanted else ""
    return Served(replace(state, cpuid_ve=kept), {"rax": int(Status.TDX_SUCCESS)}, note)


def _accept(asked: _Asked) -> Served:
    state, page = asked.state, _page(asked, highest=1)
    if page is None:
        return asked.refused("rcx")
    start, end = page
    waiting = meet(state.unaccepted, start, end)
    if waiting == 0:
        status = Status.TDX_PAGE_ALREADY_ACCEPTED | (asked["rcx"] & 7)
        return Served(state, {"rax": status}, "it is accepted already")
    if waiting < end - start:
        return asked.said(Status.TDX_PAGE_SIZE_MISMATCH, "a part of it is accepted already")
    after = replace(state, unaccepted=remove(state.unaccepted, start, end))
    return Served(after, {"rax": int(Status.TDX_SUCCESS)})


def _vm_read(asked: _Asked) -> Served:
    identifier = asked["rdx"]
    none = {"r8": 0} | ({"rdx": NO_FIELD} if asked.version else {})
    if asked["rcx"]:
        return asked.refused("rcx", **none)
    if asked.version and tdx_field.is_none(identifier):
        first = none | {"rdx": tdx_field.following(None)}
        return asked.said(Status.TDX_METADATA_FIRST_FIELD_ID_IN_CONTEXT, **first)
    field = tdx_field.find(identifier)
    if isinstance(field, Status):
        return asked.said(field, **none)
    if not field.readable:
        return asked.said(Status.TDX_METADATA_FIELD_NOT_READABLE, field.name, **none)
    found = {"r8": tdx_field.held(asked.state, field.identifier) & field.readable}
    following = {"rdx": tdx_field.following(identifier)} if asked.version else {}
    return asked.said(Status.TDX_SUCCESS, field.name, **found, **following)


def _vm_write(asked: _Asked) -> Served:
    if asked["rcx"]:
        return asked.refused("rcx", r8=0)
    field = tdx_field.find(asked["rdx"])
    if isinstance(field, Status):
        return asked.said(field, r8=0)
    old = tdx_field.held(asked.state, field.identifier)
    new = tdx_field.written(field, old, asked["r8"], asked["r9"])
    if isinstance(new, Status):
        return asked.said(new, field.name, r8=0)
    kept = tuple(sorted((dict(asked.state.fields) | {field.identifier: new}).items()))
    changes = {"rax": int(Status.TDX_SUCCESS), "r8": old & field.readable}
    return Served(replace(asked.state, fields=kept), changes, field.name)


def _vp_read(asked: _Asked) -> Served:
    if asked["rcx"]:
        return asked.refused("rcx", rdx=NO_FIELD, r8=0)
    return _sys_read(asked)


def _vp_write(asked: _Asked) -> Served:
    if asked["rcx"]:
        return asked.refused("rcx", r8=0)
    return asked.said(Status.TDX_METADATA_FIELD_ID_INCORRECT, _NO_FIELDS, r8=0)


def _sys_read(asked: _Asked) -> Served:
    return asked.said(Status.TDX_METADATA_FIELD_ID_INCORRECT, _NO_FIELDS, rdx=NO_FIELD, r8=0)


def _sys_read_all(asked: _Asked) -> Served:
    wrong = not _at(asked, "rdx", PAGE_SIZE, shared=False)
    return asked.refused("rdx" if wrong else "rax", _NO_FIELDS, r8=NO_FIELD)


def _extend(asked: _Asked) -> Served:
    if not _at(asked, "rcx", _RTMR_DATA, shared=False):
        return asked.refused("rcx")
    return asked.refused("rdx" if asked["rdx"] >= _RTMRS else "rax", _UNMEASURED)


def _report(asked: _Asked) -> Served:
    if asked["rcx"] % _REPORT:
        return asked.refused("rcx")
    if not _at(asked, "rdx", _REPORT_DATA, shared=True):
        return asked.refused("rdx")
    if asked["r8"]:
        return asked.refused("r8")
    wrong = not _at(asked, "rcx", _REPORT, shared=True)
    return asked.refused("rcx" if wrong else "rax", _UNMEASURED)


def _verify(asked: _Asked) -> Served:
    return asked.refused("rax", _UNMEASURED)


def _service_td(asked: _Asked) -> Served:
    # Only a read has a next field to tell.
    none = {"r8": 0} | ({"rdx": NO_FIELD} if asked["rax"] & 0xFFFF == 18 else {})
    return asked.refused("rcx", "no TD is bound to this one", **none)


def _attributes(asked: _Asked) -> Served:
    wrong = not _at(asked, "rcx", 1, shared=False)
    return asked.refused("rcx" if wrong else "rax", _NO_SECURE_EPT, rcx=0, rdx=0)


def _set_attributes(asked: _Asked) -> Served:
    # The attributes for this TD itself and for inner guests, of which there are none, must be 0:
    # 16 bits of RDX and R8 each.
    for vm in range(4):
        for register in ("rdx", "r8"):
            if asked[register] >> 16 * vm & 0xFFFF:
                return asked.refused(register, _NO_INNER, rcx=0, rdx=0)
    wrong = _page(asked, highest=2) is None
    return asked.refused("rcx" if wrong else "rax", _NO_SECURE_EPT, rcx=0, rdx=0)


def _enter(asked: _Asked) -> Served:
    wrong = not _at(asked, "rdx", _REGISTER_LIST, shared=False)
    return asked.refused("rdx" if wrong else "rcx", _NO_INNER)


def _flush(asked: _Asked) -> Served:
    return asked.refused("rcx", _NO_INNER) if asked["rcx"] else asked.said(Status.TDX_SUCCESS)


def _flush_address(asked: _Asked) -> Served:
    return asked.refused("rcx", _NO_INNER)


def _unassigned(asked: _Asked) -> Served:
    return asked.refused("rax", "no device is assigned to this TD")


_SERVICES: dict[int, Callable[[_Asked], Served]] = {
    1: _info, 2: _extend, 3: _ve_info, 4: _report, 5: _cpuid_ve, 6: _accept, 7: _vm_read,
    8: _vm_write, 9: _vp_read, 10: _vp_write, 11: _sys_read, 12: _sys_read_all, 18: _service_td,
    20: _service_td, 22: _verify, 23: _attributes, 24: _set_attributes, 25: _enter, 26: _flush,
    27: _flush_address,
}  # fmt: skip


def _at(asked: _Asked, register: str, alignment: int, *, shared: bool) -> bool:
    # An address of the guest's: aligned, in width, private where it has to be.
    gpa = asked[register]
    bits = asked.state.shared_bit if shared else 0
    return gpa % alignment == 0 and asked.state.is_private(gpa & ~bits)


def _page(asked: _Asked, highest: int) -> tuple[int, int] | None:
    # A private page, first and behind the last address: its level in bits 2:0 of RCX, 0 is 4 KiB.
    raw = asked["rcx"]
    level, start = raw & 7, raw & ~0xFFF
    size = PAGE_SIZE << 9 * level
    if level > highest or raw & 0xFF8 or start % size or not asked.state.is_private(start):
        return None
    return start, start + size
