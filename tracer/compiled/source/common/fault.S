start:
fast:
	# The head of the ring is its lock as well: while a record is being made, it holds the
	# complement of the owner's number, which is above every limit. So an access of an NMI's
	# handler finds its own vCPU as the owner, and a ring that is full or shut looks the same.
	push	rdi
.if SMP
	push	rdi
	push	rax
	push	rbx
	push	rcx
	push	rdx
	# QEMU's number of the vCPU, not the guest's: valid at any moment (SDM vol. 2A, CPUID).
	mov	eax, 1
	cpuid
	shr	ebx, 24
	not	rbx
1:	control	mov, rax, C_HEAD
	test	rax, rax
	js	3f
	control	cmp, rax, C_LIMIT
	jae	4f
	lock cmpxchg [rip + start + DATA + C_HEAD], rbx
	jne	1b
	mov	[rsp + 32], rax
	mov	rdi, rax
	control	and, rdi, C_RING_MASK
	control	add, rdi, C_RING
	not	rbx
	mov	[rdi + R_VCPU], bx
	pop	rdx
	pop	rcx
	pop	rbx
	pop	rax
	jmp	5f
3:	cmp	rax, rbx
	je	6f
	pause				# QEMU leaves its loop here, so the owner gets on
	jmp	1b
4:	count	N_FULL
	jmp	7f
6:	count	N_NESTED
7:	pop	rdx
	pop	rcx
	pop	rbx
	pop	rax
	pop	rdi
	pop	rdi
	jmp	[rip + start + DATA + C_SLOW]
5:
.else
	mov	rdi, -1
	xchg	rdi, [rip + start + DATA + C_HEAD]
	control	cmp, rdi, C_LIMIT
	jae	busy
	push	rdi
	control	and, rdi, C_RING_MASK
	control	add, rdi, C_RING
.endif
	pop	qword ptr [rdi + R_NUMBER]
	pop	qword ptr [rdi + G_RDI]
	pop	qword ptr [rdi + R_ERROR]
	mov	[rdi + G_RAX], rax
	mov	[rdi + G_RCX], rcx
	mov	[rdi + G_RDX], rdx
	mov	[rdi + G_RBX], rbx
	mov	[rdi + G_RBP], rbp
	mov	[rdi + G_RSI], rsi
.irp number, 8, 9, 10, 11, 12, 13, 14, 15
	mov	[rdi + G_R\number], r\number
.endr
	rdtsc
	mov	[rdi + R_TSC], eax
	mov	[rdi + R_TSC + 4], edx
	mov	rax, [rsp + F_RSP]
	mov	[rdi + G_RSP], rax
	# RCX gathers every bit in which the site, the code or the tables are not as they were.
	mov	rcx, [rsp + F_FLAGS]
	mov	[rdi + R_RFLAGS], rcx
	and	ecx, TF
	# The CPU has set RF for the fault (SDM vol. 3B, 17.3.1.1), and clears it behind the instruction.
	and	qword ptr [rsp + F_FLAGS], ~0x10000
	mov	rax, [rsp + F_RIP]
	imul	esi, eax, HASH
	and	esi, SITE_MASK
	control	add, rsi, C_SITES
found:	cmp	[rsi + S_RIP], rax
	jne	probe
.if NESTED
	test	ecx, ecx
	jnz	traced
	# The operand's own address is what its registers say, and has to lead to where the fault was.
	call	[rsi + S_ORIGIN]
	mov	[rdi + R_LINEAR], rdx
	mov	eax, edx
	and	eax, 0xfff
	cmp	rax, [rsi + S_SPAN]
	ja	crossing
	push	rbx
	push	rbp
	push	r8
	mov	rdx, [rsi + S_AT]
	push	rsi
	lea	rsi, [rip + start + DATA + OTHER_SIDE]
	call	translate
	pop	rsi
	jc	1f
	seen_ram 1f
	mov	rax, [rax]
	cmp	rax, [rsi + S_CODE]
	jne	1f
	mov	rdx, [rdi + R_LINEAR]
	call	translate
	jc	2f
	cmp	qword ptr [rsi + S_WRITES], 0
	je	3f
	test	bl, E_W
	jz	2f
3:	pop	r8
	pop	rbp
	pop	rbx
	mov	rcx, rsp
	and	rcx, -4096
	cmp	rax, [rcx + GUEST_ALIAS]
	jne	tail
	mov	[rdi + R_ALIAS], rax
.irp number, 0, 1, 2, 3
	mov	rcx, rax
	control	sub, rcx, C_WIDE\number
	control	cmp, rcx, C_EXTENT\number
	jb	stopped
