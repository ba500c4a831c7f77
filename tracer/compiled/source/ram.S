# What guest code tells memory by: the physical ranges that the block has at RAM, as what lies elsewhere
# may be a device's, which nothing but the guest's own instructions is to access; and the nested tables.

# Goes on where REGISTER is a physical address of memory, else at OUT. SCRATCH is lost.
.macro in_ram register, scratch, out
	mov	\scratch, \register
	sub	\scratch, [rip + start + DATA + RAM]
	cmp	\scratch, [rip + start + DATA + RAM + 8]
	jb	74f
	push	rax
	mov	rax, \register
	call	is_ram
	pop	rax
	jnc	\out
74:
.endm

# The routine that finds it among all ranges. In: RAX = a physical address. Out: CF where it is RAM's.
.macro ram_ranges
is_ram:	push	rcx
	push	rdx
	xor	edx, edx
75:	lea	rcx, [rip + start + DATA + RAM]
	add	rcx, rdx
	sub	rax, [rcx]
	cmp	rax, [rcx + 8]
	jb	76f
	add	rax, [rcx]
	add	edx, 16
	cmp	edx, 16 * RAM_COUNT
	jb	75b
	pop	rdx
	pop	rcx
	clc
	ret
76:	add	rax, [rcx]
	pop	rdx
	pop	rcx
	stc
	ret
.endm

# The routine that asks the nested tables. In: RSI = a physical address, ECX = 0 for a read. Out: CF
# where they do not lead there. RBP and R8 are lost.
.macro ways_through
reaches:
	control	mov, r8, C_NESTED
.irp shift, 39, 30, 21, 12
	mov	rbp, rsi
	shr	rbp, \shift
	and	ebp, 511
	mov	r8, [r8 + rbp * 8]
	test	r8b, 1				# present
	jz	78f
.if \shift < 39 && \shift > 12
	test	r8b, 0x80			# a large page
	jnz	77f
.endif
.if \shift > 12
	control	and, r8, C_ADDRESS
.endif
.endr
77:	test	ecx, ecx
	jz	79f
	test	r8b, 2				# writable
	jnz	79f
78:	stc
79:	ret
.endm
