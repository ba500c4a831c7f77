# Ports.

io:	# Where PCI configuration is written to, a device may move.
	mov	eax, r12d
	shr	eax, 16
	and	eax, ~3
	cmp	eax, 0xcfc
	jne	1f
	test	r12b, 1
	jnz	1f
	lock or	byte ptr [rip + start + DATA + C_SITES], MOVED
1:	cmp	qword ptr [rip + start + DATA + M_PORTS], 0
	je	unrecorded
	mov	edx, r12d
	shr	edx, 16
	call	flagged
	call	begin
	mov	dword ptr [r13 + R_SITE], K_PORT
	mov	eax, r12d
	shr	eax, 4
	and	eax, 7
	mov	[r13 + R_MANNER], al
	mov	edx, r12d
	shr	edx, 16
	mov	[r13 + R_ADDRESS], rdx
	test	r12b, 4
	jnz	string
	mov	rcx, [r15 + V_INFO2]
	sub	rcx, [r15 + V_RIP]
	mov	rax, [r15 + V_RAX]
	test	r12b, 1
	jnz	in_
	mov	byte ptr [r13 + R_MANNER + 1], 1
	call	out_told
	if_asked	ask
	jc	1f
	call	commit
	mov	rax, [r15 + V_RAX]
	cmp	qword ptr [r15 + STATE + S_ASKING], 0
	je	2f
	mov	eax, [r13 + R_VALUE]
2:	call	out_made
1:	if_asked	made
	call	end
	jmp	8f
in_:	if_asked	ask
	jc	1f
	call	in_made
	call	in_told
1:	if_asked	made
	mov	rax, [r15 + V_RAX]
	call	in_taken
	mov	[r15 + V_RAX], rax
	call	commit
	call	end
8:	mov	rcx, [r15 + V_INFO2]
	mov	[r15 + V_RIP], rcx
	# Where a device has moved to, pages may have been RAM, which nothing faults at yet: that is
	# looked at before the guest goes on.
	mov	eax, r12d
	shr	eax, 16
	and	eax, ~3
	cmp	eax, 0xcfc
	jne	behind_it
	test	r12b, 1
	jnz	behind_it
	mov	rax, [rip + start + DATA + M_LOOK_AT]
	test	rax, rax
	jz	behind_it
	mov	rax, [rax]
looked:	jmp	behind_it

# No ports are recorded.
unrecorded:
	mov	edx, r12d
	shr	edx, 16
	lea	r13, [r15 + STATE + S_SCRATCH]
	xor	ebp, ebp
	test	r12b, 4
	jz	1f
	call	describe
	mov	eax, r12d
	shr	eax, 4
	and	eax, 7
	mov	[r13 + R_MANNER], al
	mov	[r13 + R_ADDRESS], rdx
	jmp	string
1:	mov	rax, [r15 + V_RAX]
	test	r12b, 1
	jnz	1f
	call	out_made
	jmp	8b
1:	call	in_made
	mov	[r15 + V_RAX], rax
	jmp	8b

# In: RAX, whose low bytes go to the port in EDX.
out_made:
	test	r12b, 0x10
	jz	1f
	out	dx, al
	ret
1:	test	r12b, 0x20
	jz	1f
	out	dx, ax
	ret
1:	out	dx, eax
	ret
# In and out: RAX, whose low bytes come from the port in EDX.
in_made:
	test	r12b, 0x10
	jz	1f
	in	al, dx
	ret
1:	test	r12b, 0x20
	jz	1f
	in	ax, dx
	ret
1:	in	eax, dx
	ret
# In and out: RAX, whose low bytes are what was read.
in_taken:
	test	r12b, 0x10
	jz	1f
	mov	al, [r13 + R_VALUE]
	ret
1:	test	r12b, 0x20
	jz	1f
	mov	ax, [r13 + R_VALUE]
	ret
1:	mov	eax, [r13 + R_VALUE]
	ret
out_told:
in_told:
	test	r12b, 0x10
	jz	1f
	mov	[r13 + R_VALUE], al
	ret
1:	test	r12b, 0x20
	jz	1f
	mov	[r13 + R_VALUE], ax
	ret
1:	mov	[r13 + R_VALUE], eax
	ret
