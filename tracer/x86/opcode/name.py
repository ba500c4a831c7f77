"""Names of instructions that the disassembler does not know.

Notation: opcodes and conditions as in :mod:`tracer.x86.opcode.row`, a name in place of operands.

Ref: Intel SDM vol. 2; Intel Architecture Instruction Set Extensions (319433); Intel AVX-512 FP16
Architecture Specification (347407); AMD APM vol. 3; VIA PadLock Programming Guide.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from tracer.x86.opcode.row import condition, opcodes

_NAMES = {
    ("legacy", 0): """
DC=D0-D7        fcom
DC=D8-DF        fcomp
DD=C8-CF        fxch
DE=D0-D7        fcomp
DF=C8-CF        fxch
DF=D0-DF        fstp
""",
    ("legacy", 1): """
00/6            F2:lkgs
01=C6           NP:wrmsrns F3:wrmsrlist F2:rdmsrlist
01=C7           NP:pbndkb
01=CA           F3:eretu F2:erets
01=CC           66:tdcall
01=CD           66:seamret
01=CE           66:seamops
01=E8           NP:serialize F2:xsusldtrk
01=E9           F2:xresldtrk
01=EC           F3:uiret
01=ED           F3:testui
01=FD           NP:rdpru F3:rmpquery
01=FE           NP:invlpgb F3:rmpadjust F2:rmpupdate
01=FF           NP:tlbsync F3:psmash F2:pvalidate
0D,18-1F        nop
A6=D8,E0        xsha512
A6=E8           ccs_hash
A6=F0,F8        undoc
A7=F0           ccs_encrypt
A7=F8           xstore
AE=E9-EF        NP:lfence
AE=F1-F7        NP:mfence
AE=F9-FF        NP:sfence
B9              ud1
C7/6            F3:senduipi
FF              ud0
""",
    ("legacy", 2): """
D8/0            F3:aesencwide128kl
D8/1            F3:aesdecwide128kl
D8/2            F3:aesencwide256kl
D8/3            F3:aesdecwide256kl
DC=0-BF         F3:aesenc128kl
DC=C0-FF        F3:loadiwkey
DD              F3:aesdec128kl
DE              F3:aesenc256kl
DF              F3:aesdec256kl
F8              F3:enqcmds F2:enqcmd
FA              F3:encodekey128
FB              F3:encodekey256
FC              NP:aadd 66:aand F3:axor F2:aor
""",
    ("legacy", 3): """
F0              F3:hreset
""",
    ("vex", 1): """
C4              66:vpinsrw
C5              66:vpextrw
""",
    ("vex", 2): """
49=0-BF         NP:ldtilecfg 66:sttilecfg
49=C0-FF        NP:tilerelease F2:tilezero
4B              66:tileloaddt1 F3:tilestored F2:tileloadd
50              NP:vpdpbuud 66:vpdpbusd F3:vpdpbsud F2:vpdpbssd
51              NP:vpdpbuuds 66:vpdpbusds F3:vpdpbsuds F2:vpdpbssds
52              66:vpdpwssd
53              66:vpdpwssds
5C              F3:tdpbf16ps F2:tdpfp16ps
5E              NP:tdpbuud 66:tdpbusd F3:tdpbsud F2:tdpbssd
6C              NP:tcmmrlfp16ps 66:tcmmimfp16ps
72              F3:vcvtneps2bf16
B0              NP:vcvtneoph2ps 66:vcvtneeph2ps F3:vcvtneebf162ps F2:vcvtneobf162ps
B1              66:vbcstnesh2ps F3:vbcstnebf162ps
B4              66:vpmadd52luq
B5              66:vpmadd52huq
CB              F2:vsha512rnds2
CC              F2:vsha512msg1
CD              F2:vsha512msg2
D2              NP:vpdpwuud 66:vpdpwusd F3:vpdpwsud
D3              NP:vpdpwuuds 66:vpdpwusds F3:vpdpwsuds
DA              NP:vsm3msg1 66:vsm3msg2 F3:vsm4key4 F2:vsm4rnds4
""",
    ("vex", 3): """
14              66:vpextrb
15              66:vpextrw
20              66:vpinsrb
60              66:vpcmpestrm
61              66:vpcmpestri
DE              66:vsm3rnds2
""",
    ("evex", 2): """
52              F3:vdpbf16ps
68              F2.W0:vp2intersectd F2.W1:vp2intersectq
72              F3:vcvtneps2bf16 F2:vcvtne2ps2bf16
""",
    ("evex", 3): """
