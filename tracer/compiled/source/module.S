# The TDX module as guest code, which a guest's two gates lead to. It is assembled behind
# module.constants() and ram.S, and its bytes are in module_image.py.
#
# At `fault` and `tdcall`: interrupts off, CPL 0, every register as interrupted.
#     RSP -> error code, RIP, CS, RFLAGS, RSP, SS      (Intel SDM vol. 3A, figure 6-9)
# A TDCALL raises #UD, which has no error code: `tdcall` is entered without, and pushes one that no
# page fault has. What is not for this code goes on to `slow`, with everything as it was.
.intel_syntax noprefix
.set L_SLOT, -8
.set L_ENTRY, -16
.set L_MASK, -24
.set L_PHYSICAL, -32
.set L_PLACE, -40
.set L_NUMBER, -48
.set L_HANDLER, -56
.set L_IDT, -72
.set LOCALS, 72
.set F_RBP, 0
.set F_RDI, 8
.set F_RSI, 16
.set F_RBX, 24
.set F_RDX, 32
.set F_RCX, 40
.set F_RAX, 48
.set F_ERROR, 56
.set F_RIP, 64
.set F_RFLAGS, 80
.set F_RSP, 88
.set TF, 0x100
.set RF, 0x10000
.set E_P, 1
.set LARGE, 0x80
.set INTERRUPT_GATE, 0x8e

# A word of the data, which the code is seen DISTANCE above.
.macro data op, register, name
	\op	\register, [rip + start + DATA + \name]
.endm
.macro count name
	lock inc qword ptr [rip + start + DATA + \name]
.endm
.macro save
	push	rax
	push	rcx
	push	rdx
	push	rbx
	push	rsi
	push	rdi
	push	rbp
	mov	rbp, rsp
	sub	rsp, LOCALS
.endm
.macro restore
	mov	rsp, rbp
	pop	rbp
	pop	rdi
	pop	rsi
	pop	rbx
	pop	rdx
	pop	rcx
	pop	rax
.endm

.include "module/fault.S"
.include "module/call.S"
.include "module/memory.S"
.include "module/record.S"
