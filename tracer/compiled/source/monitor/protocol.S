# What an encrypted guest asks for otherwise than by its GHCB's fields, and what it is answered.

# In: RAX = a request of the MSR protocol (GHCB specification 2.03, 2.3.1), which guests speak before
# they have a GHCB. Of CPUID it asks for a register at a time: the first has the leaf carried out, with
# a record of the instruction that has raised #VC, and the others are of the same.
protocol:
	mov	ecx, eax
	and	ecx, 0x3fffffff
	cmp	ecx, ASK_CPUID
	jne	requested
	mov	r14, rax
	shr	r14, 32
	bts	r14, 32
	cmp	r14, [r15 + STATE + S_LEAF_NUMBER]
	je	2f
	guest	mov, rcx, S_DEPTH / 8
	dec	ecx
	js	requested
	mov	r9d, ecx
	shl	ecx, SLOT_SHIFT
	lea	r13, [r15 + STATE + S_PENDING]
	add	r13, rcx
	cmp	dword ptr [r13 + R_TAG + 4], EXIT_CPUID
	jne	requested
	cmp	[r13 + R_GPR], r14d
	jne	requested
	mov	[r15 + STATE + S_DEPTH], r9
	mov	[r15 + STATE + S_LEAF_NUMBER], r14
	lea	r8, [r15 + STATE + S_PARTS - H_RAX]
	mov	rax, [r13 + R_GPR]
	mov	[r8 + H_RAX], rax
	mov	rax, [r13 + R_GPR + 8]
	mov	[r8 + H_RCX], rax
	mov	rax, [r13 + R_GPR + 16]
	mov	[r8 + H_RDX], rax
	mov	edx, GIVES_RAX | GIVES_RBX | GIVES_RCX | GIVES_RDX
	mov	r14d, EXIT_CPUID
	jmp	asked
2:	add	qword ptr [r15 + V_RIP], VMGEXIT_SIZE
	mov	dword ptr [r15 + V_SHADOW], 0
	lea	r8, [r15 + STATE + S_PARTS - H_RAX]
# In: R8 -> what a leaf has, as in a GHCB.
register:
	mov	ecx, [rip + start + DATA + M_GHCB_MSR]
	rdmsr
	inc	eax				# the response's number
	mov	edx, eax
	shr	edx, 30
	mov	edi, H_RAX
	mov	esi, H_RBX
	dec	edx
	cmove	edi, esi
	mov	esi, H_RCX
	dec	edx
	cmove	edi, esi
	mov	esi, H_RDX
	dec	edx
	cmove	edi, esi
	mov	edx, [r8 + rdi]
	wrmsr
	jmp	enter

responded:
	mov	rdx, rax
	shr	rdx, 32
	mov	ecx, [rip + start + DATA + M_GHCB_MSR]
	wrmsr
	mov	ecx, VMGEXIT_SIZE
	jmp	behind

# INS and OUTS: as many elements as the handler asks for, in the GHCB's buffer, each with a record.
elements:
	test	byte ptr [r8 + H_VALID + 14], VALID_SCRATCH
	jz	to_stub
	mov	rbx, [r8 + H_SCRATCH]
	mov	r9, rbx
	sub	r9, r8
	cmp	r9, H_BUFFER
	jb	to_stub
	cmp	r9, H_BUFFER_END
	ja	to_stub
	mov	r10, [r8 + H_INFO2]
	mov	ecx, 1
	test	r12b, REPEATS
	jz	1f
	mov	rcx, [r13 + R_GPR + 8]
1:	lea	rax, [r10 - 1]			# of none there is nothing to do
	cmp	rax, rcx
	jae	to_stub
	cmp	r10, H_BUFFER_END
	ja	to_stub
	mov	ecx, r12d
	shr	ecx, 4
	and	ecx, 7
	imul	rcx, r10
	add	rcx, r9
	cmp	rcx, H_BUFFER_END
	ja	to_stub
	lock inc qword ptr [rip + start + DATA + N_ANSWERED]
	mov	qword ptr [r15 + STATE + S_GIVES], 0
	mov	[r15 + STATE + S_COUNT], r10
	call	keep
