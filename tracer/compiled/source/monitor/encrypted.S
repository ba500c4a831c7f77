# An encrypted guest.

# In a guest of SEV-ES an instruction that the host intercepts raises #VC, whose error code is the
# exit code (APM vol. 2, 15.35.5). The guest's handler decodes it, puts what it asks for into the
# GHCB, and calls by VMGEXIT, which is REP VMMCALL: that is carried out here, as far as it is hot.

# Offsets in a GHCB (GHCB specification 2.03, table 3), and bits of the bytes that say what is valid.
.set H_RAX, 0x1f8
.set H_RCX, 0x308
.set H_RDX, 0x310
.set H_RBX, 0x318
.set H_CODE, 0x390
.set H_INFO1, 0x398
.set H_INFO2, 0x3a0
.set H_SCRATCH, 0x3a8
.set H_VALID, 0x3f0
.set H_BUFFER, 0x800
.set H_BUFFER_END, 0xff0
.set H_USAGE, 0xffc
.set VALID_RAX, 0x80			# of byte 7
.set VALID_RCX, 2			# of byte 12
.set VALID_RDX, 4
.set VALID_RBX, 8
.set VALID_EXIT, 0x1c			# of byte 14: the code, and both pieces of information
.set VALID_INFO, 0x18
.set VALID_SCRATCH, 0x20
.set VALID_XCR0, 0x20			# of byte 15

.set GIVES_RAX, 1
.set GIVES_RBX, 2
.set GIVES_RCX, 4
.set GIVES_RDX, 8
.set REP, 0xf3
.set VMGEXIT_SIZE, 4
.set ASK_CPUID, 4
.set ISSUE_EXCEPTION, 1
.set ISSUED, 0x8000030d			# #GP (APM vol. 2, 15.20)
.set SAME_PORT, 0xffff007d		# of EXITINFO1 what QEMU tells: port, width, REP, string, IN
.set STRING, 4
.set REPEATS, 8
.set XSTATE_LEAF, 0xd
.set LEFT_OFF, 0x34100			# VM, RF, NT, TF

encrypted:
	mov	qword ptr [r15 + STATE + S_ASKED], 0
	call	own
	jb	natively
	xor	ebp, ebp
	cmp	ebx, EXIT_VMMCALL
	je	call_or_not
	cmp	ebx, EXIT_MSR
	je	2f
	cmp	ebx, EXIT_IO
	je	4f
	lea	rsi, [rip + nonautomatic]
1:	movzx	eax, byte ptr [rsi]
	test	eax, eax
	jz	natively
	inc	rsi
	cmp	eax, ebx
	jne	1b
	jmp	communicate
	# Of those that the guest accesses itself, this one alone is intercepted.
2:	cmp	dword ptr [r15 + STATE + 8 * 1], MSR_EFER
	je	natively
	mov	ebp, r12d
	and	ebp, 1
	jmp	communicate
	# A string of no elements accesses nothing.
4:	mov	ebp, r12d
	not	r12d
	test	r12b, STRING | REPEATS
	not	r12d
	jnz	communicate
	cmp	qword ptr [r15 + STATE + 8 * 1], 0
	je	natively

# In: EBX = the exit code, EBP = what tells one access from another: EXITINFO1, as far as it has any.
communicate:
	mov	r14d, ebx
	mov	qword ptr [r15 + STATE + S_LEAF_NUMBER], 0
	# Handlers run with interrupts off: where they are on, none is under way.
	guest	mov, rax, S_DEPTH / 8
	cmp	byte ptr [r15 + V_CPL], 0
	jne	1f
	test	dword ptr [r15 + V_RFLAGS], IF
	jnz	1f
	cmp	eax, PENDING_COUNT
	jb	2f
1:	lock add [rip + start + DATA + N_UNASKED], rax
	xor	eax, eax