08              NP:vrndscaleph
0A              NP:vrndscalesh
26              NP:vgetmantph
27              NP:vgetmantsh
56              NP:vreduceph
57              NP:vreducesh
66              NP:vfpclassph
67              NP:vfpclasssh
C2              NP:vcmpph F3:vcmpsh
""",
    ("evex", 5): """
10,11           F3:vmovsh
1D              66:vcvtps2phx NP:vcvtss2sh
2A              F3:vcvtsi2sh
2C              F3:vcvttsh2si
2D              F3:vcvtsh2si
2E              NP:vucomish
2F              NP:vcomish
51              NP:vsqrtph F3:vsqrtsh
58              NP:vaddph F3:vaddsh
59              NP:vmulph F3:vmulsh
5A              NP:vcvtph2pd 66:vcvtpd2ph F3:vcvtsh2sd F2:vcvtsd2sh
5B              NP.W0:vcvtdq2ph NP.W1:vcvtqq2ph 66:vcvtph2dq F3:vcvttph2dq
5C              NP:vsubph F3:vsubsh
5D              NP:vminph F3:vminsh
5E              NP:vdivph F3:vdivsh
5F              NP:vmaxph F3:vmaxsh
6E,7E           66:vmovw
78              NP:vcvttph2udq 66:vcvttph2uqq F3:vcvttsh2usi
79              NP:vcvtph2udq 66:vcvtph2uqq F3:vcvtsh2usi
7A              66:vcvttph2qq F2.W0:vcvtudq2ph F2.W1:vcvtuqq2ph
7B              66:vcvtph2qq F3:vcvtusi2sh
7C              NP:vcvttph2uw 66:vcvttph2w
7D              NP:vcvtph2uw 66:vcvtph2w F3:vcvtw2ph F2:vcvtuw2ph
""",
    ("evex", 6): """
13              NP:vcvtsh2ss 66:vcvtph2psx
2C              vscalefph
2D              vscalefsh
42              vgetexpph
43              vgetexpsh
4C              vrcpph
4D              vrcpsh
4E              vrsqrtph
4F              vrsqrtsh
56              F3:vfmaddcph F2:vfcmaddcph
57              F3:vfmaddcsh F2:vfcmaddcsh
96              vfmaddsub132ph
97              vfmsubadd132ph
98              vfmadd132ph
99              vfmadd132sh
9A              vfmsub132ph
9B              vfmsub132sh
9C              vfnmadd132ph
9D              vfnmadd132sh
9E              vfnmsub132ph
9F              vfnmsub132sh
A6              vfmaddsub213ph
A7              vfmsubadd213ph
A8              vfmadd213ph
A9              vfmadd213sh
AA              vfmsub213ph
AB              vfmsub213sh
AC              vfnmadd213ph
AD              vfnmadd213sh
AE              vfnmsub213ph
AF              vfnmsub213sh
B6              vfmaddsub231ph
B7              vfmsubadd231ph
B8              vfmadd231ph
B9              vfmadd231sh
BA              vfmsub231ph
BB              vfmsub231sh
BC              vfnmadd231ph
BD              vfnmadd231sh
BE              vfnmsub231ph
BF              vfnmsub231sh
D6              F3:vfmulcph F2:vfcmulcph
D7              F3:vfmulcsh F2:vfcmulcsh
""",
}


@dataclass(frozen=True, slots=True)
class _Name:
    prefix: str
    w: bool | None
    digit: int | None
    modrm: int | None
    text: str


def _parse(text: str) -> dict[int, tuple[_Name, ...]]:
    found: dict[int, tuple[_Name, ...]] = {}
    for line in text.splitlines():
        head, *entries = line.split() or [""]
        for byte, digit, modrm in opcodes(head):
            names = []
            for entry in entries:
                told, _, name = entry.rpartition(":")
                prefix, w, _lengths = condition(told)
                names.append(_Name(prefix, w, digit, modrm, name))
            found[byte] = (*found.get(byte, ()), *names)
    return found


@cache
def _names(encoding: str, opcode_map: int) -> dict[int, tuple[_Name, ...]]:
    return _parse(_NAMES.get((encoding, opcode_map), ""))


def name_of(
    encoding: str, opcode_map: int, byte: int, modrm: int, prefix: str, w: bool
) -> str | None:
    """Return the name of an instruction, or None where it has none here."""
    for name in _names(encoding, opcode_map).get(byte, ()):
        place = name.modrm in (None, modrm) and name.digit in (None, modrm >> 3 & 7)
        if place and name.prefix in ("", prefix) and name.w in (None, w):
            return name.text
    return None
