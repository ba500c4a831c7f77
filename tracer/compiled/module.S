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


start:
# A page fault with RSVD: of the shared bit in the leaf, or of somebody else's.
fault:	save
	mov	rdx, cr2
	call	walk
	jc	foreign
	data	test, rax, M_SHARED
	jz	foreign
	data	test, rax, C_MARKS
	jnz	foreign
	mov	[rbp + L_SLOT], rsi
	mov	[rbp + L_ENTRY], rax
	mov	[rbp + L_MASK], rcx
	data	and, rax, M_ADDRESS
	not	rcx
	and	rax, rcx
	not	rcx
	and	rcx, rdx
	or	rax, rcx
	mov	[rbp + L_PHYSICAL], rax
	call	is_ram
	jc	touch

	# A device: the guest's own #VE handler is to decode the instruction.
	call	seen
	jc	slow
	call	stopped
	jc	held
	test	byte ptr [rip + start + DATA + C_SITES], MOVED
	jnz	moved
	# The ring is full or shut: so it is for the hypercall to come. Who holds it does not matter.
	data	mov, rcx, C_HEAD
	test	rcx, rcx
	jns	1f
	xor	ecx, ecx
1:	data	cmp, rcx, C_LIMIT
	jae	full
	data	mov, rcx, C_DEADLINE
	test	rcx, rcx
	jz	2f
	rdtsc
	shl	rdx, 32
	or	rax, rdx
	cmp	rax, rcx
	jae	held
2:	call	number
	shl	ebx, VE_SHIFT
	lea	rsi, [rip + start + DATA + VES]
	add	rbx, rsi
	cmp	qword ptr [rbx + V_REASON], 0
	jne	slow			# the last one was not fetched: that is #DF, and Python's
	# The handler is the guest's own, of the IDT that this vCPU has (SDM vol. 3A, 6.14.1).
	sidt	[rbp + L_IDT]
	cmp	word ptr [rbp + L_IDT], 16 * VE + 15
	jb	slow
	mov	rsi, [rbp + L_IDT + 2]
	mov	rax, [rsi + 16 * VE]
	mov	rcx, [rsi + 16 * VE + 8]
	mov	rdx, rax
	shr	rdx, 40
	and	edx, 0x9f
	cmp	edx, INTERRUPT_GATE	# present
	jne	slow
	movzx	edx, ax
	shl	rcx, 32
	or	rcx, rdx
	mov	rdx, rax
	shr	rdx, 48
	shl	edx, 16
	or	rcx, rdx
	mov	[rbp + L_HANDLER], rcx
	shr	rax, 32
	test	al, 7			# a stack of its own: for that the frame would have to move
	jnz	slow
	# A frame has a place of its own on its stack for as long as its handler runs; an entry
	# which has the same place already is of a handler that has never asked.
	lea	rdx, [rbp + F_RIP]
	lea	rsi, [rip + start + DATA + KEYS]
	mov	ecx, FAULT_COUNT - 1
3:	cmp	[rsi + rcx * 8], rdx
	je	5f
	dec	ecx
	jns	3b
	mov	ecx, FAULT_COUNT - 1
4:	xor	eax, eax
	lock cmpxchg [rsi + rcx * 8], rdx
	je	5f
	dec	ecx
	jns	4b
	jmp	slow
5:	shl	ecx, 8
	lea	rdi, [rip + start + DATA + FAULTS]
	add	rdi, rcx
	mov	rax, [rbp + L_PHYSICAL]
	data	or, rax, M_SHARED
	mov	[rdi + R_GPA], rax
	mov	[rbx + V_GPA], rax
	mov	rax, cr2
	mov	[rdi + R_LINEAR], rax
	mov	[rbx + V_GLA], rax
	mov	eax, [rbp + F_ERROR]
	shr	eax, 1
	and	eax, 1
	inc	eax			# 1 for a read, 2 for a write
	mov	[rbx + V_QUALIFICATION], rax
	mov	qword ptr [rbx + V_LENGTH], 0
	rdtsc
	mov	[rdi + R_TSC], eax
	mov	[rdi + R_TSC + 4], edx
	push	rbx
	call	fill
	pop	rbx
	mov	qword ptr [rbx + V_REASON], EPT_VIOLATION
	count	N_FAULTS
	mov	rax, [rbp + L_HANDLER]
	mov	[rbp + F_ERROR], rax	# #VE has no error code
	restore
	ret