2:	mov	ecx, eax
	inc	eax
	mov	[r15 + STATE + S_DEPTH], rax
	shl	ecx, SLOT_SHIFT
	lea	r13, [r15 + STATE + S_PENDING]
	add	r13, rcx
	mov	[r13 + R_TAG], ebp
	call	describe
	call	prefixes
	lea	rbp, [rax + 2]
	# RDTSCP may come with the exit code of RDTSC (QEMU, helper_rdtscp): 0F 01 F9, and 0F 31.
	cmp	r14d, EXIT_RDTSC
	jne	3f
	mov	rdx, rsi
	call	translate
	jc	3f
	cmp	byte ptr [rax], 1
	jne	3f
	mov	r14d, EXIT_RDTSCP
3:	cmp	r14d, EXIT_RDTSCP
	jne	4f
	inc	rbp
4:	add	rbp, [r13 + R_RIP]
	cmp	r14d, EXIT_IO
	jne	5f
	mov	rbp, [r15 + V_INFO2]
	add	rbp, [r15 + V_CS_BASE]
5:	mov	[r13 + R_NEXT], rbp
	mov	[r13 + R_TAG + 4], r14d
	lock inc qword ptr [rip + start + DATA + N_RAISED]

	# QEMU knows of no error code of #VC's: the frame is made here, on the stack that the gate names
	# (APM vol. 2, 8.9).
	cmp	word ptr [r15 + V_IDT_LIMIT], 16 * VC + 15
	jb	unhandled
	mov	rdx, [r15 + V_IDT]
	add	rdx, 16 * VC
	call	translate
	jc	unhandled
	mov	r8, [rax]
	mov	r9, [rax + 8]
	mov	rax, r8
	shr	rax, 40
	and	eax, 0x9e
	cmp	eax, 0x8e			# present, an interrupt or a trap gate
	jne	unhandled
	mov	rbx, [r15 + V_RSP]
	mov	rcx, r8
	shr	rcx, 32
	and	ecx, 7
	lea	edx, [rcx * 8 + 0x1c]		# the TSS has IST 1 at 0x24, RSP 0 at 4
	jnz	1f
	mov	edx, 4
	cmp	byte ptr [r15 + V_CPL], 0
	je	2f
1:	mov	rax, r15			# TR is not switched by VMRUN
	vmsave	rax
	add	rdx, [r15 + V_TR_BASE]
	call	translate
	jc	unhandled
	mov	rbx, [rax]
2:	and	rbx, -16
	sub	rbx, 48
	mov	[r15 + STATE + S_FRAME], r14
	mov	rax, [r15 + V_RIP]
	mov	[r15 + STATE + S_FRAME + 8], rax
	movzx	eax, word ptr [r15 + V_CS]
	mov	[r15 + STATE + S_FRAME + 16], rax
	mov	rax, [r15 + V_RFLAGS]
	mov	[r15 + STATE + S_FRAME + 24], rax
	mov	rax, [r15 + V_RSP]
	mov	[r15 + STATE + S_FRAME + 32], rax
	movzx	eax, word ptr [r15 + V_SS]
	mov	[r15 + STATE + S_FRAME + 40], rax
	xor	r10d, r10d
3:	lea	rdx, [rbx + r10 * 8]
	add	r12, 8
	test	r10d, r10d
	jz	4f
	test	edx, 0xfff
	jnz	5f
4:	call	translate
	jc	unhandled
	mov	r12, rax
5:	mov	rcx, [r15 + STATE + S_FRAME + r10 * 8]
	mov	[r12], rcx
	inc	r10d
	cmp	r10d, 6
	jb	3b
	mov	[r15 + V_RSP], rbx
	mov	rcx, r8
	shr	rcx, 16
	and	ecx, 0xfffc
	mov	[r15 + V_CS], cx
	mov	word ptr [r15 + V_CS_ATTRIBUTES], 0xa9b
	mov	dword ptr [r15 + V_CS_LIMIT], -1
	mov	qword ptr [r15 + V_CS_BASE], 0
	cmp	byte ptr [r15 + V_CPL], 0
	je	6f
	mov	dword ptr [r15 + V_SS], 0	# and its attributes
	mov	byte ptr [r15 + V_CPL], 0
