# The guest is entered, leaves at what is intercepted, and goes on behind it.

# In: RAX = the physical address of this vCPU's VMCB. All that the guest has is in there. RBX = what
# the time-stamp counter is to be a multiple of before the guest goes on, 0 for no such thing.
start:
	cli
	mov	r15, rax
	lea	rsp, [r15 + STATE + STACK_TOP]
	lgdt	[r15 + STATE + S_GDT]
	lidt	[r15 + STATE + S_IDT]
	mov	ecx, MSR_EFER
	rdmsr
	or	eax, SVME
	wrmsr
	mov	ecx, MSR_HSAVE
	lea	rax, [r15 + HOST]
	mov	rdx, rax
	shr	rdx, 32
	wrmsr
	test	rbx, rbx
	jz	enter
	rdtsc
	shl	rdx, 32
	or	rax, rdx
	xor	edx, edx
	div	rbx
	sub	rbx, rdx
	shr	rbx, 2				# a turn takes 4 ns where instructions are counted
	inc	rbx
1:	dec	rbx
	jnz	1b
	jmp	enter

# The instruction is done with, of ECX bytes.
behind:
	add	[r15 + V_RIP], rcx
behind_it:
	cmp	qword ptr [r15 + STATE + S_GHCB], 0
	jne	answered
	mov	dword ptr [r15 + V_SHADOW], 0
	# A guest that single-steps is told (SDM vol. 3B, 17.3.1.4).
	test	dword ptr [r15 + V_RFLAGS], TF
	jz	enter
	or	dword ptr [r15 + V_DR6], 0x4000
	mov	eax, DEBUG
	mov	[r15 + V_EVENT], rax
enter:	cmp	qword ptr [r15 + STATE + S_ASKING], 0
	jne	parting
	# The guest goes on.
going:
	# QEMU empties its TLB for each of these bits that VMRUN or the way back changes (helper_vmrun,
	# do_vmexit, cpu_x86_update_cr4). The monitor's own memory is the same with all of them.
	mov	rax, [r15 + V_CR4]
	and	eax, FLUSHING
	cmp	eax, [r15 + STATE + S_CR4]
	jne	follow
back:	guest	mov, rcx, 1
	guest	mov, rdx, 2
	guest	mov, rbx, 3
	guest	mov, rbp, 5
	guest	mov, rsi, 6
	guest	mov, rdi, 7
.irp number, 8, 9, 10, 11, 12, 13, 14
	guest	mov, r\number, \number
.endr
	mov	rax, r15
	guest	mov, r15, 15
onward:	vmrun	rax
	mov	[rax + STATE + 8 * 15], r15
	mov	r15, rax
	mov	[r15 + STATE + 8 * 1], rcx
	mov	[r15 + STATE + 8 * 2], rdx
	mov	[r15 + STATE + 8 * 3], rbx
	mov	[r15 + STATE + 8 * 5], rbp
	mov	[r15 + STATE + 8 * 6], rsi
	mov	[r15 + STATE + 8 * 7], rdi
.irp number, 8, 9, 10, 11, 12, 13, 14
	mov	[r15 + STATE + 8 * \number], r\number
.endr
	mov	qword ptr [r15 + V_EVENT], 0
	mov	qword ptr [r15 + STATE + S_ASKING], 0
	mov	rax, [r15 + V_RAX]
	mov	[r15 + STATE + 8 * 0], rax
	mov	rax, [r15 + V_RSP]
	mov	[r15 + STATE + 8 * 4], rax
	mov	ebx, [r15 + V_EXIT]
	mov	r12, [r15 + V_INFO1]
	test	byte ptr [r15 + V_INTERRUPT + 3], V_MASKING >> 24
	jnz	release
known:	cmp	ebx, EXIT_SMI
	je	smi
	cmp	qword ptr [rip + start + DATA + M_DOMAIN], 0
	jne	domain
	cmp	qword ptr [rip + start + DATA + M_GHCB_MSR], 0
	jne	encrypted
natively:
	cmp	ebx, EXIT_NESTED
	je	nested
	cmp	ebx, EXIT_IO
	je	io
	cmp	ebx, EXIT_MSR
	je	msr
	cmp	ebx, EXIT_CPUID
	je	cpuid_
	cmp	ebx, EXIT_RDTSC
	je	counter
	cmp	ebx, EXIT_RDTSCP
	je	counter
	cmp	ebx, EXIT_HLT
	je	sleep
	cmp	ebx, EXIT_INTERRUPT
	je	interrupt
	cmp	ebx, EXIT_SHUTDOWN
	je	shutdown
	cmp	ebx, EXIT_VMMCALL
	jne	1f
	cmp	byte ptr [r15 + V_CPL], 0
	jne	1f
	mov	rax, [r15 + V_RIP]
	cmp	rax, [rip + start + DATA + M_TELLER]
	je	tell
1:	lea	eax, [rbx - EXIT_VMRUN]
	cmp	eax, EXIT_SKINIT - EXIT_VMRUN
	ja	unknown
	# CPUs without SVM do not know its instructions, and the guest has been told that it has none.
	mov	eax, UNDEFINED
raise:	mov	[r15 + V_EVENT], rax
	jmp	enter

# The guest has given up: so does this vCPU. What the guest was about stays in the VMCB.
shutdown:
	mov	rax, [r15 + V_CR2]
	mov	cr2, rax
	lidt	[r15 + STATE + S_NOTHING]
	ud2

# The monitor's CR4 is the guest's, in these.
follow:	mov	[r15 + STATE + S_CR4], eax
	mov	rcx, cr4
	and	ecx, ~FLUSHING
	or	eax, ecx
	mov	cr4, rax
	jmp	back

# Who takes records sees it.
unknown:
	mov	[rip + start + DATA + M_UNKNOWN], rbx
	pause
	jmp	unknown