# RAM that the guest shares: there is one copy of each page, which is reached without the bit.
touch:	call	number
	call	take
	jc	slow
	mov	rax, [rbp + L_PHYSICAL]
	call	seen
	jc	abandon
	mov	[rdi + R_ALIAS], rax
	mov	rax, cr2
	mov	[rdi + R_LINEAR], rax
	mov	dword ptr [rdi + R_SITE], K_TOUCH
	mov	rax, [rbp + L_MASK]
	inc	rax
	mov	[rdi + R_WIDTH], rax
	mov	rax, [rbp + L_ENTRY]
	mov	[rdi + R_VALUE], rax
	call	fill
	mov	rsi, [rbp + L_SLOT]
	data	mov, rax, M_SHARED
	not	rax
	lock and [rsi], rax
	call	commit
	call	release
	restore
	lea	rsp, [rsp + 8]
	iretq

foreign:
	restore
	jmp	[rip + start + DATA + M_BEHIND]
abandon:
	mov	rax, [rbp + L_NUMBER]
	mov	[rip + start + DATA + C_HEAD], rax
	jmp	slow
held:	count	N_STOPPED
	jmp	slow
moved:	count	N_MOVED
	jmp	slow
full:	count	N_FULL
slow:	restore
	jmp	[rip + start + DATA + C_SLOW]


tdcall:	push	TDCALL
	save
	test	dword ptr [rbp + F_RFLAGS], TF
	jnz	slow
	cmp	rax, VEINFO_GET
	je	veinfo
	or	rax, r10
	jnz	slow
	# RCX says which registers the host sees: those that have an operand, and none that no host may.
	mov	rax, [rbp + F_RCX]
	test	rax, ~EXPOSABLE
	jnz	slow
	not	eax
	test	eax, EXPOSED
	jnz	slow
	cmp	r11, VE_CPUID
	je	input
	lea	rax, [r11 - VE_IO]
	cmp	rax, VE_WRMSR - VE_IO
	jbe	input
	cmp	qword ptr [rip + start + DATA + C_LIMIT], 0
	je	slow			# it is shut: somebody is asked of each
	cmp	r11, REQUEST_MMIO
	je	mmio
	cmp	r11, HLT
	je	halt
	cmp	r11, MAP_GPA
	jne	slow
	# R12 = physical address, with the shared bit or without; R13 = size (GHCI 1.5, 3.2).
	mov	rax, r12
	or	rax, r13
	test	eax, 0xfff
	jnz	slow
	test	r13, r13
	jz	slow
	data	mov, rdx, M_SHARED
	lea	rcx, [rdx + rdx - 1]
	cmp	r12, rcx
	ja	slow
	cmp	r13, rdx
	ja	slow
	lea	rax, [r12 + r13 - 1]
	xor	rax, r12
	test	rax, rdx
	jnz	slow
	call	record
	jc	slow
done:	xor	r10d, r10d
	call	answered
	restore
	lea	rsp, [rsp + 8]
	iretq

# The vCPU sleeps in code that is not this one's: it can be interrupted there for as long as it
# likes. The flags of the frame are those of the code that asked.
halt:	test	r12, r12		# an interrupt that would not be taken is to wake it
	jnz	slow
	call	record
	jc	slow
	xor	r10d, r10d
	call	answered
	restore
	lea	rsp, [rsp + 8]
	jmp	[rip + start + DATA + M_HALT]

veinfo:	call	number
	shl	ebx, VE_SHIFT
	lea	rsi, [rip + start + DATA + VES]
	add	rbx, rsi
	mov	rax, [rbx + V_REASON]
	test	rax, rax
	jz	slow
	cmp	rax, EPT_VIOLATION
	jne	1f
	cmp	qword ptr [rip + start + DATA + C_LIMIT], 0
	je	slow
1:	mov	[rbp + F_RCX], rax
	mov	rax, [rbx + V_QUALIFICATION]
	mov	[rbp + F_RDX], rax
	mov	r8, [rbx + V_GLA]
	mov	r9, [rbx + V_GPA]
	mov	r10, [rbx + V_LENGTH]
	mov	qword ptr [rbx + V_REASON], 0
	count	N_FETCHED
	call	answered
	restore
	lea	rsp, [rsp + 8]
	iretq

# An instruction that the monitor has made a #VE of: R12 = leaf, R13 = subleaf; R12 = width, R13 = 1
# for a write, R14 = port, R15 = what is written; R12 = index, R13 = what is written (GHCI 1.5, 3.6,
# 3.9 to 3.11). It is carried out here, for which the vCPU leaves for the monitor.
input:	mov	eax, r12d
	cmp	r11d, VE_IO
	jne	1f
	lea	rax, [r12 - 1]
	cmp	rax, 3
	ja	slow
	test	rax, r12
	jnz	slow
	cmp	r13, 1
	ja	slow
	cmp	r14, 0xffff
	ja	slow
	mov	eax, r14d
