"""The rows of the instruction table that work on general-purpose registers.

Ref: Intel SDM vol. 2, the pages of each instruction; `tracer.x86.forms.row` explains the columns.
"""

from __future__ import annotations

from tracer.x86.forms.row import NO_FLAGS, Access, Form, Lock, Repeat, row
from tracer.x86.state import STATUS_FLAGS, Flag

R, W, RW, NONE = Access.R, Access.W, Access.RW, Access.NONE
CF, PF, AF, ZF, SF, OF = Flag.CF, Flag.PF, Flag.AF, Flag.ZF, Flag.SF, Flag.OF

CONDITIONS = (
    "o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g",
)  # fmt: skip
"""Condition codes in encoding order (Intel SDM vol. 1, appendix B)."""


# fmt: off
def _arithmetic(n: int, name: str) -> list[Form]:
    # The eight operations that share one encoding pattern (SDM vol. 2D, table A-2, group 1).
    undefined = AF if name in ("or", "and", "xor") else NO_FLAGS
    flags = STATUS_FLAGS & ~undefined
    access = R if name == "cmp" else RW
    lock: Lock = "" if name == "cmp" else "lockable"
    return [
        row(f"{n * 8 + 0:02X}", name, "Eb Gb",  access, flags, undefined, lock=lock),
        row(f"{n * 8 + 1:02X}", name, "Ev Gv",  access, flags, undefined, lock=lock),
        row(f"{n * 8 + 2:02X}", name, "Gb Eb",  access, flags, undefined),
        row(f"{n * 8 + 3:02X}", name, "Gv Ev",  access, flags, undefined),
        row(f"80 /{n}",         name, "Eb Ib",  access, flags, undefined, lock=lock),
        row(f"81 /{n}",         name, "Ev Iz",  access, flags, undefined, lock=lock),
        row(f"82 /{n}",         name, "Eb Ib",  access, flags, undefined, lock=lock, only="i64"),
        row(f"83 /{n}",         name, "Ev Ibs", access, flags, undefined, lock=lock),
    ]


def _shift(n: int, name: str, flags: Flag, undefined: Flag) -> list[Form]:
    # Group 2. A shift by one defines OF; else it depends on the count: `tracer.x86.emulate.shift`.
    return [
        *(row(f"{byte} /{n}", name, operands, RW, flags, undefined | OF) for byte, operands in (
            ("C0", "Eb Ib"), ("C1", "Ev Ib"), ("D2", "Eb CL"), ("D3", "Ev CL"))),
        *(row(f"{byte} /{n}", name, operands, RW, flags | OF, undefined) for byte, operands in (
            ("D0", "Eb 1"), ("D1", "Ev 1"))),
    ]


def _bit(digit: int, byte: str, name: str, access: Access, lock: Lock) -> list[Form]:
    undefined = OF | SF | AF | PF
    return [
        row(f"0F {byte}", name, "Ev Gv", access, CF, undefined,
            operation=f"{name} string", lock=lock),
        row(f"0F BA /{digit}", name, "Ev Ib", access, CF, undefined, lock=lock),
    ]


def _compare(opcode: str, name: str, operands: str, operation: str) -> Form:
    return row(opcode, name, operands, R, STATUS_FLAGS, operation=operation, repeat=Repeat.COMPARE)


def _condition(n: int, cc: str) -> list[Form]:
    return [
        row(f"0F {0x40 + n:02X}", "cmov" + cc, "Gv Ev", RW),
        row(f"0F {0x90 + n:02X}", "set" + cc, "Eb", W),
        row(f"VEX.128.66.0F38 {0xE0 + n:02X}", f"cmp{cc}xadd", "My Gy By", RW, STATUS_FLAGS,
             lock="always", aligned=True, only="o64"),
    ]


_GROUP1 = ("add", "or", "adc", "sbb", "and", "sub", "xor", "cmp")
_NOT_AF = STATUS_FLAGS & ~AF
_SZAP = SF | ZF | AF | PF
_BMI_FLAGS, _BMI_UNDEFINED = CF | ZF | SF | OF, AF | PF

