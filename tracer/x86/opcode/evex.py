"""The EVEX maps: AVX-512 and its additions, as far as they touch memory.

Notation: :mod:`tracer.x86.opcode.row`. A masked instruction accesses only the elements that its
mask selects, so an access under a mask is one of some of the bytes.

Ref: Intel SDM vol. 2, 2.7 (EVEX) and each instruction's page; Intel AVX-512 FP16 Architecture
Specification (347407).
"""

from __future__ import annotations

EVEX_0F = """
10              NP.W0|66.W1:rx F3.W0:rd F2.W1:rq
11              NP.W0|66.W1:wx{k} F3.W0:wd!{k} F2.W1:wq!{k}
12              NP.W0.L0|66.W1.L0:rq^{} F3.W0:rx F2.W1:rm
13,17           NP.W0.L0|66.W1.L0:wq!{}
14,15           NP.W0|66.W1:rx/k^
16              NP.W0.L0|66.W1.L0:rq^{} F3.W0:rx
28              NP.W0|66.W1:rx
29              NP.W0|66.W1:wx{k}
2A              F3|F2:ry^{}
2B              NP.W0|66.W1:wx!{}
2C,2D           F3:rd{} F2:rq{}
2E,2F           NP.W0:rd{} 66.W1:rq{}
51              NP.W0|66.W1:rx/k F3.W0:rd^ F2.W1:rq^
54-57           NP.W0|66.W1:rx/k^
58,59,5C-5F     NP.W0|66.W1:rx/k^ F3.W0:rd^ F2.W1:rq^
5A              NP.W0:rh/4 66.W1:rx/8 F3.W0:rd^ F2.W1:rq^
5B              NP:rx/k 66.W0|F3.W0:rx/4
60,61,63        66:rx^
62              66.W0:rx/4^
64,65           66:rx^{k}
66              66.W0:rx/4^{k}
67-69           66:rx^
6A,6B           66.W0:rx/4^
6C,6D           66.W1:rx/8^
6E              66.L0:ry{}
6F              66|F3|F2:rx
70              66.W0:rx/4+b F3|F2:rx+b
71/2,4,6        66:rx^+b
72/0,1,4        66:rx/k^+b
72/2,6          66.W0:rx/4^+b
73/2,6          66.W1:rx/8^+b
73/3,7          66:rx^{}+b
74,75           66:rx^{k}
76              66.W0:rx/4^{k}
78,79           NP:rx/k 66.W1:rx/8 66.W0:rh/4 F3:rd{} F2:rq{}
7A              66.W1|F3.W1|F2:rx/k 66.W0|F3.W0:rh/4
7B              66.W1:rx/8 66.W0:rh/4 F3|F2:ry^{}
7E              66.L0:wy{} F3.W1.L0:rq{}
7F              66|F3|F2:wx{k}
C2              NP.W0|66.W1:rx/k^{k}+b F3.W0:rd^{k}+b F2.W1:rq^{k}+b
C4              66.L0:rw^{}+b
C6              NP.W0|66.W1:rx/k^+b
D1,E1,F1        66:rdq^             ; shifts by the count in 16 bytes
D2,F2           66.W0:rdq^
D3,F3           66.W1:rdq^
E2              66:rdq^
D4              66.W1:rx/8^
D5,D8-DA        66:rx^
D6              66.W1.L0:wq{}
DB,DF           66:rx/k^
DC-DE           66:rx^
E0,E3-E5        66:rx^
E6              F3.W0:rh/4 F3.W1:rx/8 66.W1|F2.W1:rx/8
E7              66.W0:wx!{}
E8-EA,EC-EE     66:rx^
EB,EF           66:rx/k^
F4,FB           66.W1:rx/8^
F5,F8,F9        66:rx^
F6              66:rx^{}
FA,FE           66.W0:rx/4^
FC,FD           66:rx^
"""