1:	mov	rbx, r11
	shl	rbx, 32
	or	rbx, rax
	# Of the instructions that this may be about, it is the one nearest above on this stack.
	lea	rdx, [rbp + F_RIP]
	lea	rdi, [rip + start + DATA + KEYS]
	lea	rsi, [rip + start + DATA + FAULTS]
	mov	qword ptr [rbp + L_PLACE], STACK
	mov	qword ptr [rbp + L_SLOT], FAULT_COUNT
	mov	rax, cr3
	mov	[rbp + L_HANDLER], rax
	mov	ecx, FAULT_COUNT - 1
2:	mov	rax, [rdi + rcx * 8]
	test	rax, rax
	jz	3f
	sub	rax, rdx
	mov	[rbp + L_ENTRY], rax
	mov	eax, ecx
	shl	eax, 8
	add	rax, rsi
	cmp	[rax + R_TAG], rbx
	jne	3f
	cmp	dword ptr [rax + R_ERROR], 0	# of an instruction, CPL and CR3 are in these two
	mov	rax, [rax + R_GPA]
	jne	4f
	data	test, rax, M_SHARED
	jnz	3f
	mov	rax, [rbp + L_ENTRY]
	cmp	rax, [rbp + L_PLACE]
	jae	3f
	jmp	5f
	# A program's, where the kernel has none of its own.
4:	cmp	rax, [rbp + L_HANDLER]
	jne	3f
	mov	rax, STACK - 1
	cmp	rax, [rbp + L_PLACE]
	jae	3f
5:	mov	[rbp + L_PLACE], rax
	mov	[rbp + L_SLOT], rcx
3:	dec	ecx
	jns	2b
	mov	rsi, [rbp + L_SLOT]
	cmp	esi, FAULT_COUNT
	je	slow
	call	number
	shl	ebx, VE_SHIFT
	lea	rax, [rip + start + DATA + VES]
	inc	esi
	mov	[rax + rbx + V_ASKED], rsi
	count	N_ANSWERED		# this may end the machine
	# The monitor sets CF where the CPU raises #GP, or somebody has it refused.
	mov	eax, r12d
	mov	ecx, r13d
	cmp	r11d, VE_CPUID
	je	6f
	mov	ecx, r12d
	cmp	r11d, VE_RDMSR
	je	7f
	ja	8f
	mov	edx, r14d
	cmp	r12d, 2
	ja	3f
	je	2f
	test	r13d, r13d		# and clears CF
	jnz	1f
	in	al, dx
	jc	refused
	movzx	r11d, al
	jmp	9f
1:	mov	eax, r15d
	out	dx, al
	jc	refused
	jmp	9f
2:	test	r13d, r13d
	jnz	1f
	in	ax, dx
	jc	refused
	movzx	r11d, ax
	jmp	9f
1:	mov	eax, r15d
	out	dx, ax
	jc	refused
	jmp	9f
3:	test	r13d, r13d
	jnz	1f
	in	eax, dx
	jc	refused
	mov	r11d, eax
	jmp	9f
1:	mov	eax, r15d
	out	dx, eax
	jc	refused
	jmp	9f
6:	clc
	cpuid
	jc	refused
	mov	r12d, eax
	mov	r13d, ebx
	mov	r14d, ecx
	mov	r15d, edx
	jmp	9f
7:	clc
	rdmsr
	jc	refused
	mov	r11d, eax
	shl	rdx, 32
	or	r11, rdx
	jmp	9f
8:	mov	eax, r13d
	mov	rdx, r13
	shr	rdx, 32
	clc
	wrmsr
	jc	refused
9:	xor	r10d, r10d
1:	mov	rax, [rbp + L_SLOT]
	lea	rcx, [rip + start + DATA + KEYS]
	mov	qword ptr [rcx + rax * 8], 0
	call	answered
	restore
	lea	rsp, [rsp + 8]
	iretq
refused:
	mov	r10, 1
	ror	r10, 1			# TDG.VP.VMCALL_INVALID_OPERAND
	jmp	1b

