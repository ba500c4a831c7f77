"""The accesses of every instruction against iced-x86: direction and width.

What the two do not agree on is either recorded as not known, or listed here with the reason.
"""

from __future__ import annotations

import re
from collections import Counter
from random import Random

import iced_x86 as iced
import pytest

from tests.diff import host
from tests.diff.case import Case
from tests.diff.compare import Result
from tests.diff.encoding import CODES, encodings
from tests.diff.native import CODE, DATA, DATA_END, PATTERN
from tracer.errors import EmulationError
from tracer.look.explanation import touches
from tracer.x86 import decode as decoder
from tracer.x86.decode import decode
from tracer.x86.opcode import rows_of_map
from tracer.x86.prefix import Head
from tracer.x86.state import CpuState, Mode

_READS = (
    iced.OpAccess.READ, iced.OpAccess.COND_READ, iced.OpAccess.READ_WRITE,
    iced.OpAccess.READ_COND_WRITE,
)  # fmt: skip
_WRITES = (
    iced.OpAccess.WRITE, iced.OpAccess.COND_WRITE, iced.OpAccess.READ_WRITE,
    iced.OpAccess.READ_COND_WRITE,
)  # fmt: skip
_FACTORY = iced.InstructionInfoFactory()

# What iced decodes only when it is asked for the instructions of old or odd processors.
_ELSEWHERE = re.compile(
    "MVEX_|VEX_KNC_|BND|CMPXCHG486|CYRIX|JMPE|UMOV|LOADALL|STOREALL|ALTINST|BB._RESET|CPU_|DMINT|"
    "RDM$|RDSHR|WRSHR|RSDC|RSLDT|RSTS|SVDC|SVLDT|SVTS|SMINT|X?I?BTS_|MOV_.*TR|POPW_CS|CL1INVMB|"
    "PCOMMIT|R[DW]UDBG|WRUDBG|MONTMUL|P(ADDSI|AVEB|DISTIB|MACHRI|MAG|MULHRI|MULHRW_MM|MV|SUBSI)|"
    "D3NOW_PFR(CP|SQRT)V|F(NST[DS][WG]|ST[DS][WG]_|RICHOP|RINEAR|RINT2|RSTPM|TSTP)"
)
# WAIT and an instruction are one for iced; near branches with 66 are AMD's; 90 is NOP.
_SEVERAL = re.compile(
    "F(CLEX|DISI|ENI|INIT|SETPM)|F(SAVE|STCW|STENV|STSW)_|(CALL|JMP|RETN|RET|J.*|LOOP.*)_?(REL|RM|W).*"
    "|XCHG_R.*_(AX|EAX|RAX)|RESERVEDNOP.*0F(0D|18)|UD0|RETNW"
)

# Not known here: the reason is beside each.
_UNKNOWN = re.compile(
    "INT(1|3|_IMM8|O)$|"  # iced: nothing; the CPU reads a gate and writes a frame
    "RESERVEDNOP.*0F1[AB]|"  # on a CPU with MPX another instruction
    "ENCL[SUV]|PCONFIG|GETSEC|RSM|INCSSP|SETSSBSY|SAVEPREVSSP|SENDUIPI|SLWPCB|LLWPCB|"
    "ERET[SU]|RDMSRLIST|WRMSRLIST|PBNDKB|"  # structures of the CPU
    "MONTMUL|X?SHA|XCRYPT|XSTORE|CCS_|VIA_UNDOC|"  # PadLock: as much as registers say
    "XSAVE|XRSTOR|TILELOAD|TILESTORED"  # as much as XCR0 or the tile configuration say
)
_UNKNOWN_WITH_66 = re.compile("CALL_(REL32_|RM)64|JMP_RM64|RETNQ")  # AMD's processors obey it
_NAMED_ONLY = re.compile("CLFLUSH|CLWB")  # iced: a read of a byte, which is never delivered
_ADDED = {  # iced has nothing of these
    "CLZERO": [("write", 64)],  # AMD APM vol. 3; test_clzero_writes_a_line
    "MONITOR": [("read", 1)],  # SDM vol. 2: checked as a load of a byte
}


def _theirs(insn: iced.Instruction) -> Counter[tuple[str, int | None]]:
    found: Counter[tuple[str, int | None]] = Counter()
    for memory in _FACTORY.info(insn).used_memory():
        width = iced.MemorySizeExt.size(memory.memory_size) or None
        found["read", width] += memory.access in _READS
        found["write", width] += memory.access in _WRITES
    return +found


def _ours(code: bytes, mode: Mode) -> Counter[tuple[str, int | None]]:
    return Counter((touch.direction, touch.width) for touch in touches(decode(code, 0, mode)))


def _expected(name: str, insn: iced.Instruction) -> Counter[tuple[str, int | None]]:
    if _NAMED_ONLY.match(name):
        return Counter()
    for prefix, added in _ADDED.items():
        if name.startswith(prefix):
            return Counter(added)
    return _theirs(insn)


def _known(name: str, code: bytes, mode: Mode) -> bool:
    if _UNKNOWN_WITH_66.match(name) and Head(code, mode).operand:
        return False
    return not re.search(rf"^(?:XOP_|VEX_)?(?:{_UNKNOWN.pattern})", name)


