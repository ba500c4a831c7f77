"""The one-byte, 0F, 0F 38 and 0F 3A maps without VEX, as far as they touch memory.

What the table of forms has is left out. Notation: :mod:`tracer.x86.opcode.row`.

Ref: Intel SDM vol. 2, each instruction's page, and vol. 2D, tables A-2 to A-6; AMD APM vol. 3,
CLZERO, MONITORX; AMD APM vol. 4, MOVNTSS, MOVNTSD.
"""

from __future__ import annotations

ONE_BYTE = """
06,0E,16,1E     i64 @push
07,17,1F        i64 @pop
50-57           @push
58-5F           @pop
60              i64 @pusha
61              i64 @popa
62              i64 rvv$!           ; BOUND
63              i64 uw              ; ARPL
68              @push+z
6A              @push+b
8D              nv!                 ; LEA
8E/0,2-5        rw                  ; MOV to a segment register
8F/0            @pop,ws
9A              i64 @callf+p
9C              @push               ; PUSHF
9D              @pop                ; POPF
C2              @ret+w
C3              @ret
C4,C5           i64 rp!             ; LES, LDS
C8              @enter+w+b
C9              @leave
CA              @retf+w
CB              @retf
CC,F1           @int
CD              @int+b
CE              i64 @int
CF              @iret
D8/0-7          rd!
D9/4            renv$!              ; FLDENV
D9/6            wenv$!
DA/0-7          rd!
DC/0-7          rq!
DC=D0-DF        @none               ; FCOM and FCOMP once more
DD=C8-CF        @none               ; FXCH
DD/4            rfpu$!              ; FRSTOR
DD/6            wfpu$!
DE/0-7          rw!
DE=D0-D7        @none               ; FCOMP
DF/4            rt$!                ; FBLD
DF/6            wt$!
DF=C8-DF        @none               ; FXCH, FSTP
E8              @call+n
FF/2            rn,@call
FF/3            rp,@callf!
FF/4            rn
FF/5            rp!
FF/6            rs,@push
"""
"""INT and its kin read a gate, and write to the stack that it names."""