2:	call	begin
	mov	dword ptr [r13 + R_SITE], K_PORT
	mov	eax, r12d
	shr	eax, 4
	and	eax, 7
	mov	[r13 + R_MANNER], al
	mov	edx, r12d
	shr	edx, 16
	mov	[r13 + R_ADDRESS], rdx
	test	r12b, 1
	jnz	3f
	mov	byte ptr [r13 + R_MANNER + 1], 1
	mov	eax, [rbx]
	call	out_told
	call	further
	call	commit
	mov	edx, [r13 + R_ADDRESS]
	mov	eax, [rbx]
	call	out_made
	jmp	6f
3:	xor	eax, eax
	call	in_made
	call	in_told
	test	r12b, 0x10
	jz	4f
	mov	[rbx], al
	jmp	5f
4:	mov	[rbx], ax
	test	r12b, 0x20
	jnz	5f
	mov	[rbx], eax
5:	call	further
	call	commit
6:	movzx	eax, byte ptr [r13 + R_MANNER]
	add	rbx, rax
	call	end
	dec	qword ptr [r15 + STATE + S_COUNT]
	jnz	2b
	jmp	answered

# The record at R13 is of one element: the next one has the registers of the handler's next step.
# RAX, RCX and RSI are lost.
further:
	guest	mov, rsi, S_ASKED / 8
	movzx	eax, byte ptr [r13 + R_MANNER]
	test	dword ptr [rsi + R_RFLAGS], DF
	jz	1f
	neg	rax
1:	lea	rcx, [rsi + R_GPR + 8 * 6]
	test	r12b, 1
	jz	2f
	lea	rcx, [rsi + R_GPR + 8 * 7]
2:	add	[rcx], rax
	test	r12b, REPEATS
	jz	3f
	dec	qword ptr [rsi + R_GPR + 8 * 1]
	jz	3f
	mov	rax, [rsi + R_RIP]
	mov	[r13 + R_NEXT], rax
3:	ret

# In: R13 -> the record. The host has answered; the guest's handler goes on behind its VMGEXIT.
answered:
	mov	r8, [r15 + STATE + S_GHCB]
	xor	eax, eax
	mov	[r15 + STATE + S_GHCB], rax
	mov	[r8 + H_VALID], rax
	mov	[r8 + H_VALID + 8], rax
	mov	[r8 + H_INFO1], rax
	mov	[r8 + H_INFO2], rax
	mov	byte ptr [r8 + H_VALID + 14], VALID_INFO
	mov	ecx, [r15 + STATE + S_GIVES]
	cmp	byte ptr [r13 + R_MANNER + 3], 0
	je	1f
	xor	ecx, ecx
	mov	dword ptr [r8 + H_INFO1], ISSUE_EXCEPTION
	mov	dword ptr [r8 + H_INFO2], ISSUED
1:	test	ecx, GIVES_RAX
	jz	2f
	mov	rax, [r15 + V_RAX]
	mov	[r8 + H_RAX], rax
	or	byte ptr [r8 + H_VALID + 7], VALID_RAX
.macro given name, number
2:	test	ecx, GIVES_\name
	jz	2f
	guest	mov, rax, \number
	mov	[r8 + H_\name], rax
	or	byte ptr [r8 + H_VALID + 12], VALID_\name
.endm
	given	RBX, 3
	given	RCX, 1
	given	RDX, 2
2:	mov	rax, [r15 + STATE + S_SAVED]
	mov	[r15 + V_RAX], rax
	mov	rax, [r15 + STATE + S_SAVED + 8]
	mov	[r15 + STATE + 8 * 1], rax
	mov	rax, [r15 + STATE + S_SAVED + 16]
	mov	[r15 + STATE + 8 * 2], rax
	mov	rax, [r15 + STATE + S_SAVED + 24]
	mov	[r15 + STATE + 8 * 3], rax
	mov	rax, [r15 + STATE + S_SAVED + 40]
	mov	[r15 + V_RFLAGS], rax
	mov	rax, [r15 + STATE + S_SAVED + 32]
	add	rax, VMGEXIT_SIZE
	mov	[r15 + V_RIP], rax
	mov	dword ptr [r15 + V_SHADOW], 0
	lea	rax, [r15 + STATE + S_PARTS - H_RAX]
	cmp	rax, r8
	je	register
	jmp	enter
