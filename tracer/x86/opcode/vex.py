"""The VEX and XOP maps, as far as they touch memory.

What the table of forms has is left out. Notation: :mod:`tracer.x86.opcode.row`.

Ref: Intel SDM vol. 2, each instruction's page; Intel Architecture Instruction Set Extensions
(319433), chapter 2, 3 (AMX), 6 (AVX-NE-CONVERT, AVX-VNNI-INT8); AMD APM vol. 4 (FMA4, VPERMIL2)
and vol. 6 (XOP).
"""

from __future__ import annotations

VEX_0F = """
10              NP|66:rx F3:rd F2:rq
11              NP|66:wx F3:wd F2:wq
12              NP.L0|66.L0:rq^ F3:rx F2:rm
13,17           NP.L0|66.L0:wq!
14,15           NP|66:rx^
16              NP.L0|66.L0:rq^ F3:rx
28              NP|66:rx
29              NP|66:wx
2A              F3|F2:ry^
2B              NP|66:wx!
2C,2D           F3:rd F2:rq
2E,2F           NP:rd 66:rq
51              NP|66:rx F3:rd^ F2:rq^
52,53           NP:rx F3:rd^
54-57           NP|66:rx^
58,59,5C-5F     NP|66:rx^ F3:rd^ F2:rq^
5A              NP:rh 66:rx F3:rd^ F2:rq^
5B              NP|66|F3:rx
60-6D           66:rx^
6E              66.L0:ry
6F              66|F3:rx
70              66|F3|F2:rx+b
74-76           66:rx^
7C,7D           66|F2:rx^
7E              66.L0:wy F3.L0:rq
7F              66|F3:wx
90              NP.W0.L0:rw NP.W1.L0:rq 66.W0.L0:rb 66.W1.L0:rd         ; KMOV
91              NP.W0.L0:ww! NP.W1.L0:wq! 66.W0.L0:wb! 66.W1.L0:wd!
AE/2            NP.L0:rd!           ; VLDMXCSR
AE/3            NP.L0:wd!
C2              NP|66:rx^+b F3:rd^+b F2:rq^+b
C4              66.L0:rw^+b
C5=C0-FF        66.L0:@none+b
C6              NP|66:rx^+b
D0              66|F2:rx^
D1-D3,E1,E2     66:rdq^             ; shifts by the count in 16 bytes
D4,D5,D8-DF     66:rx^
D6              66.L0:wq
E0,E3-E5,E8-EF  66:rx^
E6              F3:rh 66|F2:rx
E7              66:wx!
F0              F2:rx!
F1-F3           66:rdq^
F4-F6,F8-FE     66:rx^
F7=C0-FF        66.L0:@maskmovdqu
"""

VEX_38 = """
00-0B           66:rx^
0C,0D           66.W0:rx^
0E,0F           66.W0:rx
13              66.W0:rh            ; VCVTPH2PS
16,36           66.W0.L1:rx^
17              66:rx
18              66.W0:rd            ; broadcasts
19              66.W0.L1:rq
1A,5A           66.W0.L1:rdq!
1C-1E           66:rx
20,23,25        66:rh
21,24           66:rf
22              66:re
28,29,2B        66:rx^
2A              66:rx!
2C,2D           66.W0:rx*!^         ; VMASKMOV
2E,2F           66.W0:wx*!^
30,33,35        66:rh
31,34           66:rf
32              66:re
37-40           66:rx^
41              66.L0:rx
45,47           66:rx^
46              66.W0:rx^
49/0            NP.W0.L0:ro! 66.W0.L0:wo!                       ; LDTILECFG, STTILECFG
49=C0-FF        NP.W0.L0|F2.W0.L0:@none                         ; TILERELEASE, TILEZERO
4B              F2.W0.L0|66.W0.L0:r_! F3.W0.L0:w_!              ; TILELOADD, TILESTORED
50,51           NP.W0|66.W0|F3.W0|F2.W0:rx^
52,53           66.W0:rx^
58              66.W0:rd
59              66.W0:rq
5C=C0-FF        F3.W0.L0|F2.W0.L0:@none                         ; products of tiles
5E=C0-FF        NP.W0.L0|66.W0.L0|F3.W0.L0|F2.W0.L0:@none
6C=C0-FF        NP.W0.L0|66.W0.L0:@none
72              F3.W0:rx
78              66.W0:rb
79              66.W0:rw
8C              66:rx*!^            ; VPMASKMOV
8E              66:wx*!^
90,92           66:rk*[4]!^         ; gathers
91,93           66:rk*[8]!^
96-98,9A,9C,9E  66:rx^              ; FMA
99,9B,9D,9F     66:rk^
A6-A8,AA,AC,AE  66:rx^
A9,AB,AD,AF     66:rk^
B0              NP.W0|66.W0|F3.W0|F2.W0:rx!
B1              66.W0|F3.W0:rw!
B4,B5           66.W1:rx^
B6-B8,BA,BC,BE  66:rx^
B9,BB,BD,BF     66:rk^
CB-CD=C0-FF     F2.W0.L1:@none      ; SHA-512
CF              66.W0:rx^
D2,D3           NP.W0|66.W0|F3.W0:rx^
DA              NP.W0.L0|66.W0.L0|F3.W0|F2.W0:rx^
DB              66.L0:rx
DC-DF           66:rx^
"""

VEX_3A = """
00,01           66.W1.L1:rx+b
02              66.W0:rx^+b
04,05           66.W0:rx+b
06,46           66.W0.L1:rx^+b
08,09           66:rx+b
0A              66:rd^+b
0B              66:rq^+b
0C-0F           66:rx^+b
14              66.L0:wb+b
15              66.L0:ww+b
16              66.L0:wy+b
17              66.L0:wd+b
18,38           66.W0.L1:rdq^+b
19,39           66.W0.L1:wdq+b
1D              66.W0:wh+b          ; VCVTPS2PH
20              66.L0:rb^+b
21              66.L0:rd^+b
22              66.L0:ry^+b
40,42,44        66:rx^+b
41              66.L0:rx^+b
48,49           66:rx^+b            ; VPERMIL2
4A-4C           66.W0:rx^+b
5C-5F,68,69     66:rx^+b            ; FMA4
6C,6D,78,79     66:rx^+b
7C,7D           66:rx^+b
6A,6E,7A,7E     66:rd^+b
6B,6F,7B,7F     66:rq^+b
60-63           66.L0:rx+b
CE,CF           66.W1:rx^+b
DE              66.W0.L0:rx^+b
DF              66.L0:rx+b
"""

XOP_8 = """
85-87,8E,8F     NP.W0.L0:rx^+b
95-97,9E,9F     NP.W0.L0:rx^+b
A2              NP:rx^+b
A3              NP.L0:rx^+b
A6,B6           NP.W0.L0:rx^+b
C0-C3           NP.W0.L0:rx+b
CC-CF,EC-EF     NP.W0.L0:rx^+b
"""

XOP_9 = """
01/1-7          NP.L0:ry^
02/1,6          NP.L0:ry^
12=C0-C7        NP.L0:@reads        ; LLWPCB
12=C8-CF        NP.L0:@writes       ; SLWPCB
80,81           NP.W0:rx
82              NP.W0.L0:rd
83              NP.W0.L0:rq
90-9B           NP.L0:rx^
C1-C3,C6,C7,CB  NP.W0.L0:rx
D1-D3,D6,D7,DB  NP.W0.L0:rx
E1-E3           NP.W0.L0:rx
"""

XOP_A = """
10              NP.L0:ry+d
12/0,1          NP.L0:rd^+d
"""