6:	mov	eax, LEFT_OFF | IF
	bt	r8, 40				# a trap gate
	jnc	7f
	mov	eax, LEFT_OFF
7:	not	rax
	and	[r15 + V_RFLAGS], rax
	movzx	eax, r8w
	shr	r8, 48
	shl	r8d, 16
	or	eax, r8d
	shl	r9, 32
	or	rax, r9
	mov	[r15 + V_RIP], rax
	mov	dword ptr [r15 + V_SHADOW], 0
	jmp	enter
unhandled:
	mov	ebx, r14d
	jmp	unknown

# What the host intercepts beside IOIO, MSRs and VMMCALL (Linux arch/x86/kvm/svm/svm.c, init_vmcb, and
# sev.c, sev_es_init_vmcb); the VMCB says for which of them the guest leaves.
nonautomatic:
	.byte	EXIT_READ_DR7, EXIT_WRITE_DR7, EXIT_RDTSC, EXIT_RDPMC, EXIT_CPUID, EXIT_INVD, EXIT_RDTSCP
	.byte	EXIT_WBINVD, EXIT_MONITOR, EXIT_MWAIT, 0
	.balign	4, 0xcc

call_or_not:
	mov	rdx, [r15 + V_RIP]
	add	rdx, [r15 + V_CS_BASE]
	call	translate
	jc	communicate
	cmp	byte ptr [rax], REP
	jne	communicate
	cmp	byte ptr [r15 + V_CPL], 0
	jne	to_stub
	mov	ecx, [rip + start + DATA + M_GHCB_MSR]
	rdmsr
	shl	rdx, 32
	or	rax, rdx
	jz	to_stub
	test	eax, 0xfff
	jnz	protocol
	call	is_ram
	jnc	to_stub
	mov	r8, rax
	cmp	dword ptr [r8 + H_USAGE], 0
	jne	to_stub
	mov	al, [r8 + H_VALID + 14]
	not	al
	test	al, VALID_EXIT
	jnz	to_stub
	mov	r14, [r8 + H_CODE]
	mov	rax, r14
	shr	rax, 32
	jnz	to_stub
	mov	r12, [r8 + H_INFO1]
	# Of the instructions that it may be about, it is the innermost.
	guest	mov, rcx, S_DEPTH / 8
	mov	r9d, ecx
1:	dec	r9d
	js	to_stub
	mov	eax, r9d
	shl	eax, SLOT_SHIFT
	lea	r13, [r15 + STATE + S_PENDING]
	add	r13, rax
	cmp	[r13 + R_TAG + 4], r14d
	jne	1b
	mov	[r15 + STATE + S_DEPTH], r9
	sub	ecx, r9d
	dec	ecx
	lock add [rip + start + DATA + N_UNASKED], rcx
	xor	edx, edx
	cmp	r14d, EXIT_IO
	je	8f
	cmp	r14d, EXIT_MSR
	je	4f
	mov	edx, GIVES_RAX | GIVES_RDX
	cmp	r14d, EXIT_RDTSC
	je	asked
	mov	edx, GIVES_RAX | GIVES_RDX | GIVES_RCX
	cmp	r14d, EXIT_RDTSCP
	je	asked
	cmp	r14d, EXIT_CPUID
	je	3f
	lock inc qword ptr [rip + start + DATA + N_ANSWERED]
to_stub:				# the stub takes VMGEXIT there
	mov	eax, UNDEFINED
	jmp	raise

