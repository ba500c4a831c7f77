# Records of the ring.

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
