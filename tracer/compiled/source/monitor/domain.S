# A trust domain.

# The TDX module makes a #VE of an instruction that is the host's to carry out: the guest's handler
# asks for it, and the code of the module (module.S) carries it out, once more for the monitor.
domain:	or	dword ptr [r15 + V_INTERCEPTS], SLEEPS
	mov	qword ptr [r15 + STATE + S_ASKED], 0
	guest	mov, rdx, S_OWNER / 8
	not	rdx
	movzx	edx, dx
	shl	edx, VE_SHIFT
	lea	rcx, [rip + start + DATA + VES]
	add	rdx, rcx
	call	own
	jae	1f
	# The number of the entry in FAULTS, from 1 on, that the module carries out.
	mov	rcx, [rdx + E_ASKED]
	test	ecx, ecx
	jz	natively
	mov	qword ptr [rdx + E_ASKED], 0
	dec	ecx
	and	ecx, FAULT_COUNT - 1
	shl	ecx, SLOT_SHIFT
	lea	rax, [rip + start + DATA + FAULTS]
	add	rax, rcx
	mov	[r15 + STATE + S_ASKED], rax
	jmp	natively
	# R14 = the reason, EBP = what tells one access from another; it goes by the exit code.
1:	mov	r14d, VE_IO
	mov	ebp, r12d
	shr	ebp, 16
	cmp	ebx, EXIT_IO
	je	2f
	mov	r14d, VE_HLT
	xor	ebp, ebp
	cmp	ebx, EXIT_HLT
	je	1f
	mov	r14d, VE_CPUID
	mov	ebp, [r15 + V_RAX]
	cmp	ebx, EXIT_CPUID
	jne	3f
	# The hypervisor's leaves: the module answers the others itself (TDX Module 1.5 ABI, CPUID
	# virtualization). Linux takes those that raise #VE for zeros.
	mov	eax, ebp
	shr	eax, 28
	cmp	eax, 4
	jne	natively
	jmp	1f
3:	cmp	ebx, EXIT_MSR
	jne	natively
	mov	r14d, r12d
	and	r14d, 1
	add	r14d, VE_RDMSR
	guest	mov, ebp, 1
	lea	rsi, [rip + unintercepted]
3:	mov	eax, [rsi]
	mov	ecx, [rsi + 4]
	test	ecx, ecx
	jz	1f
	add	rsi, 8
	cmp	ebp, eax
	jb	3b
	cmp	ebp, ecx
	ja	3b
	jmp	natively
	# The first handler that a kernel of Linux has knows of ports alone (tdx_early_handle_ve).
1:	mov	r10, rdx
	mov	rdx, [r15 + V_IDT]
	add	rdx, GATE
	call	translate
	mov	rdx, r10
	jc	natively
	mov	rax, [rax]
	control	cmp, rax, M_EARLY
	je	natively
2:	cmp	word ptr [r15 + V_IDT_LIMIT], GATE + 15
	jb	kept
	cmp	qword ptr [rdx + E_REASON], 0
	jne	kept			# it has not fetched the last one
	mov	r9, rdx
	# The frame will lie below RSP. A program's handler goes on to another stack: the program is
	# known by its own, and by its page tables. CPUID is all that Linux asks for there.
	mov	rax, [r15 + V_RSP]
	cmp	byte ptr [r15 + V_CPL], 0
	jne	3f
	and	rax, -16
	lea	rdx, [rax - 40]
	jmp	1f
3:	lea	r13, [r15 + STATE + S_SCRATCH]
	cmp	r14d, VE_CPUID
	jne	6f
	shr	rax, 4
	mov	edx, eax
	mov	rax, [r15 + V_CR3]
	shr	rax, 12
	shl	rax, 32
	or	rdx, rax
	btr	rdx, 63
1:
	# An entry which has the same place already is of a handler that has never asked.
	lea	rsi, [rip + start + DATA + KEYS]
	mov	ecx, FAULT_COUNT - 1
3:	cmp	[rsi + rcx * 8], rdx
	je	5f
	dec	ecx
	jns	3b
	mov	ecx, FAULT_COUNT - 1
4:	xor	eax, eax
	lock cmpxchg [rsi + rcx * 8], rdx
	je	5f
	dec	ecx
	jns	4b
	jmp	kept
5:	shl	ecx, SLOT_SHIFT
	lea	r13, [rip + start + DATA + FAULTS]
	add	r13, rcx