# R12 = width, R13 = 1 for a write, R14 = physical address with the shared bit, R15 = what is
# written (GHCI 1.5, 3.7).
mmio:	lea	rax, [r12 - 1]
	cmp	rax, 7
	ja	slow
	test	rax, r12
	jnz	slow
	cmp	r13, 1
	ja	slow
	mov	rax, r14
	data	mov, rcx, M_SHARED
	test	rax, rcx
	jz	slow
	xor	rax, rcx
	mov	ecx, eax
	and	ecx, 0xfff
	add	ecx, r12d
	cmp	ecx, 0x1000
	ja	slow
	call	is_ram
	jc	slow
	call	seen
	jc	slow
	call	stopped
	jc	held
	mov	[rbp + L_PLACE], rax
	# Handlers nest: of the faults that lead there, it is the one nearest above on this stack.
	lea	rdx, [rbp + F_RIP]
	lea	rdi, [rip + start + DATA + KEYS]
	lea	rsi, [rip + start + DATA + FAULTS]
	mov	ecx, STACK
	mov	ebx, FAULT_COUNT
	mov	r10d, FAULT_COUNT - 1
1:	mov	rax, [rdi + r10 * 8]
	sub	rax, rdx
	cmp	rax, rcx
	jae	2f
	mov	r11d, r10d
	shl	r11d, 8
	cmp	[rsi + r11 + R_GPA], r14
	jne	2f
	mov	rcx, rax
	mov	ebx, r10d
2:	dec	r10d
	jns	1b
	xor	r10d, r10d
	mov	r11d, REQUEST_MMIO
	cmp	ebx, FAULT_COUNT
	je	slow
	mov	[rbp + L_SLOT], rbx
	call	number
	call	take
	jc	slow
	push	rdi
	mov	rax, [rbp + L_SLOT]
	shl	eax, 8
	lea	rsi, [rip + start + DATA + FAULTS]
	add	rsi, rax
	mov	ecx, R_KEPT / 8
	add	rsi, R_LINEAR
	add	rdi, R_LINEAR
	cld
	rep movsq
	pop	rdi
	call	mark
	mov	dword ptr [rdi + R_SITE], K_MMIO
	mov	[rdi + R_VALUE], r15
	mov	[rdi + R_GPA], r14
	mov	[rdi + R_WIDTH], r12
	mov	[rdi + R_DIRECTION], r13
	mov	rax, [rbp + F_RCX]
	mov	[rdi + R_MASK], ax
	mov	rsi, [rbp + L_PLACE]
	mov	[rdi + R_ALIAS], rsi
	lea	rcx, [rip + start + DATA + KEYS]
	mov	rax, [rbp + L_SLOT]
	mov	qword ptr [rcx + rax * 8], 0
	test	r13d, r13d
	jnz	store
	cmp	r12d, 2
	jb	1f
	je	2f
	cmp	r12d, 4
	je	3f
	mov	r11, [rsi]
	jmp	4f
1:	movzx	r11d, byte ptr [rsi]
	jmp	4f
2:	movzx	r11d, word ptr [rsi]
	jmp	4f
3:	mov	r11d, [rsi]
4:	mov	[rdi + R_READ], r11
	call	commit
	jmp	5f
store:	call	commit			# a store that ends the machine is in the ring
	cmp	r12d, 2
	jb	1f
	je	2f
	cmp	r12d, 4
	je	3f
	mov	[rsi], r15
	jmp	5f
1:	mov	[rsi], r15b
	jmp	5f
2:	mov	[rsi], r15w
	jmp	5f
3:	mov	[rsi], r15d
5:	call	release
	jmp	done


# The vCPU goes on behind its TDCALL, which has succeeded.
answered:
	mov	qword ptr [rbp + F_RAX], 0
	add	qword ptr [rbp + F_RIP], 4
	and	dword ptr [rbp + F_RFLAGS], ~RF
	ret

# A TDCALL that is no access, with the registers that it was made with. Out: CF where the ring is
# not to be had. All but R8 to R15 are lost.
record:	call	number
	call	take
	jc	1f
	mov	dword ptr [rdi + R_SITE], K_TDCALL
	mov	qword ptr [rdi + R_LINEAR], 0
	data	mov, rax, C_WINDOW
	mov	[rdi + R_ALIAS], rax
	call	fill
	call	commit
	call	release
	clc
1:	ret

# In: RDX = a linear address. Out: CF, or RAX = its leaf, RSI -> it in the window, RCX = the size
# of the page less 1. RDX, RBX and RDI stay.
walk:	mov	rax, cr3
	data	mov, rcx, M_TOP
1:	data	and, rax, M_ADDRESS
	data	cmp, rax, C_REACH
	jae	4f
	mov	rsi, rdx
	shr	rsi, cl
	and	esi, 511
	lea	rsi, [rax + rsi * 8]
	data	add, rsi, C_WINDOW
	mov	rax, [rsi]
	test	al, E_P
	jz	4f
	cmp	ecx, 12
	je	3f
	cmp	ecx, 30
	ja	2f
	test	al, LARGE
	jnz	3f
