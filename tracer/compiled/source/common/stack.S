# Where call chains are wanted, it is the thunk of every site: it copies the stack above RSP and
# goes on to the site's own. In and out: RDI and RAX as a thunk has them; RSI = the site.
# A stack ends at its last page, and at STACK_END. The last word of one that was switched to, as an
# interrupt's is, leads to the one before (Linux: arch/x86/include/asm/irq_stack.h): that is
# copied behind it.
stacks:	push	rax
	push	rbx
	push	rbp
	push	rsi
	push	rdi
	mov	rbx, [rdi + R_NUMBER]
	control	and, rbx, C_RING_MASK
	shl	rbx, STACK_SHIFT
	control	add, rbx, C_STACKS
	lea	rbp, [rbx + STACK_SIZE]
.if NESTED
	control	mov, rdx, C_STATE
	xor	ecx, ecx
	mov	[rbx + K_STATE], rcx
	call	ram
	jc	2f
.else
	control	mov, rax, C_STATE
.endif
	mov	rax, [rax]
	mov	[rbx + K_STATE], rax
2:	mov	rdx, [rdi + G_RSP]
	lea	rdi, [rbx + K_DATA]
	call	run
	lea	rax, [rdi - K_DATA]
	sub	rax, rbx
	mov	[rbx + K_FIRST], rax
	jz	1f
	mov	rdx, [rdi - 8]
	mov	[rbx + K_NEXT], rdx
	test	rdx, rdx
	jns	2f			# no stack of the kernel's
	call	run
2:
	lea	rax, [rdi - K_DATA]
	sub	rax, rbx
1:	mov	[rbx + K_SIZE], rax
	pop	rdi
	pop	rsi
	pop	rbp
	pop	rbx
	pop	rax
	jmp	[rsi + S_BEHIND]

# In: RDX = the linear address of a stack, RDI -> where its copy goes, as far as RBP. Out: RDI.
run:	test	dl, 7
	jnz	2f
1:	cmp	rdi, rbp
	jae	2f
	control	cmp, rdx, C_STACK_END
	je	2f
	xor	ecx, ecx
	call	ram
	jc	2f
	mov	rsi, rax
	mov	ecx, edx
	or	rcx, -4096
	neg	rcx			# to the end of the page
	mov	rax, rbp
	sub	rax, rdi
	cmp	rcx, rax
	cmova	rcx, rax
	add	rdx, rcx
	shr	ecx, 3
	copy_all
	jmp	1b
2:	ret

# Where the guest is to stop at a time, it is the thunk of every site. AFTER is `stacks` or `behind`.
deadline:
	mov	rcx, [rdi + R_TSC]
	control	cmp, rcx, C_DEADLINE
	jae	stopped
	jmp	[rip + start + DATA + C_AFTER]
behind:	jmp	[rsi + S_BEHIND]