@pytest.mark.parametrize("mode", list(Mode))
def test_every_instruction(mode: Mode) -> None:
    wrong, tried, unmade = [], 0, []
    for code, name in CODES.items():
        told = iced.OpCodeInfo(code)
        if not told.is_instruction or not getattr(told, f"mode{mode.value}"):
            continue
        made = list(encodings(code, mode))
        if not made and not _ELSEWHERE.match(name) and not _SEVERAL.match(name):
            unmade.append(name)
        for each in made:
            insn = iced.Decoder(mode.value, each, ip=0).decode()
            tried += 1
            expected = _expected(name, insn)
            try:
                ours = _ours(each, mode)
            except EmulationError as error:
                if expected:  # what touches no memory is capstone's to know
                    wrong.append(f"{name} {each.hex(' ')}: {insn}: {error}")
                continue
            unsure = [key for key in ours if key[0] == "unknown" or key[1] is None]
            if ours != expected and (_known(name, each, mode) or not unsure):
                told_by = f"ours {[*ours.elements()]}, iced {[*expected.elements()]}"
                wrong.append(f"{name} {each.hex(' ')}: {insn}: {told_by}")
    assert not unmade, unmade
    assert tried > {Mode.LONG: 40_000, Mode.COMPAT32: 30_000, Mode.COMPAT16: 20_000}[mode]
    assert not wrong, "\n".join([f"{len(wrong)} of {tried} differ", *wrong[:40]])


def _random_code(random: Random) -> bytes:
    prefixes = bytes(
        random.choice(b"\x66\x67\xf2\xf3\x2e\x64\x36\x48\x41\x4f")
        for _ in range(random.choice((0, 0, 0, 1, 1, 2, 3)))
    )
    segment = bytes(random.choice(b"\x67\x2e\x64") for _ in range(random.choice((0, 0, 0, 1))))
    match random.choice(("legacy", "legacy", "vex", "xop", "evex")):
        case "legacy":
            escape = random.choice(
                (b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a", b"\x0f\xae", b"\x0f\xc7")
            )
            lead = prefixes + escape
        case "vex":
            payload = random.choice((0x78, random.randrange(256)))
            lead = segment + bytes(
                [0xC4, random.randrange(8) << 5 | random.choice((1, 2, 3)), payload]
            )
        case "xop":
            payload = random.choice((0x78, random.randrange(256))) & 0xFC
            lead = segment + bytes(
                [0x8F, random.randrange(8) << 5 | random.choice((8, 9, 10)), payload]
            )
        case _:
            first = 0xF0 | random.choice((1, 2, 3, 5, 6))
            second = random.choice((0x78, random.randrange(256))) | 4
            last = random.choice((0x08, 0x28, 0x48, random.randrange(256)))
            lead = segment + bytes([0x62, first, second, last])
    return (lead + random.randbytes(15))[:15]


@pytest.mark.parametrize("mode", list(Mode))
def test_random_bytes(mode: Mode) -> None:
    """What iced says accesses memory is that instruction here too: length, direction, width."""
    random = Random(mode.value)
    compared = 0
    wrong = []
    for _ in range(12_000):
        code = _random_code(random)
        insn = iced.Decoder(mode.value, code, ip=0).decode()
        name = CODES[insn.code]
        expected = _expected(name, insn)
        if not expected or not _known(name, code, mode):
            continue
        try:
            ours = decode(code, 0, mode)
        except EmulationError as error:
            wrong.append(f"{code.hex(' ')}: {insn}: {error}")
            continue
        compared += 1
        found = Counter((touch.direction, touch.width) for touch in touches(ours))
        if ours.rep is not None:  # iced tells of the whole, not of an iteration
            found, expected = (
                Counter({d: n for (d, _), n in c.items()}) for c in (found, expected)
            )
        if ours.length != insn.len or found != expected:
            wrong.append(f"{code.hex(' ')}: {insn} / {ours.text}: {found}, {expected}")
    assert compared > 1_000
    assert not wrong, "\n".join([f"{len(wrong)} of {compared} differ", *wrong[:40]])


def test_the_comparison_notices_a_wrong_row(monkeypatch: pytest.MonkeyPatch) -> None:
    table = rows_of_map("evex", 2)
    monkeypatch.setitem(table, 0x88, table[0x8A])  # VEXPANDPS: its load taken for a store
    decoder._decode_at.cache_clear()
    with pytest.raises(AssertionError, match="VEXPANDPS"):
        test_every_instruction(Mode.LONG)
    decoder._decode_at.cache_clear()


def test_clzero_writes_a_line() -> None:
    if "clzero" not in host.features():
        pytest.skip("the host CPU has no CLZERO")
    cpu = CpuState(gpr=(DATA + 0x12C, *[0] * 3, DATA_END, *[0] * 11), rip=CODE, mode=Mode.LONG)
    (result,) = host.run([Case(bytes.fromhex("0f01fc"), cpu, {})])
    assert isinstance(result, Result)
    changed = [n for n, byte in enumerate(result.ram) if byte != PATTERN[n]]
    assert set(changed) <= set(range(0x100, 0x140)) and len(changed) > 60
    assert not any(result.ram[0x100:0x140])
