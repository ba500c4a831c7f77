# Strings of ports.

# INS and OUTS: one element, and again from the start while it repeats (SDM vol. 2A, INS; REP).
string:	call	prefixes
	mov	r10, rax
	# Addresses have 64, 32 or 16 bits.
	mov	r14, -1
	movzx	eax, byte ptr [r13 + R_MANNER + 2]
	cmp	al, 64
	jne	1f
	test	r9d, r9d
	jz	3f
	mov	r14d, 0xffffffff
	jmp	3f
1:	cmp	al, 32
	sete	al
	movzx	eax, al
	xor	eax, r9d
	mov	r14d, 0xffff
	jz	3f
	mov	r14d, 0xffffffff
3:	test	r12b, 8
	jz	1f
	mov	rax, [r15 + STATE + 8 * 1]
	test	rax, r14
	jz	none
1:	test	r12b, 1
	jnz	ins_
	mov	rbx, [r15 + STATE + 8 * 6]
	lea	rax, [r15 + V_DS_BASE]
	test	r8, r8
	jnz	2f
	mov	r8, rax
2:	mov	byte ptr [r13 + R_MANNER + 1], 1
	jmp	4f
ins_:	mov	rbx, [r15 + STATE + 8 * 7]
	lea	r8, [r15 + V_ES_BASE]
4:	and	rbx, r14
	# In 64-bit code FS and GS alone have a base.
	lea	rax, [r15 + STATE + S_BASE]
	cmp	r8, rax
	je	5f
	cmp	byte ptr [r13 + R_MANNER + 2], 64
	je	6f
5:	add	rbx, [r8]
6:	# Each byte has its place: an element may lie in two pages.
	movzx	r9d, byte ptr [r13 + R_MANNER]
	xor	esi, esi
1:	lea	rdx, [rbx + rsi]
	call	walk
	mov	edi, 0
	jc	string_fault
	# A device that is traced: QEMU tells of a reserved bit with P clear.
	control	mov, rcx, C_RESERVED
	mov	edi, 8
	test	[r15 + STATE + S_LEAF], rcx
	jnz	string_fault
	cmp	byte ptr [r15 + V_CPL], 3
	jne	2f
	mov	edi, 1
	test	r11b, 4
	jz	string_fault
2:	test	r12b, 1
	jz	3f
	mov	edi, 1
	test	r11b, 2
	jnz	3f
	bt	qword ptr [r15 + V_CR0], 16
	jc	string_fault
	cmp	byte ptr [r15 + V_CPL], 3
	je	string_fault
3:	# With nested traps what faults is behind it.
	test	byte ptr [r15 + V_NESTED], 1
	jz	4f
	push	rbp
	push	rsi
	mov	rsi, rax
	mov	ecx, r12d
	and	ecx, 1
	call	reaches
	pop	rsi
	pop	rbp
	jc	string_device
4:	mov	[r15 + STATE + S_PLACES + rsi * 8], rax
	inc	esi
	cmp	esi, r9d
	jb	1b
	mov	edx, [r13 + R_ADDRESS]
	test	r12b, 1
	jnz	9f
	xor	esi, esi
1:	mov	rax, [r15 + STATE + S_PLACES + rsi * 8]
	mov	al, [rax]
	mov	[r13 + R_VALUE + rsi], al
	inc	esi
	cmp	esi, r9d
	jb	1b
	if_asked	ask
	jc	1f
	xor	ecx, ecx
	call	commit
	mov	eax, [r13 + R_VALUE]
	call	out_made
1:	if_asked	made
	jmp	8f
9:	if_asked	ask
	jc	1f
	xor	eax, eax
	call	in_made
	call	in_told
1:	if_asked	made
	xor	esi, esi
1:	mov	rcx, [r15 + STATE + S_PLACES + rsi * 8]
	mov	al, [r13 + R_VALUE + rsi]
	mov	[rcx], al
	inc	esi
	cmp	esi, r9d
	jb	1b
	xor	ecx, ecx
	call	commit
8:	call	end
	# The index goes on, up or down; of the rest of a wider register 32 bits leave nothing.
	lea	rdi, [r15 + STATE + 8 * 6]
	test	r12b, 1
	jz	1f
	lea	rdi, [r15 + STATE + 8 * 7]
1:	test	dword ptr [r15 + V_RFLAGS], DF
	jz	1f
	neg	r9
1:	call	advance
	test	r12b, 8
	jz	8f
	lea	rdi, [r15 + STATE + 8 * 1]
	mov	r9, -1
	call	advance
	mov	rax, [rdi]
	test	rax, r14
	jnz	behind_it_once
8:	mov	rcx, [r15 + V_INFO2]
	mov	[r15 + V_RIP], rcx
	jmp	behind_it
behind_it_once:
	xor	ecx, ecx
	jmp	behind

# In: RDI -> a register that R9 is added to, as far as the mask in R14 goes.
advance:
	mov	rax, [rdi]
	mov	rcx, rax
	add	rcx, r9
	and	rcx, r14
	mov	rdx, r14
	not	rdx
	mov	esi, 0xffffffff
	cmp	r14, rsi
	jne	1f
	xor	edx, edx
1:	and	rax, rdx
	or	rax, rcx
	mov	[rdi], rax
	ret

# Nothing is left to do: the record is not made.
none:	call	forget
	jmp	8b

# In: RAX = a physical address at which the element lies. The guest has come to it.
string_device:
	mov	[r15 + V_INFO2], rax
	mov	dword ptr [r15 + V_DELIVERED], 0
	call	forget
	and	r12d, 1
	add	r12d, r12d			# INS writes
	jmp	nested

# In: EDI = bits P and RSVD of the error code; RDX = the linear address.
string_fault:
	cmp	byte ptr [r15 + V_CPL], 3
	jne	1f
	or	edi, 4
1:	test	r12b, 1
	jz	1f
	or	edi, 2
1:	mov	[r15 + V_CR2], rdx
	call	forget
	mov	eax, PAGE_FAULT
	mov	[r15 + V_EVENT], eax
	mov	[r15 + V_EVENT + 4], edi
	jmp	enter

# No record is made, after all.
forget:	test	rbp, rbp
	jz	1f
	mov	[rip + start + DATA + C_HEAD], rbp
1:	ret