TWO_BYTE = """
00/0,1          ww                  ; SLDT, STR
00/2-5          rw                  ; LLDT, LTR, VERR, VERW
00/6            F2:rw               ; LKGS
01/0,1          wj$!                ; SGDT, SIDT
01/2,3          rj$!                ; LGDT, LIDT
01/4            ww                  ; SMSW
01/5            F3:uq!              ; RSTORSSP
01/6            rw                  ; LMSW
01/7            nb!                 ; INVLPG
01=C0,CF,D7     NP:@unknown         ; ENCLV, ENCLS, ENCLU
01=C5           NP:@unknown         ; PCONFIG
01=C6           NP:@none F3:@reads F2:@reads,@writes            ; WRMSRNS, WRMSRLIST, RDMSRLIST
01=C7           NP:@reads,@writes   ; PBNDKB
01=C8           NP:@monitor
01=CA           F3|F2:@reads        ; ERETU, ERETS
01=CC-CE        66:@none            ; TDCALL, SEAMRET, SEAMOPS
01=E8           NP:@none F3:@unknown F2:@none                   ; SERIALIZE, SETSSBSY, XSUSLDTRK
01=E9           F2:@none            ; XRESLDTRK
01=EA           F3:@unknown         ; SAVEPREVSSP
01=EC           F3:@uiret
01=ED           F3:@none            ; TESTUI
01=FA           NP:@monitor         ; MONITORX
01=FC           @clzero
01=FD           NP|F3:@none         ; RDPRU, RMPQUERY
01=FE           NP|F3:@none F2:@rmpupdate                       ; INVLPGB, RMPADJUST
01=FF           NP|F3|F2:@none      ; TLBSYNC, PSMASH, PVALIDATE
02,03           rw                  ; LAR, LSL
0F              rq+b                ; 3DNow!: the opcode stands behind
14,15           NP|66:rx
18/4-7          nb!                 ; PREFETCHIT0, PREFETCHIT1, hints to come
19,1D-1F        nv
1A              NP|66|F3|F2:?_      ; MPX: a NOP on a CPU without it
1B              NP|66|F3|F2:?_
1C/0-7          nb
2A              NP|66:rq F3|F2:ry
37              NP:@unknown         ; GETSEC
2B              F3:wd! F2:wq!       ; MOVNTSS, MOVNTSD
2C,2D           NP:rq 66:rx F3:rd F2:rq
2E,2F           NP:rd 66:rq
51              NP|66:rx F3:rd F2:rq
52,53           NP:rx F3:rd
54-57           NP|66:rx
58,59,5C-5F     NP|66:rx F3:rd F2:rq
5A              NP:rq 66:rx F3:rd F2:rq
5B              NP|66|F3:rx
60-62           NP:rd 66:rx
63-6B           NP:rq 66:rx
6C,6D           66:rx
70              NP:rq+b 66|F3|F2:rx+b
74-76           NP:rq 66:rx
78              NP:wl               ; VMREAD
79              NP:rl               ; VMWRITE
7C,7D           66|F2:rx
A0,A8           @push
A1,A9           @pop
A6=C0-FF        F3:@reads,@writes   ; PadLock
A7=C0           @writes             ; XSTORE
A7=C8-FF        F3:@reads,@writes
AA              @unknown            ; RSM
AE/0            NP:w512*!           ; FXSAVE
AE/1            NP:r512*!
AE/2            NP:rd!              ; LDMXCSR
AE/3            NP:wd!
AE/4            NP:u_! F3:ry        ; XSAVE; PTWRITE
AE/5            NP:r_!              ; XRSTOR
AE/6            NP:u_! F3:uq!       ; XSAVEOPT; CLRSSBSY
AE=E8-EF        F3:@unknown         ; INCSSP
AE=E9-EF,F1-F7,F9-FF  NP:@none      ; LFENCE, MFENCE, SFENCE
AE=F0-F7        F3:@umonitor
B2,B4,B5        rp!                 ; LSS, LFS, LGS
B9,FF           nv                  ; UD1, UD0: they never get so far
C2              NP|66:rx+b F3:rd+b F2:rq+b
C4              NP|66:rw+b
C6              NP|66:rx+b
C7/3            NP:r_!              ; XRSTORS
C7/4            NP:w_!              ; XSAVEC
C7/5            NP:w_!              ; XSAVES
C7/6            NP|66|F3:rq!        ; VMPTRLD, VMCLEAR, VMXON
C7/7            NP:wq!              ; VMPTRST
C7=F0-F7        F3:@unknown         ; SENDUIPI
D0              66|F2:rx
D1-D5           NP:rq 66:rx
D8-DF,E0-E5     NP:rq 66:rx
E6              F3:rq 66|F2:rx
E8-EF,F1-F6     NP:rq 66:rx
F7=C0-FF        NP:@maskmovq 66:@maskmovdqu
F8-FE           NP:rq 66:rx
"""
"""What is ``@unknown`` accesses structures of the CPU, the shadow stack among them.

MONITOR is checked as a load of a byte. ERET has as much to read as the event that it ends."""

MAP_38 = """
00-0B,1C-1E     NP:rq 66:rx
10,14,15,17     66:rx
20,23,25        66:rh               ; PMOVSX
21,24           66:rf
22              66:re
28,29,2B        66:rx
30,33,35        66:rh               ; PMOVZX
31,34           66:rf
32              66:re
37-41           66:rx
80-82           66:rdq!             ; INVEPT, INVVPID, INVPCID
C8-CD           NP:rx
CF              66:rx
D8/0,1          F3:r48!             ; Key Locker: handles of 384 and 512 bits
D8/2,3          F3:r64!
DB              66:rx
DC,DD           66:rx F3:r48!
DE,DF           66:rx F3:r64!
F5              66:wy!              ; WRUSS
F6              NP:wy!              ; WRSS
F8              F3|F2:ro,@target!   ; ENQCMDS, ENQCMD
DC=C0-FF        F3:@none            ; LOADIWKEY
FA,FB=C0-FF     F3:@none            ; ENCODEKEY
FC              NP|66|F3|F2:uy!     ; AADD, AAND, AXOR, AOR
"""

MAP_3A = """
08,09,0C-0E     66:rx+b
0A              66:rd+b
0B              66:rq+b
0F              NP:rq+b 66:rx+b
14              66:wb+b             ; PEXTRB
15              66:ww+b
16              66:wy+b
17              66:wd+b             ; EXTRACTPS
20              66:rb+b             ; PINSRB
21              66:rd+b
22              66:ry+b
40-42,44,60-63  66:rx+b
CC              NP:rx+b
CE,CF,DF        66:rx+b
F0=C0           F3:@none+b          ; HRESET
"""
