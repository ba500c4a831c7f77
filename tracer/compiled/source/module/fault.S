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