.endr
	# A write there may move any device.
	cmp	qword ptr [rsi + S_WRITES], 0
	je	3f
	mov	rcx, rax
	control	sub, rcx, C_SETUP
	control	cmp, rcx, C_SETUP_SIZE
	jb	stopped
3:	movzx	ecx, ax
	control	add, rcx, C_STOPS
	cmp	byte ptr [rcx], 0
	jne	stopped
	jmp	[rsi + S_THUNK]
1:	pop	r8
	pop	rbp
	pop	rbx
	jmp	changed
2:	pop	r8
	pop	rbp
	pop	rbx
	jmp	unmapped
done:	jmp	[rip + start + DATA + C_DONE]
.else
	mov	rdx, [rsi + S_AT]
	mov	rdx, [rdx]
	xor	rdx, [rsi + S_CODE]
	or	rcx, rdx
	mov	rax, cr2
	mov	[rdi + R_LINEAR], rax
again:	sub	rax, [rsi + S_FIRST]
	cmp	rax, [rsi + S_LAST]
	ja	elsewhere
compare:				# RCX as above; RAX = CR2 - FIRST; each level is read live
	tables	rdx
	control	and, rdx, C_ADDRESS
	add	rdx, [rsi + S_TOP]
	mov	rdx, [rdx]
	xor	rdx, [rsi + S_TOP_ENTRY]
	or	rcx, rdx
.macro same place, entry
	mov	rdx, [rsi + \place]
	mov	rdx, [rdx]
	xor	rdx, [rsi + \entry]
	or	rcx, rdx
.endm
.if LA57
	same	S_P4, S_E4
.endif
	same	S_P3, S_E3
	same	S_P2, S_E2
	mov	rdx, [rsi + S_STOP]
	or	cl, [rdx + rax]
	same	S_P1, S_E1
	jnz	walk
	add	rax, [rsi + S_PAGE]
	mov	[rdi + R_ALIAS], rax
	jmp	[rsi + S_THUNK]

# Another page than the last one, or the first byte of the same: that may be the tail of an access
# which began in the page before. The thunk goes on at `compare` if its operand's own address is
# FIRST - 1. CR2 lies in the operand, so it is that address then. Else it goes on at `other`.
elsewhere:
	jmp	[rsi + S_ORIGIN]
other:	cmp	rax, -1
	je	tail

# Something differs: walk the tables, and keep what each level has for the next comparison.
walk:	test	dword ptr [rsp + F_FLAGS], TF
	jnz	traced
	mov	rax, [rsi + S_AT]
	mov	rax, [rax]
	cmp	rax, [rsi + S_CODE]
	jne	changed
	mov	rdx, [rdi + R_LINEAR]
	mov	eax, edx
	and	eax, 0xfff
	cmp	rax, [rsi + S_SPAN]
	ja	crossing
	xor	eax, eax
	bts	rax, 63
	mov	[rsi + S_FIRST], rax
	mov	[rsi + S_BASE], rax
	push	rbx
	push	rbp
	push	r8
	call	translate
	jc	1f
	test	r8, r8			# not poisoned, or not any more
	jz	1f
	cmp	qword ptr [rsi + S_WRITES], 0
	je	2f
	test	bl, E_W
	jnz	2f
1:	pop	r8
	pop	rbp
	pop	rbx
	jmp	unmapped
2:	pop	r8
	pop	rbp
	pop	rbx
	mov	rcx, rdx
	and	rcx, -4096
	add	rcx, [rsi + S_SKIP]
	sub	rdx, rcx
	sub	rax, rdx
	mov	[rsi + S_PAGE], rax
	sub	rax, [rsi + S_SKIP]
	mov	[rsi + S_FIRST], rcx
	sub	rcx, [rsi + S_BEFORE]
	mov	[rsi + S_BASE], rcx
.irp number, 0, 1, 2, 3
	mov	rcx, rax
	control	sub, rcx, C_WIDE\number
	control	cmp, rcx, C_EXTENT\number
	jb	wide
.endr
	# A write there may move any device.
	cmp	qword ptr [rsi + S_WRITES], 0
	je	6f
	mov	rcx, rax
	control	sub, rcx, C_SETUP
	control	cmp, rcx, C_SETUP_SIZE
	jb	wide
6:
	and	eax, 0xf000
	control	add, rax, C_STOPS
5:	add	rax, [rsi + S_SKIP]
	mov	[rsi + S_STOP], rax
	cmp	byte ptr [rax + rdx], 0
	jne	stopped
	xor	ecx, ecx
	mov	rax, [rdi + R_LINEAR]
	jmp	again
wide:	lea	rax, [rip + start + DATA + ALWAYS]
	jmp	5b
.endif
