# Nested faults: the guest has come to a page that is a device's.

# The guest has come to a page that the nested tables do not have, or not for writing: R12 = the
# error code, INFO2 = the physical address. The common code (common.S) finds what it would find at a
# page fault of a poisoned entry, on this vCPU's own stack.
nested:	mov	rax, [r15 + V_INFO2]
	mov	[r15 + STATE + S_FAULT], rax
	xor	ecx, ecx			# whether it is compiled sites' to try
	mov	rdx, [r15 + V_DELIVERED]
	test	edx, edx
	js	again
	bt	r12, 33				# of a walk of tables: APM vol. 2, 15.25.6
	jc	1f
	test	r12b, E_FETCH
	jnz	1f
	cmp	byte ptr [r15 + V_CPL], 0
	jne	1f
	test	dword ptr [r15 + V_EFER], 0x400		# LMA
	jz	1f
	test	byte ptr [r15 + V_CS_ATTRIBUTES + 1], 2	# L
	jz	1f
	control	cmp, rax, C_REACH
	jb	3f
	control	sub, rax, C_FAR
	control	cmp, rax, C_FAR_SIZE
	jae	1f
	control	add, rax, C_FAR_WINDOW
	jmp	4f
3:	control	add, rax, C_WINDOW
4:	mov	[r15 + STATE + S_ALIAS], rax
	mov	rdx, [r15 + V_RIP]
	call	thread
	mov	[r15 + STATE + S_CURRENT], rax
	mov	ecx, 1
	jmp	1f
	# What was being delivered is, again (APM vol. 2, 15.7.2, 15.20). QEMU tells of an interrupt as
	# of an exception, and refuses it as one (helper_vmrun): it is given as a virtual one. An
	# instruction that raises one is carried out again.
again:	mov	eax, edx
	and	eax, EVENT_TYPE
	cmp	eax, EVENT_SOFTWARE
	je	2f
	cmp	dl, 2
	je	3f
	cmp	dl, FIRST_INTERRUPT
	jb	4f
	movzx	eax, dl
	mov	[r15 + V_VECTOR], eax
	mov	dword ptr [r15 + V_INTERRUPT], V_DUE
2:	xor	edx, edx
	jmp	4f
3:	mov	edx, NMI
4:	mov	[r15 + V_EVENT], rdx
1:	movzx	eax, word ptr [r15 + V_SS]
	push	rax
	push	qword ptr [r15 + V_RSP]
	push	qword ptr [r15 + V_RFLAGS]
	movzx	eax, word ptr [r15 + V_CS]
	push	rax
	push	qword ptr [r15 + V_RIP]
	mov	eax, r12d
	and	eax, E_WRITE | E_FETCH
	or	eax, E_RESERVED
	cmp	byte ptr [r15 + V_CPL], 3
	jne	1f
	or	eax, E_USER
1:	push	rax
	test	ecx, ecx
	guest	mov, rax, 0
	guest	mov, rcx, 1
	guest	mov, rdx, 2
	guest	mov, rbx, 3
	guest	mov, rbp, 5
	guest	mov, rsi, 6
	guest	mov, rdi, 7
.irp number, 8, 9, 10, 11, 12, 13, 14, 15
	guest	mov, r\number, \number
.endr
	jz	1f
	jmp	[rip + start + DATA + M_FAST]
1:	jmp	[rip + start + DATA + C_SLOW]

# It is done with. RSP -> RIP, CS, RFLAGS, RSP, SS; all other registers are the guest's.
done:	push	rax
	push	rcx
	mov	rax, rsp
	and	rax, -4096
	sub	rax, STATE
	mov	rcx, [rsp + 16]
	cmp	rcx, [rax + V_RIP]
	je	1f
	mov	dword ptr [rax + V_SHADOW], 0
1:	pop	rcx
	pop	qword ptr [rax + V_RAX]
	pop	qword ptr [rax + V_RIP]
	add	rsp, 8
	pop	qword ptr [rax + V_RFLAGS]
	pop	qword ptr [rax + V_RSP]
	lea	rsp, [rax + STATE + STACK_TOP]
	jmp	onward