INTEGER = (
    # Moves
    row("88",          "mov",      "Eb Gb",    W),
    row("89",          "mov",      "Ev Gv",    W),
    row("8A",          "mov",      "Gb Eb",    W),
    row("8B",          "mov",      "Gv Ev",    W),
    row("8C",          "mov",      "Ew Sw",    W),
    row("A0",          "mov",      "AL Ob",    W),
    row("A1",          "mov",      "rAX Ov",   W),
    row("A2",          "mov",      "Ob AL",    W),
    row("A3",          "mov",      "Ov rAX",   W),
    row("C6 /0",       "mov",      "Eb Ib",    W),
    row("C7 /0",       "mov",      "Ev Iz",    W),
    row("0F B6",       "movzx",    "Gv Eb",    W, operation="mov", extension="zero"),
    row("0F B7",       "movzx",    "Gv Ew",    W, operation="mov", extension="zero"),
    row("0F BE",       "movsx",    "Gv Eb",    W, operation="mov", extension="sign"),
    row("0F BF",       "movsx",    "Gv Ew",    W, operation="mov", extension="sign"),
    row("63",          "movsxd",   "Gv Ez",    W, operation="mov", extension="sign", only="o64"),
    row("NFx 0F 38 F0", "movbe",   "Gv Mv",    W),
    row("NFx 0F 38 F1", "movbe",   "Mv Gv",    W),
    row("NP 0F C3",    "movnti",   "My Gy",    W, operation="mov"),
    row("NP 0F 38 F9", "movdiri",  "My Gy",    W, operation="mov"),
    row("66 0F 38 F8", "movdir64b", "Ga Mo",   R),
    row("D7",          "xlat",     "Tb",       R),
    # Strings
    row("A4",          "movsb",    "Yb Xb",    W, operation="movs", repeat=Repeat.COUNT),
    row("A5",          "movs",     "Yv Xv",    W, operation="movs", repeat=Repeat.COUNT),
    _compare("A6",     "cmpsb",    "Xb Yb", "cmps"),
    _compare("A7",     "cmps",     "Xv Yv", "cmps"),
    row("AA",          "stosb",    "Yb AL",    W, operation="stos", repeat=Repeat.COUNT),
    row("AB",          "stos",     "Yv rAX",   W, operation="stos", repeat=Repeat.COUNT),
    row("AC",          "lodsb",    "AL Xb",    W, operation="lods", repeat=Repeat.COUNT),
    row("AD",          "lods",     "rAX Xv",   W, operation="lods", repeat=Repeat.COUNT),
    row("6C",          "insb",     "Yb DX",    W, operation="ins",  repeat=Repeat.COUNT),
    row("6D",          "ins",      "Yz DX",    W, operation="ins",  repeat=Repeat.COUNT),
    row("6E",          "outsb",    "DX Xb",    R, operation="outs", repeat=Repeat.COUNT),
    row("6F",          "outs",     "DX Xz",    R, operation="outs", repeat=Repeat.COUNT),
    _compare("AE",     "scasb",    "AL Yb", "scas"),
    _compare("AF",     "scas",     "rAX Yv", "scas"),
    # Arithmetic
    *(form for n, name in enumerate(_GROUP1) for form in _arithmetic(n, name)),
    row("84",          "test",     "Eb Gb",    R,  _NOT_AF, AF),
    row("85",          "test",     "Ev Gv",    R,  _NOT_AF, AF),
    row("F6 /0",       "test",     "Eb Ib",    R,  _NOT_AF, AF),
    row("F6 /1",       "test",     "Eb Ib",    R,  _NOT_AF, AF),
    row("F7 /0",       "test",     "Ev Iz",    R,  _NOT_AF, AF),
    row("F7 /1",       "test",     "Ev Iz",    R,  _NOT_AF, AF),
    row("FE /0",       "inc",      "Eb",       RW, STATUS_FLAGS & ~CF, lock="lockable"),
    row("FF /0",       "inc",      "Ev",       RW, STATUS_FLAGS & ~CF, lock="lockable"),
    row("FE /1",       "dec",      "Eb",       RW, STATUS_FLAGS & ~CF, lock="lockable"),
    row("FF /1",       "dec",      "Ev",       RW, STATUS_FLAGS & ~CF, lock="lockable"),
    row("F6 /2",       "not",      "Eb",       RW, lock="lockable"),
    row("F7 /2",       "not",      "Ev",       RW, lock="lockable"),
    row("F6 /3",       "neg",      "Eb",       RW, STATUS_FLAGS, lock="lockable"),
    row("F7 /3",       "neg",      "Ev",       RW, STATUS_FLAGS, lock="lockable"),
    row("F6 /4",       "mul",      "Eb",       R,  CF | OF, _SZAP),
    row("F7 /4",       "mul",      "Ev",       R,  CF | OF, _SZAP),
    row("F6 /5",       "imul",     "Eb",       R,  CF | OF, _SZAP),
    row("F7 /5",       "imul",     "Ev",       R,  CF | OF, _SZAP),
    row("F6 /6",       "div",      "Eb",       R,  NO_FLAGS, STATUS_FLAGS),
    row("F7 /6",       "div",      "Ev",       R,  NO_FLAGS, STATUS_FLAGS),
    row("F6 /7",       "idiv",     "Eb",       R,  NO_FLAGS, STATUS_FLAGS),
    row("F7 /7",       "idiv",     "Ev",       R,  NO_FLAGS, STATUS_FLAGS),
    row("0F AF",       "imul",     "Gv Ev",    RW, CF | OF, _SZAP, operation="imul truncated"),
    row("69",          "imul",     "Gv Ev Iz", W,  CF | OF, _SZAP, operation="imul truncated"),
    row("6B",          "imul",     "Gv Ev Ibs", W, CF | OF, _SZAP, operation="imul truncated"),
    row("66 0F 38 F6", "adcx",     "Gy Ey",    RW, CF),
    row("F3 0F 38 F6", "adox",     "Gy Ey",    RW, OF),
    row("VEX.LZ.F2.0F38 F6", "mulx", "Gy By Ey", W),
    # Shifts and rotates
    *_shift(0, "rol", CF, NO_FLAGS),
    *_shift(1, "ror", CF, NO_FLAGS),
    *_shift(2, "rcl", CF, NO_FLAGS),
    *_shift(3, "rcr", CF, NO_FLAGS),
    *_shift(4, "shl", CF | ZF | SF | PF, AF),
    *_shift(5, "shr", CF | ZF | SF | PF, AF),
    *_shift(6, "shl", CF | ZF | SF | PF, AF),
    *_shift(7, "sar", CF | ZF | SF | PF, AF),
    row("0F A4",       "shld",     "Ev Gv Ib", RW, CF | ZF | SF | PF, AF | OF),
    row("0F A5",       "shld",     "Ev Gv CL", RW, CF | ZF | SF | PF, AF | OF),
    row("0F AC",       "shrd",     "Ev Gv Ib", RW, CF | ZF | SF | PF, AF | OF),
    row("0F AD",       "shrd",     "Ev Gv CL", RW, CF | ZF | SF | PF, AF | OF),
    row("VEX.LZ.F2.0F3A F0", "rorx", "Gy Ey Ib", W),
    row("VEX.LZ.66.0F38 F7", "shlx", "Gy Ey By", W),
    row("VEX.LZ.F3.0F38 F7", "sarx", "Gy Ey By", W),
    row("VEX.LZ.F2.0F38 F7", "shrx", "Gy Ey By", W),
    # Bits
    *_bit(4, "A3", "bt",  R,  ""),
    *_bit(5, "AB", "bts", RW, "lockable"),
    *_bit(6, "B3", "btr", RW, "lockable"),
    *_bit(7, "BB", "btc", RW, "lockable"),
    row("0F BC",       "bsf",      "Gv Ev",    RW, ZF, CF | OF | SF | AF | PF),
    row("0F BD",       "bsr",      "Gv Ev",    RW, ZF, CF | OF | SF | AF | PF),
    row("F3 0F BC",    "tzcnt",    "Gv Ev",    W,  CF | ZF, OF | SF | AF | PF),
    row("F3 0F BD",    "lzcnt",    "Gv Ev",    W,  CF | ZF, OF | SF | AF | PF),
    row("F3 0F B8",    "popcnt",   "Gv Ev",    W,  STATUS_FLAGS),
    row("F2 0F 38 F0", "crc32",    "Gy Eb",    RW),
    row("F2 0F 38 F1", "crc32",    "Gy Ev",    RW),
    row("VEX.LZ.NP.0F38 F2",    "andn",   "Gy By Ey", W, _BMI_FLAGS, _BMI_UNDEFINED),
    row("VEX.LZ.NP.0F38 F7",    "bextr",  "Gy Ey By", W, CF | ZF | OF, AF | SF | PF),
    row("VEX.LZ.NP.0F38 F5",    "bzhi",   "Gy Ey By", W, _BMI_FLAGS, _BMI_UNDEFINED),
    row("VEX.LZ.NP.0F38 F3 /1", "blsr",   "By Ey",    W, _BMI_FLAGS, _BMI_UNDEFINED),
    row("VEX.LZ.NP.0F38 F3 /2", "blsmsk", "By Ey",    W, _BMI_FLAGS, _BMI_UNDEFINED),
    row("VEX.LZ.NP.0F38 F3 /3", "blsi",   "By Ey",    W, _BMI_FLAGS, _BMI_UNDEFINED),
    row("VEX.LZ.F2.0F38 F5",    "pdep",   "Gy By Ey", W),
    row("VEX.LZ.F3.0F38 F5",    "pext",   "Gy By Ey", W),
    # Conditions and atomics
    *(form for n, cc in enumerate(CONDITIONS) for form in _condition(n, cc)),
    row("86",          "xchg",     "Eb Gb",    RW, lock="always"),
    row("87",          "xchg",     "Ev Gv",    RW, lock="always"),
    row("0F C0",       "xadd",     "Eb Gb",    RW, STATUS_FLAGS, lock="lockable"),
    row("0F C1",       "xadd",     "Ev Gv",    RW, STATUS_FLAGS, lock="lockable"),
    row("0F B0",       "cmpxchg",  "Eb Gb",    RW, STATUS_FLAGS, lock="lockable"),
    row("0F B1",       "cmpxchg",  "Ev Gv",    RW, STATUS_FLAGS, lock="lockable"),
    row("0F C7 /1",    "cmpxchg8b", "Mq",      RW, ZF, lock="lockable"),
    row("REX.W 0F C7 /1", "cmpxchg16b", "Mdq", RW, ZF, operation="cmpxchg8b",
        lock="lockable", aligned=True, only="o64"),
    # No access
    row("NP 0F AE /7", "clflush",     "Mb",    NONE, operation="none"),
    row("66 0F AE /7", "clflushopt",  "Mb",    NONE, operation="none"),
    row("66 0F AE /6", "clwb",        "Mb",    NONE, operation="none"),
    row("0F 18 /0",    "prefetchnta", "Mb",    NONE, operation="none"),
    row("0F 18 /1",    "prefetcht0",  "Mb",    NONE, operation="none"),
    row("0F 18 /2",    "prefetcht1",  "Mb",    NONE, operation="none"),
    row("0F 18 /3",    "prefetcht2",  "Mb",    NONE, operation="none"),
    row("0F 0D /0",    "prefetch",    "Mb",    NONE, operation="none"),
    row("0F 0D /1",    "prefetchw",   "Mb",    NONE, operation="none"),
    row("0F 0D /2",    "prefetchwt1", "Mb",    NONE, operation="none"),
    *(row(f"0F 0D /{n}", "prefetchw" if n == 3 else "prefetch", "Mb", NONE, operation="none")
      for n in range(3, 8)),
)
# fmt: on
