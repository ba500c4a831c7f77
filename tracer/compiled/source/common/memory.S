# The guest's tables, and operands in its memory.

# In: RDX = a linear address, RSI -> where the levels are kept. Out: CF, or RAX = its place in the
# window, RBX = all entries ANDed, R8 = the poison of the leaf. RCX and RBP are lost.
.macro level shift, place, entry
	control	cmp, rax, C_REACH
	jae	4f
.if NESTED
	in_ram	rax, rcx, 4f
.endif
	mov	rcx, rdx
	shr	rcx, \shift
	and	ecx, 511
	lea	rcx, [rax + rcx * 8]
	control	add, rcx, C_WINDOW
	mov	rax, [rcx]
	mov	[rsi + \place], rcx
	mov	[rsi + \entry], rax
	and	rbx, rax
	test	al, E_P
	jz	4f
.endm
.macro table
	or	rbp, rax
	control	and, rax, C_ADDRESS
.endm
translate:
	mov	rbx, -1
	xor	ebp, ebp
	tables	rax
	control	and, rax, C_ADDRESS
	mov	r8, rax
.if LA57
.if NESTED
	# A guest that is traced from its reset on has four levels first.
	mov	rcx, rsp
	and	rcx, -4096
	bt	dword ptr [rcx + GUEST_CR4], 12
	jnc	6f
.endif
	level	48, S_TOP, S_TOP_ENTRY
	sub	[rsi + S_TOP], r8
	test	al, LARGE
	jnz	4f
	table
6:	level	39, S_P4, S_E4
.else
	level	39, S_TOP, S_TOP_ENTRY
	sub	[rsi + S_TOP], r8
.endif
	test	al, LARGE
	jnz	4f
	table
	level	30, S_P3, S_E3
	mov	[rsi + S_P2], rcx
	mov	[rsi + S_E2], rax
	mov	[rsi + S_P1], rcx
	mov	[rsi + S_E1], rax
	mov	ecx, 0x3fffffff
	test	al, LARGE
	jnz	3f
	table
	level	21, S_P2, S_E2
	mov	[rsi + S_P1], rcx
	mov	[rsi + S_E1], rax
	mov	ecx, 0x1fffff
	test	al, LARGE
	jnz	3f
	table
	level	12, S_P1, S_E1
	mov	ecx, 0xfff
3:	test	bl, E_U			# of user space: rights and SMAP are Python's
	jnz	4f
	mov	r8, rax
	control	and, r8, C_MARKS
	xor	rax, r8
	or	rbp, rax
	control	test, rbp, C_RESERVED
	jnz	4f
	control	and, rax, C_ADDRESS
	not	rcx
	and	rax, rcx
	not	rcx
	and	rcx, rdx
	or	rax, rcx
	control	cmp, rax, C_REACH
	jae	5f
	control	add, rax, C_WINDOW
	clc
	ret
4:	stc
	ret
5:	control	sub, rax, C_FAR
	control	cmp, rax, C_FAR_SIZE
	jae	4b
	control	add, rax, C_FAR_WINDOW
	clc
	ret

# For thunks whose instruction has an operand in RAM too. In: RDX = its linear address, ECX = 0 for
# a read. Out: CF, or RAX = its place in the window. RCX is lost.
ram:	push	rbx
	push	rbp
	push	r8
	push	rsi
	push	rcx
	lea	rsi, [rip + start + DATA + OTHER_SIDE]
	call	translate
	pop	rcx
	jc	2f
	control	cmp, rax, C_FAR_WINDOW
	jae	1f
	test	r8, r8
	jnz	1f
.if NESTED
	seen_ram 1f
	mov	rsi, r8
	call	reaches
	jc	1f
.endif
	jecxz	2f			# CF is clear
	test	bl, E_W
	jnz	2f
1:	stc
2:	pop	rsi
	pop	r8
	pop	rbp
	pop	rbx
	ret

.if NESTED
ram_ranges

ways_through
.endif

probe:	cmp	qword ptr [rsi + S_RIP], 0
	je	absent
	add	rsi, SITE_SIZE
	control	cmp, rsi, C_SITES_END
	jb	found
	control	mov, rsi, C_SITES
	jmp	found

moved:
	count	N_MOVED
	jmp	back
traced:
	count	N_TRACED
	jmp	back
changed:
	count	N_CHANGED
	jmp	back
crossing:
	count	N_CROSSING
	jmp	back
unmapped:
	count	N_UNMAPPED
	jmp	back
stopped:
	count	N_STOPPED
	jmp	back
	# A device may have moved: then SITES is MOVED bytes further, and no entry is found.
absent:	test	byte ptr [rip + start + DATA + C_SITES], MOVED
	jnz	moved
	count	N_ABSENT
	jmp	back
tail:
	count	N_TAIL
	jmp	back
refuse:	count	N_REFUSED
back:	mov	rax, [rdi + R_RFLAGS]
	mov	[rsp + F_FLAGS], rax
	mov	rax, [rdi + G_RAX]
	mov	rcx, [rdi + G_RCX]
	mov	rdx, [rdi + G_RDX]
	mov	dword ptr [rdi + R_THREAD], 0	# the upper half of the error code
	push	qword ptr [rdi + R_ERROR]
	push	qword ptr [rdi + G_RSI]
	mov	rsi, [rdi + R_NUMBER]
	mov	rdi, [rdi + G_RDI]
	mov	[rip + start + DATA + C_HEAD], rsi
	pop	rsi
	jmp	[rip + start + DATA + C_SLOW]

.if SMP == 0
busy:	cmp	rdi, -1
	je	1f
	count	N_FULL
	jmp	2f
1:	count	N_NESTED
2:	mov	[rip + start + DATA + C_HEAD], rdi
	pop	rdi
	jmp	[rip + start + DATA + C_SLOW]
.endif
