# Call chains: copies of the stacks that the kernel is on.

.if STACKS
# The stack of the kernel above RSP, and the one that it was switched to from: as the common code
# has them (common.S, stacks).
stacks:	test	rbp, rbp
	jz	9f
	mov	r8, rbp
	control	and, r8, C_RING_MASK
	shl	r8, STACK_SHIFT
	control	add, r8, C_STACKS
	control	sub, r8, C_RING
	lea	rax, [rip + start + DATA + RING]
	add	r8, rax
	xor	eax, eax
	mov	[r8 + K_FIRST], rax
	mov	[r8 + K_SIZE], rax
	mov	[r8 + K_STATE], rax
	cmp	dword ptr [r13 + R_CPL], 0
	jne	9f
	control	mov, rdx, C_STATE
	call	settled
	jc	1f
	mov	rax, [rax]
	mov	[r8 + K_STATE], rax
1:	lea	r9, [r8 + STACK_SIZE]
	lea	r10, [r8 + K_DATA]
	mov	rdx, [r13 + R_GPR + 8 * 4]
	call	run
	lea	rax, [r10 - K_DATA]
	sub	rax, r8
	mov	[r8 + K_FIRST], rax
	jz	2f
	mov	rdx, [r10 - 8]
	mov	[r8 + K_NEXT], rdx
	test	rdx, rdx
	jns	1f			# no stack of the kernel's
	call	run
1:
	lea	rax, [r10 - K_DATA]
	sub	rax, r8
2:	mov	[r8 + K_SIZE], rax
9:	ret

# In: RDX = the linear address of a stack, R10 -> where its copy goes, as far as R9. Out: R10.
run:	test	dl, 7
	jnz	2f
1:	cmp	r10, r9
	jae	2f
	control	cmp, rdx, C_STACK_END
	je	2f
	call	translate
	jc	2f
	control	mov, rcx, C_RESERVED
	test	[r15 + STATE + S_LEAF], rcx
	jnz	2f
	mov	rsi, rax
	mov	ecx, edx
	or	rcx, -4096
	neg	rcx			# to the end of the page
	mov	rax, r9
	sub	rax, r10
	cmp	rcx, rax
	cmova	rcx, rax
	add	rdx, rcx
	mov	rdi, r10
	add	r10, rcx
	shr	ecx, 3
	copy_all
	jmp	1b
2:	ret
.endif