2:	sub	ecx, 9
	jmp	1b
3:	push	rdx
	xor	edx, edx
	bts	rdx, rcx
	lea	rcx, [rdx - 1]
	pop	rdx
	clc
	ret
4:	stc
	ret

ram_ranges

# In: RAX = a physical address. Out: CF, or RAX = its place in the window.
seen:	data	cmp, rax, C_REACH
	jae	1f
	data	add, rax, C_WINDOW
	clc
	ret
1:	data	sub, rax, C_FAR
	data	cmp, rax, C_FAR_SIZE
	jae	2f
	data	add, rax, C_FAR_WINDOW
	clc
	ret
2:	stc
	ret

# In: RAX = a place in the window. Out: CF where a stop is wanted there. RCX and RDX are lost.
stopped:
.irp number, 0, 1, 2, 3
	mov	rcx, rax
	data	sub, rcx, C_WIDE\number
	data	cmp, rcx, C_EXTENT\number
	jb	1f
.endr
	movzx	ecx, ax
	data	add, rcx, C_STOPS
	movzx	edx, byte ptr [rcx]
	neg	edx			# CF where it is not 0
1:	ret

# Out: RBX = QEMU's number of the vCPU. RAX, RCX and RDX are lost.
number:	mov	eax, 1
	cpuid
	shr	ebx, 24
	ret

# Takes the next record, as common.S does. In: RBX = the vCPU. Out: CF, or RDI -> the record.
# RAX, RCX, RDX and RSI are lost.
take:	mov	rcx, rbx
	not	rcx
1:	data	mov, rax, C_HEAD
	test	rax, rax
	js	2f
	data	cmp, rax, C_LIMIT
	jae	3f
	lock cmpxchg [rip + start + DATA + C_HEAD], rcx
	jne	1b
	mov	[rbp + L_NUMBER], rax
	mov	rdi, rax
	data	and, rdi, C_RING_MASK
	data	add, rdi, C_RING
	call	mark
	clc
	ret
2:	cmp	rax, rcx
	je	4f
	pause
	jmp	1b
3:	count	N_FULL
	stc
	ret
4:	count	N_NESTED
	stc
	ret

# Says in the record at RDI whose it is, and when. RAX and RDX are lost.
mark:	mov	rax, [rbp + L_NUMBER]
	mov	[rdi + R_NUMBER], rax
	mov	[rdi + R_VCPU], bx
	data	mov, rax, M_THREAD
	test	rax, rax
	jz	1f
	mov	eax, gs:[rax]
	mov	[rdi + R_THREAD], eax
1:
	rdtsc
	mov	[rdi + R_TSC], eax
	mov	[rdi + R_TSC + 4], edx
	ret

# RAX is lost.
commit:	mov	rax, [rdi + R_NUMBER]
	mov	[rdi + R_SEQUENCE], rax
	ret
release:
	mov	rax, [rdi + R_NUMBER]
	add	rax, SLOT_SIZE
	mov	[rip + start + DATA + C_HEAD], rax
	ret

# Stores to the record at RDI what was interrupted, and its code as far as it can be read. All but
# RDI and R8 to R15 are lost.
fill:
.irp name, RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI
	mov	rax, [rbp + F_\name]
	mov	[rdi + G_\name], rax
.endr
.irp number, 8, 9, 10, 11, 12, 13, 14, 15
	mov	[rdi + G_R\number], r\number
.endr
	mov	rax, [rbp + F_RFLAGS]
	mov	[rdi + R_RFLAGS], rax
	mov	rax, [rbp + F_ERROR]
	mov	[rdi + R_ERROR], rax	# and R_THREAD is 0
	mov	rbx, [rbp + F_RIP]
	mov	[rdi + R_RIP], rbx
	xor	eax, eax
	mov	[rdi + R_CODE], rax
	mov	[rdi + R_CODE + 8], rax
	mov	rcx, rbx
	or	rcx, -0x1000
	neg	rcx			# to the end of the page
	cmp	ecx, CODE_SIZE
	jae	1f
	push	rcx
	lea	rdx, [rbx + rcx]
	call	walk
	pop	rcx
	jc	2f
	data	test, rax, C_RESERVED
	jnz	2f
1:	mov	ecx, CODE_SIZE
2:	push	rdi
	add	rdi, R_CODE
	mov	rsi, rbx
	cld
	rep movsb
	pop	rdi
	ret