3:	mov	edx, GIVES_RAX | GIVES_RBX | GIVES_RCX | GIVES_RDX
	test	byte ptr [r8 + H_VALID + 7], VALID_RAX
	jz	to_stub
	test	byte ptr [r8 + H_VALID + 12], VALID_RCX
	jz	to_stub
	mov	eax, [r8 + H_RAX]
	cmp	eax, [r13 + R_GPR]
	jne	to_stub
	mov	ecx, [r8 + H_RCX]
	cmp	ecx, [r13 + R_GPR + 8]
	jne	to_stub
	cmp	eax, XSTATE_LEAF
	jne	asked
	test	byte ptr [r8 + H_VALID + 15], VALID_XCR0
	jz	to_stub
	jmp	asked

4:	mov	eax, [r13 + R_TAG]
	cmp	rax, r12
	jne	to_stub
	test	byte ptr [r8 + H_VALID + 12], VALID_RCX
	jz	to_stub
	mov	eax, [r8 + H_RCX]
	cmp	eax, [r13 + R_GPR + 8]
	jne	to_stub
	mov	edx, GIVES_RAX | GIVES_RDX
	test	r12d, r12d
	jz	asked
	xor	edx, edx
	test	byte ptr [r8 + H_VALID + 7], VALID_RAX
	jz	to_stub
	test	byte ptr [r8 + H_VALID + 12], VALID_RDX
	jz	to_stub
	mov	eax, [r8 + H_RAX]
	cmp	eax, [r13 + R_GPR]
	jne	to_stub
	mov	eax, [r8 + H_RDX]
	cmp	eax, [r13 + R_GPR + 16]
	jne	to_stub
	jmp	asked

8:	mov	eax, r12d
	xor	eax, [r13 + R_TAG]
	test	eax, SAME_PORT
	jnz	to_stub
	test	r12b, STRING
	jnz	elements
	test	r12b, 1
	jz	1f
	mov	edx, GIVES_RAX
	jmp	asked
1:	test	byte ptr [r8 + H_VALID + 7], VALID_RAX
	jz	to_stub
	mov	rcx, [r8 + H_RAX]
	xor	rcx, [r13 + R_GPR]
	mov	eax, 0xff
	test	r12b, 0x10
	jnz	2f
	mov	eax, 0xffff
	test	r12b, 0x20
	jnz	2f
	mov	eax, 0xffffffff
2:	test	ecx, eax
	jnz	to_stub

# In: R8 -> the GHCB, R13 -> the instruction, EDX = what is given back, R14 = the event, R12 =
# EXITINFO1. It is carried out as if the guest did it, with the registers of the GHCB.
asked:
	lock inc qword ptr [rip + start + DATA + N_ANSWERED]
	mov	[r15 + STATE + S_GIVES], rdx
	call	keep
	mov	rax, [r8 + H_RAX]
	cmp	r14d, EXIT_IO
	jne	1f
	test	r12b, 1
	jz	1f
	xor	eax, eax
1:	mov	[r15 + V_RAX], rax
	mov	rax, [r8 + H_RCX]
	mov	[r15 + STATE + 8 * 1], rax
	mov	rax, [r8 + H_RDX]
	mov	[r15 + STATE + 8 * 2], rax
	mov	ebx, r14d
	jmp	natively

# From here on to `answered` the guest is carried out in the place of its handler. RAX is lost.
keep:	mov	[r15 + STATE + S_GHCB], r8
	mov	[r15 + STATE + S_ASKED], r13
	mov	rax, [r15 + V_RAX]
	mov	[r15 + STATE + S_SAVED], rax
	guest	mov, rax, 1
	mov	[r15 + STATE + S_SAVED + 8], rax
	guest	mov, rax, 2
	mov	[r15 + STATE + S_SAVED + 16], rax
	guest	mov, rax, 3
	mov	[r15 + STATE + S_SAVED + 24], rax
	mov	rax, [r15 + V_RIP]
	mov	[r15 + STATE + S_SAVED + 32], rax
	mov	rax, [r15 + V_RFLAGS]
	mov	[r15 + STATE + S_SAVED + 40], rax
	ret