6:	mov	[r13 + R_TAG], ebp
	mov	[r13 + R_TAG + 4], r14d
	mov	rbx, r9
	call	describe
	call	prefixes
	mov	r9, rax
	lea	rdx, [rsi - 1]
	mov	ecx, 1
	cmp	r14d, VE_HLT
	je	2f
	mov	ecx, 2
	cmp	r14d, VE_IO
	jne	2f
	# Intel SDM vol. 3C, table 28-5, out of AMD's EXITINFO1 (APM vol. 2, 15.10.2).
	call	translate
	jc	3f
	mov	al, [rax]
	xor	edx, edx
	test	al, 8
	jnz	3f
	mov	edx, 1 << 6		# the port is in the code
	jmp	4f
3:	xor	edx, edx
4:	mov	eax, r12d
	and	eax, 0xffff0000
	or	edx, eax
	mov	eax, r12d
	shr	eax, 4
	and	eax, 7
	dec	eax
	or	edx, eax
	mov	eax, r12d
	and	eax, 1
	shl	eax, 3
	or	edx, eax
	mov	eax, r12d
	and	eax, 0xc
	shl	eax, 2
	or	edx, eax
	mov	rcx, [r15 + V_INFO2]
	sub	rcx, [r15 + V_RIP]
	jmp	3f
2:	add	rcx, r9
	xor	edx, edx
3:	mov	[rbx + E_QUALIFICATION], rdx
	mov	[rbx + E_LENGTH], rcx
	add	rcx, [r13 + R_RIP]
	mov	[r13 + R_NEXT], rcx
	xor	eax, eax
	mov	[rbx + E_GLA], rax
	mov	[rbx + E_GPA], rax
	mov	[rbx + E_REASON], r14
	mov	[r15 + V_SHADOW], eax
	lock inc qword ptr [rip + start + DATA + N_RAISED]
	mov	eax, VIRTUALIZATION
	jmp	raise
kept:	lock inc qword ptr [rip + start + DATA + N_KEPT]
	jmp	natively

# MSRs, from the first to the last, that a trust domain accesses itself, and a pair with 0 (TDX
# Module 1.5 ABI, MSR virtualization; Linux arch/x86/kvm/vmx/tdx.c, tdx_has_emulated_msr).
unintercepted:
	.long	0x10, 0x10		# TSC
	.long	0x48, 0x49		# SPEC_CTRL, PRED_CMD
	.long	0xe1, 0xe1		# UMWAIT_CONTROL
	.long	0x10a, 0x10b		# ARCH_CAPABILITIES, FLUSH_CMD
	.long	0x122, 0x122		# TSX_CTRL
	.long	0x174, 0x176		# SYSENTER_CS, ESP, EIP
	.long	0x1c4, 0x1c5		# XFD, XFD_ERR
	.long	0x1d9, 0x1d9		# DEBUGCTL
	.long	0x277, 0x277		# PAT
	.long	0x600, 0x600		# DS_AREA
	.long	0x6a0, 0x6a8		# CET
	.long	0x6e1, 0x6e1		# PKRS
	.long	0x808, 0x80b		# x2APIC: TPR, PPR, EOI
	.long	0x810, 0x827		# ISR, TMR, IRR
	.long	0x83f, 0x83f		# SELF IPI
	.long	0xda0, 0xda0		# XSS
	.long	MSR_EFER, 0xc0000084	# EFER, STAR, LSTAR, CSTAR, FMASK
	.long	MSR_FS_BASE, 0xc0000103	# FS_BASE, GS_BASE, KERNEL_GS_BASE, TSC_AUX
	.long	0, 0

# The vCPU sleeps in the guest. STI in front of it holds interrupts off until it does, which VMRUN
# does not bring back: so it begins there once more.
sleep:	and	dword ptr [r15 + V_INTERCEPTS], ~SLEEPS
shadowed:
	test	dword ptr [r15 + V_SHADOW], 1
	jz	enter
	mov	dword ptr [r15 + V_SHADOW], 0
	mov	rdx, [r15 + V_RIP]
	add	rdx, [r15 + V_CS_BASE]
	dec	rdx
	call	translate
	jc	enter
	cmp	byte ptr [rax], STI
	jne	enter
	dec	qword ptr [r15 + V_RIP]
	and	dword ptr [r15 + V_RFLAGS], ~IF
	jmp	enter