EVEX_38 = """
00,04,0B        66:rx^
0C              66.W0:rx/4^
0D              66.W1:rx/8^
10              66.W1:rx^ F3.W0:wh{k}
11              66.W1:rx^ F3.W0:wf{k}
12              66.W1:rx^ F3.W0:we{k}
13              66.W0:rh F3.W0:wh{k}
14              66:rx/k^ F3.W0:wf{k}
15              66:rx/k^ F3.W0:wh{k}
16,36           66.L12:rx/k^
18              66.W0:rd
19              66.L12:rq
1A,5A           66.L12:rdq!
1B,5B           66.L2:rqq!
1C,1D           66:rx
1E              66.W0:rx/4
1F              66.W1:rx/8
20,23           66:rh F3.W0:wh{k}
21,24           66:rf F3.W0:wf{k}
22              66:re F3.W0:we{k}
25              66.W0:rh F3.W0:wh{k}
26              66|F3:rx^{k}
27              66|F3:rx/k^{k}
28              66.W1:rx/8^
29,37           66.W1:rx/8^{k}
2A              66.W0:rx!{}
2B              66.W0:rx/4^
2C              66:rx/k^
2D              66:rk^
30,33           66:rh F3.W0:wh{k}
31,34           66:rf F3.W0:wf{k}
32              66:re F3.W0:we{k}
35              66.W0:rh F3.W0:wh{k}
38,3A,3C,3E     66:rx^
39,3B,3D,3F,40  66:rx/k^
42,44           66:rx/k
43              66:rk^
45-47           66:rx/k^
4C,4E           66:rx/k
4D,4F           66:rk^
50,51           66.W0:rx/4^
52              66.W0|F3.W0:rx/4^ F2.W0.L2:rdq!^
53              66.W0:rx/4^ F2.W0.L2:rdq!^
54              66:rx
55              66:rx/k
58              66.W0:rd
59              66:rq
62              66:rx*/i            ; expansions and compressions
63              66:wx*/i{k}
88,89           66:rx*/k
8A,8B           66:wx*/k{k}
64,65           66:rx/k^
66              66:rx^
68              F2:rx/k^{}
70,72           66.W1:rx^
71,73           66:rx/k^
72              F2.W0:rx/4^ F3.W0:rx/4
75,7D,8D        66:rx^
76,77,7E,7F     66:rx/k^
78              66.W0:rb
79              66.W0:rw
83              66.W1:rx/8^
8F              66.W0:rx^{k}
90,92           66:rk*[4]!{K}       ; gathers and scatters
91,93           66:rk*[8]!{K}
A0,A2           66:wk*[4]!{K}
A1,A3           66:wk*[8]!{K}
96-98,9C,9E     66:rx/k^            ; FMA
9A              66:rx/k^ F2.W0.L2:rdq!^
9B              66:rk^ F2.W0:rdq!^
99,9D,9F        66:rk^
A6-A8,AC,AE     66:rx/k^
AA              66:rx/k^ F2.W0.L2:rdq!^
AB              66:rk^ F2.W0:rdq!^
A9,AD,AF        66:rk^
B4,B5           66.W1:rx/8^
B6-B8,BA,BC,BE  66:rx/k^
B9,BB,BD,BF     66:rk^
C4              66:rx/k
C6/1,2,5,6      66.L2:nk[4]!{K}     ; prefetches
C7/1,2,5,6      66.L2:nk[8]!{K}
C8,CA,CC        66.L2:rx/k
CB,CD           66:rk^
CF              66.W0:rx^
DC-DF           66:rx^{}
"""

EVEX_3A = """
00,01           66.W1.L12:rx/8+b
03              66:rx/k^+b
04              66.W0:rx/4+b
05              66.W1:rx/8+b
08              66.W0:rx/4+b NP.W0:rx/2+b
09              66.W1:rx/8+b
0A              66.W0:rd^+b NP.W0:rw^+b
0B              66.W1:rq^+b
0F              66:rx^+b
14              66.L0:wb{}+b
15              66.L0:ww{}+b
16              66.L0:wy{}+b
17              66.L0:wd{}+b
18,38           66.L12:rdq^+b
19,39           66.L12:wdq{k}+b
1A,3A           66.L2:rqq^+b
1B,3B           66.L2:wqq{k}+b
1D              66.W0:wh{k}+b
1E,1F           66:rx/k^{k}+b
20              66.L0:rb^{}+b
21              66.W0.L0:rd^{}+b
22              66.L0:ry^{}+b
23,43           66.L12:rx/k^+b
25              66:rx/k^+b
26,56           66:rx/k+b NP.W0:rx/2+b
27,57           66:rk^+b NP.W0:rw^+b
3E,3F           66:rx^{k}+b
42              66.W0:rx^+b
44              66:rx^{}+b
50,54           66:rx/k^+b
51,55           66:rk^+b
66              66:rx/k{k}+b NP.W0:rx/2{k}+b
67              66:rk{k}+b NP.W0:rw{k}+b
70,72           66.W1:rx^+b
71,73           66:rx/k^+b
C2              NP.W0:rx/2^{k}+b F3.W0:rw^{k}+b
CE,CF           66.W1:rx/8^+b
"""

EVEX_5 = """
10              F3.W0:rw
11              F3.W0:ww{k}
1D              66.W0:rx/4 NP.W0:rd^
2A,7B           F3:ry^{}
2C,2D           F3:rw{}
2E,2F           NP.W0:rw{}
51              NP.W0:rx/2 F3.W0:rw^
58,59,5C-5F     NP.W0:rx/2^ F3.W0:rw^
5A              66.W1:rx/8 NP.W0:rf/2 F2.W1:rq^ F3.W0:rw^
5B              66.W0|F3.W0:rh/2 NP:rx/k
6E              66.L0:rw{}
78,79           66.W0:rf/2 NP.W0:rh/2 F3:rw{}
7A              66.W0:rf/2 F2:rx/k
7B              66.W0:rf/2
7C              66.W0|NP.W0:rx/2
7D              66.W0|NP.W0|F3.W0|F2.W0:rx/2
7E              66.L0:ww{}
"""

EVEX_6 = """
13              66.W0:rh/2 NP.W0:rw^
2C              66.W0:rx/2^
2D,43,4D,4F     66.W0:rw^
42,4C,4E        66.W0:rx/2
56,D6           F3.W0|F2.W0:rx/4^
57,D7           F3.W0|F2.W0:rd^
96-98,9A,9C,9E  66.W0:rx/2^
99,9B,9D,9F     66.W0:rw^
A6-A8,AA,AC,AE  66.W0:rx/2^
A9,AB,AD,AF     66.W0:rw^
B6-B8,BA,BC,BE  66.W0:rx/2^
B9,BB,BD,BF     66.W0:rw^
"""
