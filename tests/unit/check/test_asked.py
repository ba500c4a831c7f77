"""A confidential guest's request is held to the instruction that it is for."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import replay_sample
import trace_sample as sample

from tracer.check.asked import refused
from tracer.check.replay import Replay
from tracer.trace.call import Hypercall
from tracer.trace.record import Intercept

SHARED = 1 << 47
START = sample.START["nvme"]
AT = replay_sample.LINEAR + START


def asked(
    record: Intercept, *, agrees: bool = True, shared: int = SHARED, **registers: int
) -> Intercept:
    """Return the record as of an access that the guest asked for, with other registers of it."""
    access = record.accesses[0]
    given = {
        "rax": 0, "rcx": 0xFFCC, "r10": 0, "r11": 48, "r12": access.width,
        "r13": access.direction == "write", "r14": access.physical | shared,
        "r15": (access.value or 0) if access.direction == "write" else 0,
    }  # fmt: skip
    returned = {"rax": 0, "r10": 0}
    if access.direction == "read":
        returned["r11"] = access.value or 0
    returned |= {
        name: registers.pop(f"out_{name}") for name in ("r10", "r11") if f"out_{name}" in registers
    }
    call = Hypercall(given=given | registers, returned=returned)
    changes: dict[str, Any] = {"via": "guest", "asked": call, "agrees": agrees}
    if not agrees:
        changes["after"] = {}
    return msgspec.structs.replace(record, **changes)


def differing(record: Intercept) -> set[str]:
    found = Replay([sample.region("nvme")]).add(record)
    return set() if found is None else {contrast.name for contrast in found.contrasts}


READ = replay_sample.record(0, "8b 41 1c", replay_sample.cpu(rcx=AT))
WRITE = replay_sample.record(0, "89 41 14", replay_sample.cpu(rcx=AT, rax=0x460001))
ADD = replay_sample.record(0, "01 41 14", replay_sample.cpu(rcx=AT, rax=1))


@pytest.mark.parametrize("record", [READ, WRITE])
@pytest.mark.parametrize("shared", [1 << 47, 1 << 51])
def test_what_was_asked_is_what_the_instruction_makes(record: Intercept, shared: int) -> None:
    assert differing(asked(record, shared=shared)) == set()


def test_registers_that_ask_for_another_access_are_seen() -> None:
    assert differing(asked(READ, r12=2)) == {"access 0"}
    assert differing(asked(READ, r13=1)) == {"access 0"}
    assert differing(asked(READ, r14=START + 0x20 | SHARED)) == {"access 0"}
    assert differing(asked(WRITE, r15=5)) == {"value"}
    assert differing(asked(READ, r11=12)) == {"asked"}
    assert differing(asked(READ, out_r11=5)) == {"r11"}
    # Bits beyond the width say nothing.
    assert differing(asked(WRITE, r15=0xFFFF_FFFF_0046_0001)) == set()


def test_an_agreement_that_is_none_and_a_disagreement_that_is_one_are_seen() -> None:
    assert differing(asked(READ, agrees=False)) == {"agrees"}
    other = sample.device("nvme", 0x1C, 2, "read", 0x7788)
    narrow = msgspec.structs.replace(READ, accesses=[other])
    assert differing(asked(narrow, agrees=False)) == set()
    assert differing(asked(narrow)) == {"agrees"}


def test_an_access_that_no_instruction_made_is_no_agreement() -> None:
    bare = msgspec.structs.replace(
        READ, code=bytes.fromhex("660f01cc"), text="tdcall", error_code=0x100, cr2=0
    )
    assert differing(asked(bare, agrees=False)) == set()
    assert differing(asked(bare)) == {"agrees"}


def test_the_rest_of_an_agreeing_record_is_held_to_the_instruction() -> None:
    wrong = msgspec.structs.replace(asked(READ), after=READ.after | {"rdx": 1})
    assert differing(wrong) == {"rdx"}


def test_a_record_that_lacks_what_was_asked_is_seen() -> None:
    assert differing(msgspec.structs.replace(asked(READ), asked=None)) == {"asked"}
    assert differing(msgspec.structs.replace(asked(READ), agrees=None)) == {"asked"}
    assert differing(asked(ADD)) == {"asked"}


# ---- an SEV-ES guest's


def exited(record: Intercept, *, agrees: bool = True, **fields: int) -> Intercept:
    """Return the record as of an access that the guest asked for in its GHCB."""
    access = record.accesses[0]
    write = access.direction == "write"
    given = {
        "sw_exit_code": 0x8000_0002 if write else 0x8000_0001,
        "sw_exit_info_1": access.physical, "sw_exit_info_2": access.width,
        "sw_scratch": 0x1234_5800,
    }  # fmt: skip
    returned = {"sw_exit_info_1": 0, "sw_exit_info_2": 0}
    (given if write else returned)["shared_buffer"] = access.value or 0
    for name, value in fields.items():
        (returned if name.startswith("out_") else given)[name.removeprefix("out_")] = value
    call = Hypercall(given=given, returned=returned)
    changes: dict[str, Any] = {"via": "guest", "asked": call, "agrees": agrees}
    if not agrees:
        changes["after"] = {}
    return msgspec.structs.replace(record, **changes)


@pytest.mark.parametrize("record", [READ, WRITE])
def test_what_was_exited_for_is_what_the_instruction_makes(record: Intercept) -> None:
    assert differing(exited(record)) == set()


def test_fields_that_ask_for_another_access_are_seen() -> None:
    assert differing(exited(READ, sw_exit_info_2=8)) == {"access 0"}
    assert differing(exited(READ, sw_exit_code=0x8000_0002)) == {"access 0"}
    assert differing(exited(READ, sw_exit_info_1=START + 0x20)) == {"access 0"}
    assert differing(exited(WRITE, shared_buffer=5)) == {"value"}
    assert differing(exited(READ, sw_exit_code=0x7C)) == {"asked"}
    assert differing(exited(READ, sw_exit_info_2=3)) == {"asked"}
    assert differing(exited(WRITE, shared_buffer=1 << 32)) == {"asked"}
    assert differing(exited(READ, out_shared_buffer=5)) == {"shared_buffer"}
    assert differing(exited(READ, agrees=False)) == {"agrees"}


def test_what_a_host_refused_has_not_been_read() -> None:
    fields = {"out_sw_exit_info_1": 2, "out_sw_exit_info_2": 6}
    assert refused(exited(READ, **fields)) and not refused(exited(READ))
