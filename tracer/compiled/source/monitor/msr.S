# MSRs.

msr:	guest	mov, ecx, 1
	lea	edx, [rcx + MSRS]
	cmp	ecx, MSR_COUNT
	jb	1f
	mov	eax, ecx
	sub	eax, 0xc0000000
	lea	edx, [rax + MSRS + MSR_COUNT]
	cmp	eax, MSR_COUNT
	jb	1f
	sub	eax, 0x10000
	lea	edx, [rax + MSRS + 2 * MSR_COUNT]
	cmp	eax, MSR_COUNT
	jb	1f
	mov	edx, OTHER_MSRS
1:	call	flagged
	call	begin
	mov	dword ptr [r13 + R_SITE], K_MSR
	mov	byte ptr [r13 + R_MANNER], 8
	guest	mov, ecx, 1
	mov	[r13 + R_ADDRESS], rcx
	test	r12b, 1
	jz	1f
	mov	byte ptr [r13 + R_MANNER + 1], 1
	mov	eax, [r15 + V_RAX]
	guest	mov, edx, 2
	mov	[r13 + R_VALUE], eax
	mov	[r13 + R_VALUE + 4], edx
1:	if_asked	ask
	jc	two_made
	mov	eax, [r13 + R_VALUE]
	mov	edx, [r13 + R_VALUE + 4]
	# A CPU without SVM does not have these.
	cmp	ecx, MSR_HSAVE
	je	protection
	cmp	ecx, MSR_VM_CR
	je	protection
	test	r12b, 1
	jnz	5f
	cmp	ecx, MSR_EFER
	jne	1f
	mov	eax, [r15 + V_EFER]
	mov	edx, [r15 + V_EFER + 4]
	and	eax, ~SVME
	jmp	2f
1:	rdmsr				# it may raise #GP: then `protection` is where it goes on
2:	mov	[r13 + R_VALUE], eax
	mov	[r13 + R_VALUE + 4], edx
	jmp	two_made
5:	cmp	ecx, MSR_EFER
	jne	1f
	or	eax, SVME
	# What the CPU keeps of it, this vCPU's own EFER tells; LMA is the guest's.
	mov	ebx, [r15 + V_EFER]
	and	ebx, 0x400
	and	eax, ~0x400
	or	eax, ebx
	mov	[r15 + V_EFER], eax
	mov	[r15 + V_EFER + 4], edx
	jmp	two_made
1:	wrmsr
two_made:
	if_asked	made
	test	r12b, 1
	jnz	two
	mov	eax, [r13 + R_VALUE]
	mov	edx, [r13 + R_VALUE + 4]
	mov	[r15 + V_RAX], rax
	mov	[r15 + STATE + 8 * 2], rdx
two:	mov	r14d, 2
opcode:	call	prefixes
	lea	rcx, [rax + r14]
	mov	[r15 + STATE + S_LENGTH], rcx
	call	commit
	call	end
	mov	rcx, [r15 + STATE + S_LENGTH]
	jmp	behind

# The CPU raises #GP in place of an instruction of the monitor's: so it does in the guest.
protection:
	lea	rsp, [r15 + STATE + STACK_TOP]
	mov	byte ptr [r13 + R_MANNER + 3], 1
	if_asked	made
	mov	rax, [r13 + R_RIP]
	mov	[r13 + R_NEXT], rax
	xor	ecx, ecx
	call	commit
	call	end
	mov	eax, PROTECTION
	cmp	qword ptr [r15 + STATE + S_ASKED], 0
	je	raise
	# The module refuses it, where it finds CF set.
	or	dword ptr [r15 + V_RFLAGS], CF
	mov	ecx, 2
	cmp	dword ptr [r15 + V_EXIT], EXIT_IO
	jne	behind
	mov	rcx, [r15 + V_INFO2]
	sub	rcx, [r15 + V_RIP]
	jmp	behind
