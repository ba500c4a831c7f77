# The guest code that all compiled sites share. It is assembled behind layout.constants() and
# copy.S and ram.S, with SMP, LA57 and NESTED as 0 or 1, and its bytes are in image.py.
#
# In: interrupts off, CPL 0, every register as interrupted.
#     RSP -> error code, RIP, CS, RFLAGS, RSP, SS      (Intel SDM vol. 3A, figure 6-9)
# A thunk is jumped to with RDI = the record, RAX = where the window has the register, and
#     RSP -> RIP, CS, RFLAGS, RSP, SS
# RAX, RCX, RDX, RSI and RDI are the thunk's; what they were is in the record.
#
# Where it is NESTED all of this runs in the monitor, on a page of the vCPU's that begins with what
# has been told of the guest (monitor.S): poison is in the nested tables, and a thunk ends at `done`.
.intel_syntax noprefix
.set F_RIP, 0
.set F_FLAGS, 16
.set F_RSP, 24
.set TF, 0x100
.set E_P, 1
.set E_W, 2
.set E_U, 4
.set LARGE, 0x80

# A word of the control page. The code is seen DISTANCE above the data.
.macro control op, register, name
	\op	\register, [rip + start + DATA + \name]
.endm
# The guest's CR3, and the address that it has faulted at.
.macro tables register
.if NESTED
	mov	\register, rsp
	and	\register, -4096
	mov	\register, [\register + GUEST_CR3]
.else
	mov	\register, cr3
.endif
.endm
.macro count name
.if SMP
	lock inc qword ptr [rip + start + DATA + \name]
.else
	inc	qword ptr [rip + start + DATA + \name]
.endif
.endm

# Goes on where RAX is a place in the window that has memory, else at OUT. RBP and R8 are lost.
.macro seen_ram out
	mov	r8, rax
	control	sub, r8, C_WINDOW
	in_ram	r8, rbp, \out
.endm

.include "common/fault.S"
.include "common/memory.S"
.include "common/stack.S"
