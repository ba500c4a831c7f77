"""What an instruction is about to do, told before it does."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from random import Random

import pytest
from stop_sample import ANSWER, DEVICE, LINEAR, NVME, RIP, STACK, space, state, stepped, stop

from tests.diff.case import EDGES, cases
from tracer.access.decision import Pending
from tracer.access.transfer import Transfer, cut
from tracer.errors import EmulationError, GuestException
from tracer.look.change import Change
from tracer.look.plan import Plan, plan_of
from tracer.look.plan_view import plan_lines, plan_object
from tracer.trace.member import Space
from tracer.x86.bus import In, Load, Out
from tracer.x86.decode import decode
from tracer.x86.emulate import execute, undefined_flags
from tracer.x86.emulate import plan as operands_of
from tracer.x86.emulate.search import STRING_COMPARISONS
from tracer.x86.forms import FORMS, Form
from tracer.x86.state import GPR, CpuState, Flag, Mode


def change(plan: Plan, name: str) -> Change:
    (found,) = [change for change in plan.registers if change.name == name]
    return found


def test_a_plain_read() -> None:
    assert plan_lines(plan_of(stop("8b06"), "CSTS"), 80) == [
        "#1,234 1.126960 vcpu0 nvme_pci_reg_read32+0xb at 0xffffffff81a3b2c0",
        "  8b 06  mov eax, dword ptr [rsi]",
        "handled     emulated",
        "operand     [rsi] = 0xffffc9000000401c → physical 0xfebf001c nvme+0x1c",
        "accesses    => now  R4  nvme+0x1c CSTS  to be read",
        "registers   rax  0x1111222233334444  → the 4 bytes read, zero-extended",
        "            rsi  0xffffc9000000401c",
        "            rip  0xffffffff81a3b2c0  → 0xffffffff81a3b2c2 (+2)",
        "TDX         TDG.VP.VMCALL<#VE.RequestMMIO> rax=0x0 rcx=0xffcc r10=0x0 r11=0x30",
        "            r12=0x4 r13=0x0 r14=0x80000febf001c r15=0x0 → rax=0x0 r10=0x0",
        "            r11=the value read",
        "SEV-ES      MMIO exit exit_code=0x80000001 info1=0xfebf001c info2=0x4",
        "            buffer=the value read",
        "verdicts    emulated  linux-tdx, linux-tdx-5.19, linux-tdx-v5, linux-sev,",
        "                      linux-sev-5.10: decoded as READ",
    ]


@pytest.mark.parametrize(
    ("code", "formula", "linear"),
    [
        ("c7448b1c01000000", "0xffffc90000004000 + 0x3*4 + 0x1c", LINEAR + 0x28),
        ("8b46fc", "0xffffc9000000401c - 0x4", LINEAR + 0x18),
        ("8b040b", "0xffffc90000004000 + 0x3", LINEAR + 3),
        ("658b042510400000", "0xffffc90000000000 (gs_base) + 0x4010", LINEAR + 0x10),
        ("658b0410", "0xffffc90000000000 (gs_base) + 0x2000 + 0x2000", LINEAR),
        ("a1" + (LINEAR + 8).to_bytes(8, "little").hex(), "0xffffc90000004008", LINEAR + 8),
        ("0fa30b", "0xffffc90000004000", LINEAR),
        ("d7", "0xffffc90000004000 + 0x44 (al)", LINEAR + 0x44),
    ],
)
def test_how_an_address_is_formed(code: str, formula: str, linear: int) -> None:
    cpu = state(rdx=0x2000)
    if code == "658b0410":
        cpu = state(rax=0x2000, rdx=0x2000)
    (address,) = plan_of(stop(code, cpu)).addresses
    assert (address.formula, address.linear) == (formula, linear)
    assert address.physical == DEVICE + linear - LINEAR


def test_bit_strings_reach_beyond_their_operand() -> None:
    (address,) = plan_of(stop("0fab0b", state(rcx=64))).addresses
    assert address.formula == "0xffffc90000004000 + 0x8 (from the bit offset)"
    assert address.place == "nvme+0x8"


def test_a_shorter_address_wraps() -> None:
    code, cpu = bytes.fromhex("678b4304"), state(rbx=(1 << 40) | 0xFFFF_FFFE)
    pending = pending_of(code, cpu)
    assert pending is not None
    (address,) = plan_of(pending).addresses
    assert address.formula == "0xfffffffe + 0x4 (modulo 2^32)" and address.linear == 2


def test_rip_relative() -> None:
    distance = LINEAR - (RIP + 6)
    cpu = replace(state(), rip=LINEAR - 0x1000)
    assert distance < 0
    code = "8b05" + (0x1004 - 6).to_bytes(4, "little").hex()
    (address,) = plan_of(stop(code, cpu)).addresses
    assert address.text == "[rip + 0xffe]"
    assert address.formula == "0xffffc90000003006 (next rip) + 0xffe"
    assert address.linear == LINEAR + 4


@pytest.mark.parametrize(
    ("code", "name", "how"),
    [
        ("0fb606", "rax", "the byte read, zero-extended"),
        ("0fbe06", "rax", "the byte read, sign-extended to 4 bytes, zeroes above"),
        ("480fbe06", "rax", "the byte read, sign-extended"),
        ("488b06", "rax", "the 8 bytes read"),
        ("8a26", "rax", "ah = the byte read; the rest kept"),
        ("668b06", "rax", "ax = the 2 bytes read; the rest kept"),
        ("2306", "rax", "the 4 bytes read & 0x33334444, zero-extended"),
        ("0306", "rax", "the 4 bytes read + 0x33334444, zero-extended"),
        ("0fc8" "0f38f006", "rax", None),
        ("ac", "rax", "al = the byte read; the rest kept"),
        ("f30f6f0e", "xmm1", "the 16 bytes read"),
        ("8706", "rax", "the 4 bytes read, zero-extended"),
        ("0faf06", "rax", "depends on the value read, by imul"),
        ("f626", "rax", "depends on the value read, by mul"),
        ("0fb10e", "rax", "depends on whether the value read is the one expected"),
    ],
)  # fmt: skip
def test_how_a_register_depends_on_the_answer(code: str, name: str, how: str | None) -> None:
    if how is None:
        code, how = "0f38f006", "the 4 bytes read, in reverse order, zero-extended"
    cpu = state(rsi=LINEAR)
    found = change(plan_of(stop(code, cpu)), name)
    assert (found.after, found.how) == (None, how)


def test_what_does_not_depend_is_exact() -> None:
    plan = plan_of(stop("f3a5", state(rdi=STACK)))
    assert change(plan, "rcx").after == 2
    assert change(plan, "rsi").after == LINEAR + 0x20
    assert change(plan, "rdi").after == STACK + 4
    assert "rip" not in [change.name for change in plan.registers]
    assert plan.notes == ("One iteration of rep: 3 left by rcx, this one included.",)


def shown(plan: Plan) -> list[tuple[str, str, int, str | None, int | None, str | None]]:
    return [(a.moment, a.direction, a.width, a.place, a.value, a.how) for a in plan.accesses]


def test_what_a_port_gives_is_not_known_before() -> None:
    plan = plan_of(stop("6d", state(rdi=LINEAR)))
    assert [access.moment for access in plan.accesses] == ["pending"]
    assert change(plan, "rdi").after == LINEAR + 4 and change(plan, "rdx").after is None
    # Over the end of a page the port has been read for both parts, and one of them is told.
    split = stop("6d", state(rdi=LINEAR + 0xFFE))
    (_, ahead) = plan_of(split).accesses
    assert (ahead.direction, ahead.value, ahead.how) == (
        "write", None, "depends on the value read, by ins"
    )  # fmt: skip


def test_outs_reads_a_device_and_no_more_of_memory() -> None:
    plan = plan_of(stop("f36f", state(rsi=LINEAR)))
    assert [(access.direction, access.moment) for access in plan.accesses] == [("read", "pending")]
    assert change(plan, "rsi").after == LINEAR + 4 and change(plan, "rcx").after == 2


def test_accesses_in_order() -> None:
    low = ANSWER & 0xFFFFFFFF
    assert shown(plan_of(stop("a5", state(rdi=STACK)))) == [
        ("pending", "read", 4, "nvme+0x1c", None, None),
        ("ahead", "write", 4, "RAM", None, "the 4 bytes read"),
    ]
    assert shown(plan_of(stop("a5", state(rsi=STACK, rdi=LINEAR)))) == [
        ("done", "read", 4, "RAM", low, None),
        ("pending", "write", 4, "nvme+0x0", low, None),
    ]
    assert shown(plan_of(stop("ff7304"))) == [
        ("pending", "read", 8, "nvme+0x4", None, None),
        ("ahead", "write", 8, "RAM", None, "the 8 bytes read"),
    ]
    assert shown(plan_of(stop("830b01", index=1))) == [
        ("done", "read", 4, "nvme+0x0", low, None),
        ("pending", "write", 4, "nvme+0x0", low | 1, None),
    ]
    assert shown(plan_of(stop("0103"))) == [
        ("pending", "read", 4, "nvme+0x0", None, None),
        ("ahead", "write", 4, "nvme+0x0", None, "the 4 bytes read + 0x33334444"),
    ]
    assert shown(plan_of(stop("8703")))[1][4:] == (0x3333_4444, None)
    assert shown(plan_of(stop("0fb10b")))[1][5] == (
        "depends on whether the value read is the one expected"
    )


def test_one_that_crosses_a_page_has_two() -> None:
    plan = plan_of(stop("8b83fe0f0000", index=1))
    assert [(a.moment, a.width, a.place) for a in plan.accesses] == [
        ("done", 2, "nvme+0xffe"), ("pending", 2, "nvme+0x1000"),
    ]  # fmt: skip
    # The first half is known, and the register is still the whole of what was read.
    assert change(plan, "rax").how == "the 4 bytes read, zero-extended"
    assert plan.verdicts["linux-tdx"].outcome == "oops"  # judged by where the operand starts


def test_an_answered_read_leaves_nothing_open() -> None:
    pending = stop("8b06")
    answered = replace(pending, transfer=replace(pending.transfer, value=0x11))
    plan = plan_of(answered)
    assert change(plan, "rax").after == 0x11
    assert plan.tdvmcall is not None and plan.tdvmcall.returned["r11"] == 0x11


def test_flags() -> None:
    flags = {flag.name: flag for flag in plan_of(stop("0103")).flags}
    assert all(flags[name].after is None for name in ("CF", "PF", "AF", "ZF", "SF", "OF"))
    flags = {flag.name: flag for flag in plan_of(stop("830b01")).flags}
    assert flags["ZF"].after is False and flags["AF"].undefined  # a number with bit 0 is not 0
    assert flags["SF"].after is None and "CF" not in flags
    told = "\n".join(plan_lines(plan_of(stop("830b01")), 120))
    assert "→ ZF 1→0, PF SF by the value read, AF undefined" in told


def test_exceptions_of_some_answers() -> None:
    plan = plan_of(stop("f733"))
    assert plan.exceptions == ("#DE",)
    assert "raises      #DE for some values read" in plan_lines(plan)


def test_lost_atomicity() -> None:
    note = "Not atomic here: the device sees a read, then a write."
    assert plan_of(stop("f0830b01")).notes == (note,)
    assert plan_of(stop("8703")).notes == (note,)
    assert plan_of(stop("830b01")).notes == ()


def test_what_the_vcpu_does_itself_is_not_predicted() -> None:
    plan = plan_of(stepped("dd4320", "not emulated: fld", 8))
    assert not plan.predicted and plan.handled == "stepped"
    assert plan.addresses[0].physical == DEVICE + 0x20
    lines = plan_lines(plan)
    assert "accesses    => now  R8  nvme+0x20  made by the vCPU, which does not show it" in lines
    assert "changes     known once the vCPU has carried it out" in lines
    plan = plan_of(stepped("0f584320", "not emulated: addps", 16))
    assert plan.notes == ("Its accesses, as far as is known: read 16 bytes.",)
    assert "address     0xffffc90000004020 → physical 0xfebf0020 nvme+0x20" in plan_lines(plan)


@pytest.mark.parametrize(
    ("code", "space", "address", "place", "told"),
    [
        ("0f32", "msr", 0xC000_0080, ("msr", 8 * 0xC000_0080), "msr 0xc0000080"),
        ("0fa2", "cpuid", 7, ("cpuid", (1 << 32 | 7) * 16 + 4), "cpuid 0x7.1"),
        ("ec", "port", 0x64, ("i8042.cmd", 0), "i8042.cmd+0x0 @0x64"),
    ],
)
def test_an_input_is_told_as_it_is_shown(
    code: str, space: Space, address: int, place: tuple[str, int], told: str
) -> None:
    asked = Transfer(
        "read", 0, address, 4, None, None, traced=True, ram=False, space=space, place=place
    )
    waits = stepped(code, "", 4)
    plan = plan_of(replace(waits, via="monitor", transfer=asked, foretold=(asked,)))
    (access,) = plan.accesses
    assert access.place == told


def test_bytes_that_cannot_be_decoded() -> None:
    plan = plan_of(stepped("0f040b90", "not an instruction", 0, "write"))
    lines = plan_lines(plan)
    assert lines[1] == "  0f 04 0b 90  (bad)"
    assert "accesses    => now  W?  nvme+0x20  made by the vCPU, which does not show it" in lines
    assert plan.verdicts == {} and plan_object(plan)["text"] is None


CODES = ("8b06", "c7448b1c01000000", "0fb606", "f0830b01", "0fb10b", "f30f6f0e", "f733", "ff7304")


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("code", CODES)
def test_lines_fit(code: str, columns: int) -> None:
    assert max(map(len, plan_lines(plan_of(stop(code)), columns))) <= columns


@pytest.mark.parametrize("code", CODES)
def test_colours_add_nothing_but_escapes(code: str) -> None:
    plan = plan_of(stop(code))
    coloured = plan_lines(plan, 80, colour=True)
    assert [re.sub(r"\x1b\[\d*m", "", line).rstrip() for line in coloured] == plan_lines(plan, 80)
    assert any("\x1b[" in line for line in coloured)


def test_what_could_steer_a_terminal_is_escaped() -> None:
    pending = replace(stop("8b06"), symbol="evil\x1b[2J")
    assert "\x1b" not in "\n".join(plan_lines(plan_of(pending, "A\x07B")))


def test_object() -> None:
    found = json.loads(json.dumps(plan_object(plan_of(stop("8b06"), "CSTS"))))
    assert found["accesses"][0]["register"] == "CSTS"
    assert found["registers"]["rax"] == {
        "before": "0x1111222233334444",
        "after": None,
        "how": "the 4 bytes read, zero-extended",
    }
    assert found["operands"][0]["linear"] == hex(LINEAR + 0x1C)
    assert found["tdvmcall"]["in"]["r12"] == "0x4" and found["ghcb"]["info2"] == "0x4"


def pending_of(code: bytes, cpu: CpuState) -> Pending | None:
    # The first access of an instruction that is all about the device.
    insn = decode(code, cpu.rip, cpu.mode)
    foretold = [
        Transfer("write" if write else "read", at, at, width, None, NVME, traced=True, ram=False)
        for operand in operands_of(insn, cpu)
        for write in (False, True)
        if (operand.write if write else operand.read)
        for at, width in cut(operand.linear, operand.width)
    ]
    if not foretold:
        return None
    return Pending(0, 0, 0, None, code, insn, cpu, space(), foretold[0], (), tuple(foretold))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.opcode.text.replace(" ", "_"))
def test_every_form_does_what_was_told(form: Form) -> None:
    mode = Mode.COMPAT32 if form.only == "i64" else Mode.LONG
    random = Random(form.opcode.text)
    for case in cases(form, mode, 2, 1):
        try:
            pending = pending_of(case.code, case.cpu)
        except EmulationError:
            continue
        if pending is None:
            continue
        plan, insn = plan_of(pending), pending.insn
        assert insn is not None
        assert plan.predicted != (form.operation in STRING_COMPARISONS)
        if not plan.predicted:
            continue
        for _ in range(25):
            after, stores = finish(pending, random)
            if after is None:
                assert plan.exceptions
                continue
            told = {change.name: change for change in plan.registers}
            for name, old, new in zip(GPR, case.cpu.gpr, after.gpr, strict=True):
                if old != new:
                    assert name in told, f"{insn.text}: {name} was not told to change"
                if name in told and told[name].after is not None:
                    assert told[name].after == new, insn.text
            assert told["rip"].after in (None, after.rip) if "rip" in told else (
                after.rip == case.cpu.rip
            )  # fmt: skip
            known = {flag.name: flag.after for flag in plan.flags if not flag.undefined}
            for flag in Flag:
                if flag & undefined_flags(insn, case.cpu):
                    continue
                expected = known.get(flag.name or "", bool(case.cpu.rflags & flag))
                assert expected in (None, bool(after.rflags & flag)), (insn.text, flag)
            for access in plan.accesses:
                if access.moment == "ahead" and access.value is not None:
                    assert stores.get(access.linear) == access.value, insn.text


def finish(pending: Pending, random: Random) -> tuple[CpuState | None, dict[int, int]]:
    """Execute with any answers; the state after it, and the stores by where their pieces are."""
    assert pending.insn is not None
    stores: dict[int, int] = {}
    try:
        emulation = execute(pending.insn, pending.cpu)
        for access in emulation:
            ones = (1 << 8 * access.width) - 1
            if isinstance(access, Load | In):
                near = random.choice((*pending.cpu.gpr, *EDGES)) + random.choice((-1, 0, 1))
                answer = random.choice((near, random.getrandbits(8 * access.width))) & ones
                emulation.answer = answer
                continue
            if isinstance(access, Out):
                continue
            for at, width in cut(access.linear, access.width):
                shift = 8 * (at - access.linear)
                stores[at] = access.value >> shift & ((1 << 8 * width) - 1)
    except GuestException:
        return None, stores
    return emulation.after, stores
